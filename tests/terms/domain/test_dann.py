"""DANN: the reversed gradient, the discriminator against torch, the schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import CNN
from jaxtl.optim import schedules
from jaxtl.terms.context import View, loss
from jaxtl.terms.domain import DANN, adversarial, reverse_gradient


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_the_gradient_comes_back_reversed(scale):
    x = jnp.asarray([1.0, -2.0, 3.0])

    @jax.jit
    def both(x, scale):
        return jax.value_and_grad(
            lambda x: jnp.sum(jnp.sin(reverse_gradient(x, scale)))
        )(x)

    value, grad = both(x, scale)
    np.testing.assert_allclose(value, np.sin(x).sum(), rtol=1e-6)
    np.testing.assert_allclose(grad, -scale * np.cos(x), rtol=1e-6)


def test_reversal_keeps_the_dtype_and_gives_the_scale_no_gradient():
    x = jnp.ones(3, jnp.bfloat16)
    grads = jax.grad(lambda x, s: reverse_gradient(x, s).sum(), argnums=(0, 1))(
        x, jnp.float32(0.5)
    )
    assert grads[0].dtype == jnp.bfloat16
    assert grads[1] == 0


def _term(harness, **fields):
    term = DANN(**fields)
    term.check(harness.setup)
    return term, term.init(jax.random.key(0), harness.setup)


def test_value_and_accuracy_are_torchs(bench):
    torch = pytest.importorskip("torch", reason="the discriminator is held to torch's")
    harness = bench()
    term, term_params = _term(harness, widths=(6, 4))
    value, extra = term(View(harness.context(term_params=term_params), "term", 0))
    means, hits = [], []
    for name, label in (("source", 1.0), ("unlabelled", 0.0)):
        x = harness.network.apply(
            harness.params, harness.stats, harness.batches[name]["x"]
        )
        z = torch.tensor(np.asarray(x.features["layer1"]))
        for i in range(3):
            layer = term_params[f"layer{i}"]
            z = torch.relu(z) if i else z
            z = torch.nn.functional.linear(
                z,
                torch.tensor(np.asarray(layer["kernel"])).T,
                torch.tensor(np.asarray(layer["bias"])),
            )
        target = torch.full_like(z, label)
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        means.append(bce(z, target).item())
        hits.append(((z > 0).float() == target).float().mean().item())
    np.testing.assert_allclose(value, np.mean(means), rtol=1e-5)
    np.testing.assert_allclose(extra["accuracy"], np.mean(hits), rtol=1e-6)


def test_weight_scales_both_gradients_and_reversal_the_models_alone(bench):
    harness = bench()
    _, term_params = _term(harness)

    def grads(**fields):
        def total(params, term_params):
            context = harness.context(params, term_params=term_params)
            return loss({"term": DANN(**fields)}, context)[0]

        return jax.grad(total, argnums=(0, 1))(harness.params, term_params)

    plain = grads(reversal=1.0)
    for fields, model, discriminator in (
        ({"reversal": 0.25}, 0.25, 1.0),
        ({"reversal": 1.0, "weight": 3.0}, 3.0, 3.0),
        ({"reversal": -1.0}, -1.0, 1.0),  # not reversed: what plain descent would do
    ):
        for actual, base, factor in zip(grads(**fields), plain, (model, discriminator)):
            for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(base)):
                np.testing.assert_allclose(a, factor * b, atol=1e-6)


def test_a_step_of_the_discriminator_lowers_and_one_of_the_model_raises_the_value(
    bench,
):
    harness = bench()
    term, term_params = _term(harness, reversal=1.0)

    def value(params, term_params):
        context = harness.context(params, term_params=term_params)
        return term(View(context, "term", 0))[0]

    start = value(harness.params, term_params)
    model, discriminator = jax.grad(value, argnums=(0, 1))(harness.params, term_params)

    def step(tree, grad):
        return jax.tree.map(lambda x, g: x - 0.01 * g, tree, grad)

    assert value(harness.params, step(term_params, discriminator)) < start
    assert value(step(harness.params, model), term_params) > start


def test_the_papers_ramp_is_the_default(bench):
    harness = bench()
    _, term_params = _term(harness)

    def grad(term, step):
        def value(params):
            context = harness.context(params, term_params=term_params, step=step)
            return term(View(context, "term", 0))[0]

        return jnp.sqrt(trees.sum_squares(jax.grad(value)(harness.params)))

    full_norm = grad(DANN(reversal=1.0), 4)
    papers = DANN(reversal=schedules.Ramp())
    for term, passed in ((papers, 4 / 10), (DANN(), 4 / 10_000)):  # step 4 of 10
        lam = 2 / (1 + np.exp(-10 * passed)) - 1
        np.testing.assert_allclose(grad(term, 4), lam * full_norm, rtol=1e-4)
        assert grad(term, 0) == 0


def test_features_of_any_shape_are_flattened(bench):
    params = adversarial.perceptron_init(jax.random.key(0), (12, 5))
    assert params["layer0"]["kernel"].shape == (12, 5)
    assert params["layer1"]["kernel"].shape == (5, 1)
    harness = bench()
    image = CNN(outputs=3, widths=(2, 3), units=4).pure()
    x = jnp.zeros((2, 8, 8, 1))
    p, s = image.init(jax.random.key(0), x)
    shapes = jax.eval_shape(lambda x: image.apply(p, s, x).features, x)
    program = dataclasses.replace(harness.setup.program, network=image)
    setup = dataclasses.replace(harness.setup, program=program, features=shapes)
    term_params = DANN(stage="block1").init(jax.random.key(0), setup)
    assert term_params["layer0"]["kernel"].shape == (4 * 4 * 2, 64)


def test_errors(bench):
    setup = bench().setup
    for fields, message in (
        ({"stage": "layer_1"}, "did you mean 'layer1'"),
        ({"target": "unlabeled"}, "did you mean 'unlabelled'"),
        ({"reversal": -1.0}, "at least 0"),
        ({"widths": (0,)}, "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            DANN(**fields).check(setup)
