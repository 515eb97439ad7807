"""CDAN: the multilinear map, its randomized form, entropy weights, what is reversed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import CDAN, adversarial, cdan


def _pair(n=4, d=5, k=3, seed=0):
    rng = np.random.default_rng(seed)
    p = np.exp(rng.normal(size=(n, k)))
    return rng.normal(size=(n, d)), p / p.sum(1, keepdims=True)


def test_the_outer_product_by_loops():
    f, g = _pair()
    actual = cdan.multilinear_map(jnp.float32(f), jnp.float32(g))
    for row in range(4):
        for i in range(5):
            for k in range(3):
                np.testing.assert_allclose(
                    actual[row, 3 * i + k], f[row, i] * g[row, k], rtol=1e-6
                )


def test_randomized_maps_keep_inner_products_in_expectation():
    f, g = _pair()
    exact = np.einsum("id,jd->ij", f, f) * (g @ g.T)
    rng = np.random.default_rng(1)
    maps = {
        "features": jnp.float32(rng.normal(size=(5, 200_000))),
        "probabilities": jnp.float32(rng.normal(size=(3, 200_000))),
    }
    z = cdan.randomized_map(jnp.float32(f), jnp.float32(g), maps)
    np.testing.assert_allclose(z @ z.T, exact, atol=0.02 * np.abs(exact).max())


def test_weights_are_between_1_for_no_idea_and_2_for_certainty():
    logits = jnp.asarray([[50.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0]])
    p = np.exp([1.0, 0.0, -1.0]) / np.exp([1.0, 0.0, -1.0]).sum()
    last = 1 + np.exp(np.sum(p * np.log(p)))
    np.testing.assert_allclose(
        cdan.entropy_weights(logits), [2.0, 1 + 1 / 3, last], rtol=1e-5
    )


def _numpy(harness, term_params, maps, weighted):
    """The term's value, in numpy."""
    parts = []
    for name, label in (("source", 1.0), ("unlabelled", 0.0)):
        out = harness.network.apply(
            harness.params, harness.stats, harness.batches[name]["x"]
        )
        f, logits = np.float64(out.features["layer1"]), np.float64(out.logits)
        g = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        if maps:
            z = (f @ np.float64(maps["features"])) * (
                g @ np.float64(maps["probabilities"])
            )
            z /= np.sqrt(z.shape[1])
        else:
            z = np.stack([np.outer(a, b).ravel() for a, b in zip(f, g)])
        for i in range(len(term_params)):
            layer = jax.tree.map(np.float64, term_params[f"layer{i}"])
            z = (np.maximum(z, 0) if i else z) @ layer["kernel"] + layer["bias"]
        p = 1 / (1 + np.exp(-z[:, 0]))
        losses = -np.log(p if label else 1 - p)
        sure = 1 + np.exp((g * np.log(g)).sum(1)) if weighted else np.ones(len(f))
        parts.append((sure * losses).sum() / sure.sum())
    return 0.5 * sum(parts)


@pytest.mark.parametrize("fields", [{}, {"entropy": False}, {"limit": 8, "size": 6}])
def test_the_value_is_numpys(bench, fields):
    harness = bench()
    term = CDAN(widths=(4,), **fields)
    term.check(harness.setup)
    term_params = term.init(jax.random.key(0), harness.setup)
    constants = term.constants(harness.setup)
    assert bool(constants) == ("limit" in fields)
    assert term_params["layer0"]["kernel"].shape[0] == (6 if constants else 8 * 3)
    description = (
        "randomized to 6" if constants else "outer product of 8 features × 3 classes"
    )
    assert description in term.describe(harness.setup)
    context = harness.context(term_params=term_params, constants=constants)
    value, extra = term(View(context, "term", 0))
    expected = _numpy(harness, term_params, constants, fields.get("entropy", True))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert 0 <= extra["accuracy"] <= 1


def test_no_gradient_comes_through_the_predictions(bench):
    harness = bench()
    term = CDAN(reversal=1.0)
    term_params = term.init(jax.random.key(0), harness.setup)

    def value(params):
        context = harness.context(params, term_params=term_params)
        return term(View(context, "term", 0))[0]

    grads = jax.grad(value)(harness.params)
    assert all(jnp.all(g == 0) for g in jax.tree.leaves(grads["head"]))
    assert any(jnp.any(g != 0) for g in jax.tree.leaves(grads["layer1"]))


def test_the_gradient_through_the_weights_is_the_authors():
    # Value and gradients of CDAN(…, entropy, coeff=0.3) in pytorch/loss.py
    # (thuml/CDAN, c904cd3), run in float64 on these arrays with a linear discriminator
    # whose input's gradient is reversed with the same 0.3. Its entropy adds 1e-5 to
    # each probability.
    f = jnp.asarray([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.9], [1.1, -0.2]])
    z = [[1.0, -1.0, 0.5], [0.2, 0.1, -0.4], [3.0, 0.0, -2.0], [-0.5, 0.5, 0.0]]
    kernel = jnp.asarray([0.3, 0.5, -0.6, -0.2, 0.1, 0.4])  # feature by feature

    def value(f, z):
        p = jax.lax.stop_gradient(jax.nn.softmax(z))
        inputs = cdan.multilinear_map(adversarial.reverse_gradient(f, 0.3), p)
        logits, weights = inputs @ kernel, cdan.entropy_weights(z, 0.3)
        halves = logits[:2], logits[2:], weights[:2], weights[2:]
        return adversarial.discriminator_loss(*halves)[0]

    out, (by_f, by_z) = jax.value_and_grad(value, (0, 1))(f, jnp.asarray(z))
    np.testing.assert_allclose(out, 0.6210490032920726, rtol=1e-5)
    expected = [
        [8.403953720896e-05, 1.258510819728e-03],
        [5.186318025257e-03, 1.348370948009e-03],
        [-1.054852477207e-02, 6.323054194542e-03],
        [-4.256867387556e-03, -4.647082087329e-03],
    ]
    np.testing.assert_allclose(by_f, expected, rtol=1e-4, atol=1e-7)
    expected = [
        [-0.003013219456, 0.002067478258, 0.000945741199],
        [-0.000690650224, -0.000259643546, 0.000950293769],
        [-0.003241259486, 0.002632839810, 0.000608419676],
        [0.001579714575, -0.002211344859, 0.000631630284],
    ]
    np.testing.assert_allclose(by_z, expected, rtol=1e-3, atol=1e-6)


def test_the_gradient_through_the_weights_moves_the_head(bench):
    harness = bench()
    term = CDAN(reversal=1.0, entropy_gradient=True)
    term_params = term.init(jax.random.key(0), harness.setup)

    def value(params):
        context = harness.context(params, term_params=term_params)
        return term(View(context, "term", 0))[0]

    grads = jax.grad(value)(harness.params)
    assert any(jnp.any(g != 0) for g in jax.tree.leaves(grads["head"]))


def test_errors(bench):
    for fields, message in (
        ({"reversal": -1.0}, "at least 0"),
        ({"widths": (0,)}, "at least 1"),
        ({"size": 0}, "size=0"),
        ({"stage": "layer2"}, "did you mean 'layer1'"),
    ):
        with pytest.raises(UserError, match=message):
            CDAN(**fields).check(bench().setup)
    with pytest.raises(UserError, match="a term for classification"):
        CDAN().check(bench("multilabel").setup)
