"""L1-SP against numpy; its subgradient is the sign, and 0 at θ₀."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core import tree as trees
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import L1SP
from jaxtl.terms.regularizers.l1sp import l1sp


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_the_sum_of_absolute_differences(seed):
    rng = np.random.default_rng(seed)
    a, b = ({"x": rng.normal(size=(3, 2)), "y": rng.normal(size=4)} for _ in "ab")
    expected = sum(
        abs(float(p) - float(q)) for k in a for p, q in zip(a[k].flat, b[k].flat)
    )
    np.testing.assert_allclose(l1sp(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(l1sp(b, a), expected, rtol=1e-6)
    without = l1sp(a, {**b, "y": None})
    np.testing.assert_allclose(without, np.abs(a["x"] - b["x"]).sum(), rtol=1e-6)


def test_the_gradient_is_the_sign(bench):
    room = bench()
    # One element that has not moved.
    start = room.source.params["head"]["dense"]["kernel"]
    kernel = room.params["head"]["dense"]["kernel"].at[2, 1].set(start[2, 1])
    params = {**room.params, "head": {"dense": {"kernel": kernel}}}
    params["head"]["dense"]["bias"] = room.params["head"]["dense"]["bias"]
    grad = jax.grad(lambda p: L1SP()(View(room.context(p), "term", 0)))(params)
    for path, leaf in trees.flatten(params).items():
        gap = np.asarray(leaf) - np.asarray(trees.flatten(room.source.params)[path])
        np.testing.assert_array_equal(trees.flatten(grad)[path], np.sign(gap))
    assert grad["head"]["dense"]["kernel"][2, 1] == 0
