"""MCC, entropy and BNM: what they make of a batch's predictions, by loops and svd."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import BNM, MCC, EntropyMinimization
from jaxtl.terms.domain.bnm import nuclear_norm
from jaxtl.terms.domain.entropy import entropy
from jaxtl.terms.domain.mcc import class_confusion


def _softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def _entropy(p):
    return -sum(v * np.log(v) for v in p)


def _confusion(logits, temperature):
    """The paper's steps, one entry at a time."""
    p = _softmax(logits / temperature)
    batch, classes = p.shape
    sure = [1 + np.exp(-_entropy(row)) for row in p]
    w = [batch * s / sum(sure) for s in sure]
    c = np.zeros((classes, classes))
    for j in range(classes):
        for k in range(classes):
            c[j, k] = sum(w[i] * p[i, j] * p[i, k] for i in range(batch))
    total = 0.0
    for j in range(classes):
        for k in range(classes):
            if j != k:
                total += c[j, k] / sum(c[j])
    return total / classes


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_class_confusion_by_loops(temperature):
    logits = 3 * np.random.default_rng(0).normal(size=(7, 4))
    actual = class_confusion(jnp.float32(logits), temperature)
    np.testing.assert_allclose(actual, _confusion(logits, temperature), rtol=1e-5)


def test_certain_predictions_are_not_confused_whatever_their_classes():
    for labels in ([0, 1, 2, 0], [1, 1, 1, 1]):
        logits = 1e3 * jax.nn.one_hot(jnp.asarray(labels), 3)
        value, grad = jax.value_and_grad(class_confusion)(logits)
        np.testing.assert_allclose(value, 0.0, atol=1e-6)
        assert jnp.all(jnp.isfinite(grad))
    # No idea at all: rows of 1/K, of which all but the diagonal counts.
    np.testing.assert_allclose(class_confusion(jnp.zeros((5, 4))), 0.75, rtol=1e-6)


def test_no_gradient_flows_through_the_weights():
    logits = jnp.float32(np.random.default_rng(0).normal(size=(5, 3)))
    weights = 1 + np.exp([-_entropy(p) for p in _softmax(np.float64(logits))])
    weights = jnp.float32(5 * weights / weights.sum())

    def held(z):
        p = jax.nn.softmax(z)
        c = jnp.einsum("i,ij,ik->jk", weights, p, p)
        c = c / c.sum(1, keepdims=True)
        return (c.sum() - jnp.trace(c)) / 3

    actual = jax.grad(lambda z: class_confusion(z, 1.0))(logits)
    np.testing.assert_allclose(actual, jax.grad(held)(logits), atol=1e-6)


def test_entropy_and_its_limits():
    z = np.random.default_rng(0).normal(size=(6, 5))
    expected = [_entropy(p) for p in _softmax(z)]
    np.testing.assert_allclose(entropy(jnp.float32(z)), expected, rtol=1e-5)
    np.testing.assert_allclose(entropy(jnp.zeros((1, 8))), [np.log(8)], rtol=1e-6)
    sure = jnp.asarray([[1e4, 0.0]])
    assert entropy(sure)[0] == 0
    assert jnp.all(jax.grad(lambda z: entropy(z).sum())(sure) == 0)


def test_the_nuclear_norm_is_svds_with_its_gradient_u_vt():
    p = _softmax(np.random.default_rng(0).normal(size=(6, 4)))
    u, s, vt = np.linalg.svd(p, full_matrices=False)
    actual, grad = jax.value_and_grad(nuclear_norm)(jnp.float32(p))
    np.testing.assert_allclose(actual, s.sum() / 6, rtol=1e-5)
    np.testing.assert_allclose(grad, u @ vt / 6, atol=1e-5)


def test_the_nuclear_norm_of_known_batches():
    certain = jax.nn.one_hot(jnp.asarray([0, 1, 2, 0, 1, 2]), 3)
    for p, expected in (
        (certain, np.sqrt(3 / 6)),
        (jnp.full((6, 3), 1 / 3), 1 / np.sqrt(18)),
        (certain[:1], 1.0),
        (jnp.tile(certain[:1], (4, 1)), 0.5),
    ):
        value, grad = jax.value_and_grad(nuclear_norm)(p)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert jnp.all(jnp.isfinite(grad))


TERMS = [
    (MCC(), lambda z: _confusion(z, 2.5)),
    (EntropyMinimization(), lambda z: np.mean([_entropy(p) for p in _softmax(z)])),
    (BNM(), lambda z: -np.linalg.svd(_softmax(z))[1].sum() / len(z)),
]


@pytest.mark.parametrize(("term", "reference"), TERMS)
def test_terms_read_the_targets_predictions_alone(bench, term, reference):
    harness = bench()
    term.check(harness.setup)
    assert term.streams == ("unlabelled",)

    @jax.jit
    def value(params):
        result = term(View(harness.context(params), "term", 0))
        return result[0] if isinstance(result, tuple) else result

    x = harness.batches["unlabelled"]["x"]
    logits = np.float64(harness.network.apply(harness.params, harness.stats, x).logits)
    np.testing.assert_allclose(value(harness.params), reference(logits), rtol=1e-5)
    # A step down its gradient does lower it.
    grads = jax.jit(jax.grad(value))(harness.params)
    moved = jax.tree.map(lambda p, g: p - 0.05 * g, harness.params, grads)
    assert value(moved) < value(harness.params)


def test_errors(bench):
    setup = bench().setup
    with pytest.raises(UserError, match=r"temperature=0\.0: expected a number above 0"):
        MCC(temperature=0.0).check(setup)
    for cls in (MCC, BNM, EntropyMinimization):
        with pytest.raises(UserError, match="did you mean 'unlabelled'"):
            cls(target="unlabeled").check(setup)
        with pytest.raises(UserError, match=f"{cls.__name__} is a term for"):
            cls().check(bench("regression").setup)
