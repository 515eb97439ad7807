"""JAN: the joint kernel against a double loop over pairs of examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import JAN, mmd
from jaxtl.terms.domain.jan import joint_mmd


def _loop(source, target, gammas):
    """Gammas: a list of widths for each layer; source: [(n, d_l), …]."""

    def kernel(a, b):
        value = 1.0
        for x, y, widths in zip(a, b, gammas):
            value *= np.mean([np.exp(-np.sum((x - y) ** 2) / g) for g in widths])
        return value

    def mean(a, b):
        return np.mean([[kernel(x, y) for y in zip(*b)] for x in zip(*a)])

    return mean(source, source) + mean(target, target) - 2 * mean(source, target)


def _layers(n, seed):
    rng = np.random.default_rng(seed)
    p = np.exp(rng.normal(size=(n, 3)))
    return [rng.normal(size=(n, 4)) + seed, p / p.sum(1, keepdims=True)]


def test_the_kernels_of_all_layers_are_multiplied():
    source, target = _layers(5, 0), _layers(7, 1)
    gammas = [[0.5, 4.0], [1.68]]
    actual = joint_mmd(
        [jnp.float32(x) for x in source],
        [jnp.float32(x) for x in target],
        [{"bandwidths": tuple(g)} for g in gammas],
    )
    np.testing.assert_allclose(actual, _loop(source, target, gammas), rtol=1e-5)


def test_one_layer_is_mmd():
    source, target = _layers(6, 0), _layers(6, 1)
    a, b = jnp.float32(source[0]), jnp.float32(target[0])
    for estimator in ("biased", "unbiased", "linear"):
        actual = joint_mmd([a], [b], [{"multipliers": (1.0,)}], estimator)
        expected = mmd(a, b, multipliers=(1.0,), estimator=estimator)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_the_term_joins_features_and_predictions(bench):
    harness = bench()
    term = JAN(multipliers=(1.0, 2.0))
    term.check(harness.setup)
    value = term(View(harness.context(), "term", 0))
    layers = []
    for name in term.streams:
        x = harness.batches[name]["x"]
        out = harness.network.apply(harness.params, harness.stats, x)
        p = jax.nn.softmax(out.logits)
        layers.append([np.float64(out.features["layer1"]), np.float64(p)])
    pooled = np.concatenate([layers[0][0], layers[1][0]])
    distances = [np.sum((a - b) ** 2) for i, a in enumerate(pooled) for b in pooled[:i]]
    gammas = [[np.mean(distances), 2 * np.mean(distances)], [1.68]]
    np.testing.assert_allclose(value, _loop(*layers, gammas), rtol=1e-4)


def test_errors(bench):
    for fields, message in (
        ({"bandwidth": 0.0}, "bandwidth=0.0: expected a number above 0"),
        ({"multipliers": ()}, "multipliers="),
        ({"estimator": "lineal"}, "did you mean 'linear'"),
        ({"source": "sauce"}, "did you mean 'source'"),
    ):
        with pytest.raises(UserError, match=message):
            JAN(**fields).check(bench().setup)
    with pytest.raises(UserError, match="a term for classification"):
        JAN().check(bench("regression").setup)
