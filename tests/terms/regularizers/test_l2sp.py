"""L2-SP: value and gradient by numpy, the paper's α and β, frozen and new leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import L2SP
from jaxtl.terms.regularizers.l2sp import l2sp


def _value(term, room):
    return lambda params: term(View(room.context(params), "term", 0))[0]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_half_the_squared_distance(seed):
    rng = np.random.default_rng(seed)
    a, b = ({"x": rng.normal(size=(3, 2)), "y": rng.normal(size=4)} for _ in "ab")
    expected = 0.5 * sum(np.sum((a[k] - b[k]) ** 2) for k in a)
    np.testing.assert_allclose(l2sp(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(l2sp(a, b), l2sp(b, a), rtol=1e-6)
    without = l2sp(a, {**b, "y": None})
    np.testing.assert_allclose(without, 0.5 * np.sum((a["x"] - b["x"]) ** 2), rtol=1e-6)
    assert l2sp(a, a) == 0


def test_the_gradient_is_the_difference(bench):
    room = bench()
    grad = trees.flatten(jax.grad(_value(L2SP(), room))(room.params))
    source = trees.flatten(room.source.params)
    for path, leaf in trees.flatten(room.params).items():
        np.testing.assert_allclose(grad[path], leaf - source[path], atol=1e-7)


def test_alpha_and_beta_of_the_paper(bench):
    # α/2 ‖w_S − w⁰_S‖² + β/2 ‖w_S̄‖², eq. 2 of the paper.
    room, alpha, beta = bench(new_head=True), 0.3, 0.05
    distance = sum(
        np.sum((np.asarray(room.params["layer1"]["dense"][k], np.float64) - w) ** 2)
        for k, w in room.source.params["layer1"]["dense"].items()
    )
    fresh = jax.tree.leaves(room.params["head"])
    head = sum(np.sum(np.asarray(w, np.float64) ** 2) for w in fresh)
    term = L2SP(weight=alpha, head=beta / alpha)
    term.check(room.setup)
    value = term.weight * _value(term, room)(room.params)
    expected = alpha / 2 * distance + beta / 2 * head
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_drift_is_the_distance_and_harmless_at_the_source(bench):
    room = bench(moved=0.0)

    def both(params):
        return L2SP()(View(room.context(params), "term", 0))

    (value, extra), grad = jax.value_and_grad(both, has_aux=True)(room.params)
    assert value == 0
    assert extra["drift"] == 0
    assert all(not np.any(g) for g in jax.tree.leaves(grad))
    room = bench()
    _, extra = both(room.params)
    gap = trees.sub(room.params, room.source.params)
    np.testing.assert_allclose(
        extra["drift"], jnp.sqrt(trees.sum_squares(gap)), rtol=1e-6
    )


def test_frozen_and_unselected_leaves_cost_nothing(bench):
    room = bench(frozen=("layer1",))
    term = L2SP(select=".*/kernel", head=1.0)
    term.check(room.setup)
    grad = jax.grad(_value(term, room))(room.params)
    assert not np.any(jax.tree.leaves(grad["layer1"])[0])
    assert not np.any(grad["head"]["dense"]["bias"])
    assert np.any(grad["head"]["dense"]["kernel"])


def test_errors(bench):
    with pytest.raises(UserError, match=r"from scratch.*give the experiment an init="):
        L2SP().check(bench(scratch=True).setup)
    with pytest.raises(UserError, match=r"no trainable parameter.*in: layer1"):
        L2SP(select="head").check(bench(new_head=True).setup)
    with pytest.raises(UserError, match=r"terms\.term\.head=-1.*at least 0"):
        L2SP(head=-1.0).check(bench().setup)
