"""MDD: the margin disparity by loops, and no cancellation in log(1 − σ)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import MDD, mdd


def _softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def _loop(source, source_labels, target, target_labels, margin):
    agree = [-np.log(p[y]) for p, y in zip(_softmax(source), source_labels)]
    differ = [-np.log(1 - p[y]) for p, y in zip(_softmax(target), target_labels)]
    return margin * np.mean(agree) + np.mean(differ)


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_the_disparity_by_loops(margin):
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    h = rng.integers(0, 3, 5), rng.integers(0, 3, 7)
    actual = mdd.margin_disparity(
        jnp.float32(source), h[0], jnp.float32(target), h[1], margin
    )
    np.testing.assert_allclose(
        actual, _loop(source, h[0], target, h[1], margin), rtol=1e-5
    )


def test_the_chance_of_all_others_survives_certainty():
    z = jnp.asarray([[100.0, 0.0, 0.0]])
    value, grad = jax.value_and_grad(
        lambda z: mdd.log_complement(z, jnp.asarray([0])).sum()
    )(z)
    np.testing.assert_allclose(value, np.log(2) - 100, rtol=1e-6)
    np.testing.assert_allclose(grad, [[-1.0, 0.5, 0.5]], atol=1e-6)


def test_the_value_and_no_gradient_to_the_head(bench):
    harness = bench()
    term = MDD(reversal=1.0, margin=2.0, widths=(4,))
    term.check(harness.setup)
    term_params = term.init(jax.random.key(0), harness.setup)
    rows = []
    for name in term.streams:
        x = harness.batches[name]["x"]
        out = harness.network.apply(harness.params, harness.stats, x)
        z = np.float64(out.features["layer1"])
        for i in range(2):
            layer = jax.tree.map(np.float64, term_params[f"layer{i}"])
            z = (np.maximum(z, 0) if i else z) @ layer["kernel"] + layer["bias"]
        rows += [z, np.argmax(out.logits, 1)]

    def value(params):
        return term(View(harness.context(params, term_params=term_params), "term", 0))

    (actual, extra), grads = jax.value_and_grad(value, has_aux=True)(harness.params)
    np.testing.assert_allclose(actual, _loop(*rows, 2.0), rtol=1e-5)
    agree = [np.mean(np.argmax(z, 1) == h) for z, h in (rows[:2], rows[2:])]
    np.testing.assert_allclose(
        [extra["source_agree"], extra["target_agree"]], agree, rtol=1e-6
    )
    assert all(jnp.all(g == 0) for g in jax.tree.leaves(grads["head"]))


def test_errors(bench):
    with pytest.raises(UserError, match="margin=-1"):
        MDD(margin=-1.0).check(bench().setup)
    with pytest.raises(UserError, match="a term for classification"):
        MDD().check(bench("regression").setup)
