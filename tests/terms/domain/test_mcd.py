"""MCD: the discrepancy by loops, who raises and who lowers it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import MCD
from jaxtl.terms.domain.mcd import discrepancy


def _softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def test_the_discrepancy_by_loops():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 4))
    p, q = _softmax(a), _softmax(b)
    per_example = [sum(abs(x - y) for x, y in zip(*pq)) / 4 for pq in zip(p, q)]
    actual = discrepancy(jnp.float32(a), jnp.float32(b))
    np.testing.assert_allclose(actual, np.mean(per_example), rtol=1e-5)
    assert discrepancy(jnp.float32(a), jnp.float32(a)) == 0


def test_the_parts_are_numpys_and_the_features_gradient_alone_is_reversed(bench):
    harness = bench()
    term = MCD(reversal=0.5, widths=())
    term.check(harness.setup)
    term_params = term.init(jax.random.key(0), harness.setup)
    kernel, bias = (np.float64(term_params["layer0"][k]) for k in ("kernel", "bias"))

    def run(name):
        return harness.network.apply(
            harness.params, harness.stats, harness.batches[name]["x"]
        )

    source, target = run("source"), run("unlabelled")
    z = np.float64(source.features["layer1"]) @ kernel + bias
    y = np.asarray(harness.batches["source"]["y"])
    source_loss = -np.mean(np.log(_softmax(z)[np.arange(len(y)), y]))
    z = np.float64(target.features["layer1"]) @ kernel + bias
    p = _softmax(np.float64(target.logits))
    difference = np.mean(np.abs(p - _softmax(z)))

    def value(params, term_params, metric=None):
        context = harness.context(params, term_params=term_params)
        value, extra = term(View(context, "term", 0))
        return extra[metric] if metric else value

    actual = value(harness.params, term_params)
    np.testing.assert_allclose(actual, source_loss - difference, rtol=1e-5)
    np.testing.assert_allclose(
        value(harness.params, term_params, "agreement"),
        np.mean(p.argmax(1) == z.argmax(1)),
    )
    whole = jax.grad(value)(harness.params, term_params)

    # Against the same equation without reversal, written out here.
    def plain(params, sign):
        out = harness.network.apply(
            params, harness.stats, harness.batches["unlabelled"]["x"]
        )
        q = jax.nn.softmax(out.features["layer1"] @ jnp.float32(kernel) + bias)
        return sign * jnp.mean(jnp.abs(jax.nn.softmax(out.logits) - q))

    def second(params):
        out = harness.network.apply(
            params, harness.stats, harness.batches["source"]["x"]
        )
        log_p = jax.nn.log_softmax(out.features["layer1"] @ jnp.float32(kernel) + bias)
        return -jnp.mean(log_p[jnp.arange(len(y)), y])

    raised, lowered = (
        jax.grad(plain)(harness.params, -1.0),
        jax.grad(plain)(harness.params, 0.5),
    )
    learns = jax.grad(second)(harness.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        whole["head"],
        raised["head"],
    )
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, b + c, atol=1e-6),
        whole["layer1"],
        lowered["layer1"],
        learns["layer1"],
    )


def test_errors(bench):
    setup = bench().setup
    with pytest.raises(UserError, match="source='unlabelled': this stream has no"):
        MCD(source="unlabelled").check(setup)
    with pytest.raises(UserError, match="reversal"):
        MCD(reversal=-2.0).check(setup)
