"""Taps of dense layers: in every family their inputs give the kernels' gradients."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_rows import MODELS, filled

from jaxtl.analysis import importance
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import vectors
from jaxtl.models import (
    MLP,
    Bert,
    BiEncoder,
    TwoTowers,
    ViT,
    ZeroShotClassifier,
    foreign,
    staged,
)
from jaxtl.terms.regularizers import dense_layers

rng = np.random.default_rng(0)


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_named_by_their_leaves_are_those_that_run(name):
    model, x = MODELS[name]
    network = model.pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    out, paths = jax.eval_shape(lambda p, s: network.taps(p, s, x, {}), *shapes)
    assert set(paths) == set(dense_layers.paths(shapes[0]))
    plain = jax.eval_shape(lambda p, s: network.apply(p, s, x), *shapes)
    assert out == plain


def _case(name, **changes):
    model, x = MODELS[name]
    network = dataclasses.replace(model, **changes).pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    draw = np.random.default_rng(0)
    return (network, *trees.map_with_path(lambda p, s: filled(p, s, draw), shapes), x)


@pytest.mark.parametrize(
    ("name", "stop", "remat"),
    [
        ("cnn", None, False),
        ("bert-mean", None, True),
        ("bert-mean", "layer_0", False),
    ],
)
def test_inputs_and_gradients_at_the_outputs_make_the_kernels_gradients(
    name, stop, remat
):
    network, params, stats, x = _case(name, remat=remat)
    layers = dense_layers.paths(params)

    @jax.jit
    def both(params, v):
        outputs, inputs, pull = dense_layers.watch(
            network, params, stats, x, layers, stop
        )
        pulled = pull(v)

        def f(p):
            return vectors(network.apply(p, stats, x, stop=stop).logits)

        plain, reverse = jax.vjp(f, params)
        return outputs, inputs, pulled, plain, reverse(v)[0]

    shape = jax.eval_shape(
        lambda: vectors(network.apply(params, stats, x, stop=stop).logits)
    ).shape
    v = jnp.asarray(rng.normal(size=shape), jnp.float32)
    outputs, inputs, pulled, plain, grads = both(params, v)
    np.testing.assert_allclose(outputs, plain, rtol=1e-5, atol=1e-6)
    grads, paths = trees.flatten(grads), set(inputs)
    assert paths == set(layers) if stop is None else paths < set(layers)
    for path in paths:
        a, d = np.asarray(inputs[path]), np.asarray(pulled[path])
        kernel = np.einsum("nti,nto->io", a, d)
        np.testing.assert_allclose(kernel, grads[f"{path}/kernel"], atol=2e-5)
        if f"{path}/bias" in grads:
            np.testing.assert_allclose(
                d.sum((0, 1)), grads[f"{path}/bias"], rtol=1e-4, atol=2e-5
            )


def test_a_nudge_is_added_to_the_layer_s_output():
    network = MLP(outputs=2, widths=(3,), activation="identity").pure()
    x = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    params, stats = network.init(jax.random.key(0), x)
    nudge = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    out, inputs = network.taps(params, stats, x, {"layer1/dense": nudge})
    plain = network.apply(params, stats, x).logits
    expected = plain + nudge @ params["head"]["dense"]["kernel"]
    np.testing.assert_allclose(out.logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(inputs["layer1/dense"], x)


def test_taps_do_not_change_the_dtype_of_a_pass_in_half_precision():
    network = MLP(outputs=2, widths=(3,), dtype="bfloat16").pure()
    x = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    params, stats = network.init(jax.random.key(0), x)
    _, inputs, pull = dense_layers.watch(
        network, params, stats, x, dense_layers.paths(params)
    )
    out, raw = network.taps(params, stats, x, {"layer1/dense": jnp.zeros((4, 3))})
    assert {a.dtype for a in raw.values()} == {jnp.dtype("bfloat16")}
    np.testing.assert_array_equal(out.logits, network.apply(params, stats, x).logits)
    shown = [*inputs.values(), *pull(jnp.ones((4, 2), jnp.float32)).values()]
    assert {a.dtype for a in shown} == {jnp.dtype("float32")}


def test_a_layer_that_runs_twice_is_an_error():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, mode):
            layer = nn.Dense(x.shape[-1], name="dense")
            return layer(layer(x))

    class Model(staged.Staged):
        @property
        def stages(self):
            return ("head",)

        def setup(self):
            self.add("head", Twice())

    network, x = Model().pure(), jnp.ones((2, 3))
    params, stats = network.init(jax.random.key(0), x)
    with pytest.raises(UserError, match="'head/dense' runs twice"):
        network.taps(params, stats, x, {})


BERT = Bert(width=8, layers=1, heads=2, hidden=8, vocab=9)
TOWERS = TwoTowers(image=ViT(size=8, patch=4, width=8, layers=1, heads=2), text=BERT)


@pytest.mark.parametrize(
    "network",
    [
        foreign(lambda k, x: {}, lambda p, x: x),
        BiEncoder(encoder=BERT).pure(),
        TOWERS.pure(),
        ZeroShotClassifier(pair=TOWERS, outputs=2).pure(),
    ],
    ids=["functions", "bi-encoder", "towers", "prompts"],
)
def test_networks_of_functions_and_of_other_models_are_refused(network):
    setup = types.SimpleNamespace(program=types.SimpleNamespace(network=network))
    with pytest.raises(UserError, match=r"^terms\.x reads .* gives no access to them"):
        dense_layers.check_visible(setup, "terms.x")
    with pytest.raises(UserError, match="shows none; use --kind fisher"):
        importance.KINDS["kfac"](network, {}, {}, [], task="regression", key=None)
