"""Weight decay: its value by numpy, its gradient θ, what it leaves alone."""

import jax
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import WeightDecay
from jaxtl.terms.regularizers.weight_decay import weight_decay


def _value(term, room):
    return lambda params: term(View(room.context(params), "term", 0))


def test_half_the_sum_of_squares():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 2)), "b": {"c": rng.normal(size=4), "d": None}}
    expected = 0.5 * (np.sum(params["a"] ** 2) + np.sum(params["b"]["c"] ** 2))
    np.testing.assert_allclose(weight_decay(params), expected, rtol=1e-6)


def test_the_gradient_is_the_parameter(bench):
    room = bench()
    grad = jax.grad(_value(WeightDecay(), room))(room.params)
    for path, leaf in trees.flatten(room.params).items():
        np.testing.assert_allclose(trees.flatten(grad)[path], leaf, rtol=1e-6)


def test_only_selected_and_trainable_leaves_count(bench):
    room = bench(frozen=("layer1",))
    term = WeightDecay(select=".*/kernel")
    term.check(room.setup)
    kernel = np.asarray(room.params["head"]["dense"]["kernel"], np.float64)
    value, grad = jax.value_and_grad(_value(term, room))(room.params)
    np.testing.assert_allclose(value, 0.5 * np.sum(kernel**2), rtol=1e-6)
    assert not np.any(grad["layer1"]["dense"]["kernel"])
    assert not np.any(grad["head"]["dense"]["bias"])


def test_errors(bench):
    with pytest.raises(UserError, match="did you mean 'head'"):
        WeightDecay(select="heda").check(bench().setup)
    with pytest.raises(UserError, match="frozen"):
        WeightDecay(select="layer1").check(bench(frozen=("layer1",)).setup)
