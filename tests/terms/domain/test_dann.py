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


def _term(room, **fields):
    term = DANN(**fields)
    term.check(room.setup)
    return term, term.init(jax.random.key(0), room.setup)


def test_value_and_accuracy_are_torchs(bench):
    torch = pytest.importorskip("torch", reason="the discriminator is held to torch's")
    room = bench()
    term, own = _term(room, widths=(6, 4))
    value, extra = term(View(room.context(term_params=own), "term", 0))
    means, hits = [], []
    for name, label in (("source", 1.0), ("unlabelled", 0.0)):
        x = room.network.apply(room.params, room.stats, room.batches[name]["x"])
        z = torch.tensor(np.asarray(x.features["layer1"]))
        for i in range(3):
            layer = own[f"layer{i}"]
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
    room = bench()
    _, own = _term(room)

    def grads(**fields):
        def total(params, own):
            context = room.context(params, term_params=own)
            return loss({"term": DANN(**fields)}, context)[0]

        return jax.grad(total, argnums=(0, 1))(room.params, own)

    plain = grads(reversal=1.0)
    for fields, model, discriminator in (
        ({"reversal": 0.25}, 0.25, 1.0),
        ({"reversal": 1.0, "weight": 3.0}, 3.0, 3.0),
        ({"reversal": -1.0}, -1.0, 1.0),  # not reversed: what plain descent would do
    ):
        for found, base, factor in zip(grads(**fields), plain, (model, discriminator)):
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(base)):
                np.testing.assert_allclose(a, factor * b, atol=1e-6)


def test_a_step_of_the_discriminator_lowers_and_one_of_the_model_raises_the_value(
    bench,
):
    room = bench()
    term, own = _term(room, reversal=1.0)

    def value(params, own):
        return term(View(room.context(params, term_params=own), "term", 0))[0]

    start = value(room.params, own)
    model, discriminator = jax.grad(value, argnums=(0, 1))(room.params, own)

    def step(tree, grad):
        return jax.tree.map(lambda x, g: x - 0.01 * g, tree, grad)

    assert value(room.params, step(own, discriminator)) < start
    assert value(step(room.params, model), own) > start


def test_the_papers_ramp_is_the_default(bench):
    room = bench()
    _, own = _term(room)

    def grad(term, step):
        def value(params):
            return term(
                View(room.context(params, term_params=own, step=step), "term", 0)
            )[0]

        return jnp.sqrt(trees.sum_squares(jax.grad(value)(room.params)))

    whole = grad(DANN(reversal=1.0), 4)
    lam = 2 / (1 + np.exp(-10 * 4 / 10)) - 1  # step 4 of 10
    np.testing.assert_allclose(grad(DANN(), 4), lam * whole, rtol=1e-5)
    assert grad(DANN(), 0) == 0
    assert DANN().reversal == schedules.Ramp()


def test_features_of_any_shape_are_flattened(bench):
    params = adversarial.perceptron_init(jax.random.key(0), (12, 5))
    assert params["layer0"]["kernel"].shape == (12, 5)
    assert params["layer1"]["kernel"].shape == (5, 1)
    room = bench()
    image = CNN(outputs=3, widths=(2, 3), units=4).pure()
    x = jnp.zeros((2, 8, 8, 1))
    p, s = image.init(jax.random.key(0), x)
    shapes = jax.eval_shape(lambda x: image.apply(p, s, x).features, x)
    program = dataclasses.replace(room.setup.program, network=image)
    setup = dataclasses.replace(room.setup, program=program, features=shapes)
    own = DANN(stage="block1").init(jax.random.key(0), setup)
    assert own["layer0"]["kernel"].shape == (4 * 4 * 2, 64)


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
