"""(IA)³ and VeRA: what scales do to a layer, by numpy; where they begin."""

import jax
import numpy as np
import pytest

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import MLP
from jaxtl.peft import IA3, VeRA

rng = np.random.default_rng(0)
NETWORK = MLP(outputs=2).pure()


def _dense(inputs, outputs):
    return {
        "kernel": rng.normal(size=(inputs, outputs)).astype("f4"),
        "bias": rng.normal(size=outputs).astype("f4"),
    }


PARAMS = {
    "layer_0": {
        "attention": {name: _dense(6, 6) for name in ("query", "key", "value")},
        "mlp": {"in": _dense(6, 9), "out": _dense(9, 6)},
        "norm": {"scale": np.ones(6, "f4"), "bias": np.zeros(6, "f4")},
    },
    "stem": {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype("f4")}},
    "head": {"dense": _dense(6, 3)},
}
CONV = {"select": "stem", "inputs": "stem"}


def filled(delta, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype("f4"), delta)


def test_factors_on_outputs_and_inputs_of_layers():
    method = IA3()
    method.check(NETWORK, PARAMS)
    delta = filled(method.init(jax.random.key(0), PARAMS))
    layer, own = method.merge(PARAMS, delta, {})["layer_0"], delta["layer_0"]
    base = PARAMS["layer_0"]
    x = rng.normal(size=(4, 6))
    for name in ("key", "value"):
        plain = x @ base["attention"][name]["kernel"] + base["attention"][name]["bias"]
        got = x @ np.asarray(layer["attention"][name]["kernel"])
        got = got + np.asarray(layer["attention"][name]["bias"])
        factors = np.asarray(own["attention"][name]["kernel"]["outputs"])
        np.testing.assert_allclose(got, plain * factors, atol=1e-5)
    h = rng.normal(size=(4, 9))
    factors = np.asarray(own["mlp"]["out"]["kernel"]["inputs"])
    got = h @ np.asarray(layer["mlp"]["out"]["kernel"]) + layer["mlp"]["out"]["bias"]
    plain = (h * factors) @ base["mlp"]["out"]["kernel"] + base["mlp"]["out"]["bias"]
    np.testing.assert_allclose(got, plain, atol=1e-5)
    assert layer["mlp"]["out"]["bias"] is base["mlp"]["out"]["bias"]
    assert layer["attention"]["query"]["kernel"] is base["attention"]["query"]["kernel"]


@pytest.mark.parametrize("inputs", ["", "stem"])
def test_factors_of_convolutions_are_of_channels(inputs):
    method = IA3(select="stem", inputs=inputs)
    delta = filled(method.init(jax.random.key(0), PARAMS))
    factors = np.asarray(next(iter(delta["stem"]["conv"]["kernel"].values())))
    merged = np.asarray(method.merge(PARAMS, delta, {})["stem"]["conv"]["kernel"])
    kernel = PARAMS["stem"]["conv"]["kernel"]
    for i in range(kernel.shape[2]):
        for o in range(kernel.shape[3]):
            factor = factors[i] if inputs else factors[o]
            np.testing.assert_allclose(
                merged[:, :, i, o], kernel[:, :, i, o] * factor, rtol=1e-6
            )


def test_what_the_merge_changes_is_what_it_says():
    method = IA3()
    delta = filled(method.init(jax.random.key(0), PARAMS))
    merged = trees.flatten(method.merge(PARAMS, delta, {}))
    changed = {p for p, x in trees.flatten(PARAMS).items() if merged[p] is not x}
    adapted = trees.flatten(method.adapted_mask(PARAMS))
    assert changed == {p for p, m in adapted.items() if m}
    assert changed == {
        "layer_0/attention/key/kernel",
        "layer_0/attention/key/bias",
        "layer_0/attention/value/kernel",
        "layer_0/attention/value/bias",
        "layer_0/mlp/out/kernel",
    }


def test_vera_by_hand_with_parts_of_the_shared_matrices():
    method = VeRA(rank=4, select="layer_0/mlp|stem")
    method.check(NETWORK, PARAMS)
    constants = method.constants(PARAMS)
    a, b = (np.asarray(constants[k], np.float64) for k in "ab")
    assert (a.shape, b.shape) == ((18, 4), (4, 9))
    delta = filled(method.init(jax.random.key(0), PARAMS))
    merged = trees.flatten(method.merge(PARAMS, delta, constants))
    for path in method.targets(PARAMS):
        weight = trees.flatten(PARAMS)[path]
        own = {k: trees.flatten(delta)[f"{path}/{k}"] for k in ("inner", "outer")}
        flat = np.asarray(weight, np.float64).reshape(-1, weight.shape[-1]).copy()
        for i in range(flat.shape[0]):
            for o in range(flat.shape[1]):
                for r in range(4):
                    part = a[i, r] * float(own["inner"][r]) * b[r, o]
                    flat[i, o] += part * float(own["outer"][o])
        np.testing.assert_allclose(
            merged[path], flat.reshape(weight.shape), atol=2e-5, rtol=1e-5
        )


def test_shared_matrices_come_of_the_seed_alone():
    one, two = (VeRA(rank=64, seed=s).constants(PARAMS) for s in (0, 1))
    again = VeRA(rank=64, seed=0).constants(jax.tree.map(np.zeros_like, PARAMS))
    np.testing.assert_array_equal(one["a"], again["a"])
    assert (one["a"] != two["a"]).any()
    # Kaiming uniform: within ±√(6 / inputs).
    bound = (6 / 6) ** 0.5
    assert 0.9 * bound < np.abs(one["a"]).max() <= bound
    bound = (6 / 64) ** 0.5
    assert 0.9 * bound < np.abs(one["b"]).max() <= bound


@pytest.mark.parametrize("method", [IA3(), IA3(**CONV), VeRA(rank=3)])
def test_they_begin_at_the_base_bit_for_bit(method):
    delta, constants = method.init(jax.random.key(0), PARAMS), method.constants(PARAMS)
    merged = trees.flatten(jax.jit(method.merge)(PARAMS, delta, constants))
    for path, x in trees.flatten(PARAMS).items():
        np.testing.assert_array_equal(merged[path], x)


def test_numbers_and_errors():
    assert config.hyperparameters(IA3()) == {}
    assert config.hyperparameters(VeRA()) == {"inner": 0.1}
    d = VeRA(rank=3, inner=0.7).init(jax.random.key(0), PARAMS)
    inner = d["layer_0"]["attention"]["query"]["kernel"]["inner"]
    np.testing.assert_allclose(inner, 0.7)
    with pytest.raises(UserError, match=r"peft.rank=0"):
        VeRA(rank=0).check(NETWORK, PARAMS)
    with pytest.raises(
        UserError, match=r"IA3 adapts kernels, and none of the selected"
    ):
        IA3(select=".*/norm").check(NETWORK, PARAMS)
    with pytest.raises(UserError, match=r"matches no parameter; did you mean 'head'"):
        VeRA(select="hed").check(NETWORK, PARAMS)
