"""Trees of many runs as one: joined, they are what they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.sweep import stacking


def leaf(value, shape=(3,)):
    return jnp.full(shape, value, jnp.float32)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda lanes: st.lists(
            st.lists(st.integers(0, 1), min_size=lanes, max_size=lanes),
            min_size=1,
            max_size=4,
        )
    )
)
def test_lanes_joined_are_the_trees_divided(columns):
    """Leaf i of lane k is columns[i][k]: shared where a column is constant."""
    made = [
        {"a": [leaf(column[k]) for column in columns], "none": None}
        for k in range(len(columns[0]))
    ]
    layout, shared, own = stacking.divide(made)
    assert layout.shared == tuple(len(set(column)) == 1 for column in columns)
    assert len(shared) + len(own) == len(columns)
    for k, tree in enumerate(made):
        joined = layout.join(shared, [x[k] for x in own])
        assert jax.tree.structure(joined) == jax.tree.structure(tree)
        jax.tree.map(np.testing.assert_array_equal, joined, tree)


def test_what_is_one_object_is_not_compared():
    class Watched:
        shape, dtype = (2,), np.float32

        def __array__(self, *_, **__):
            raise AssertionError("it was read")

    one = Watched()
    layout, shared, own = stacking.divide([[one], [one]])
    assert layout.shared == (True,)
    assert shared == [one]
    assert own == []


def test_stacked_states_have_a_leading_axis():
    one, other = {"a": leaf(1), "b": jnp.int32(2)}, {"a": leaf(3), "b": jnp.int32(4)}
    found = stacking.stack([one, other])
    np.testing.assert_array_equal(found["a"], [[1, 1, 1], [3, 3, 3]])
    np.testing.assert_array_equal(found["b"], [2, 4])


@pytest.mark.parametrize("how", [stacking.divide, stacking.stack])
@pytest.mark.parametrize(
    "other", [{"a": leaf(1, (4,))}, {"a": leaf(1), "b": leaf(1)}, {"a": None}]
)
def test_unlike_trees_are_told(how, other):
    with pytest.raises(stacking.Unlike):
        how([{"a": leaf(1)}, other])


def test_other_kinds_of_numbers_are_unlike():
    with pytest.raises(stacking.Unlike):
        stacking.divide([[leaf(1)], [jnp.ones(3, jnp.int32)]])


def test_equal_trees():
    assert stacking.equal({"a": leaf(1)}, {"a": np.ones(3)})
    assert not stacking.equal({"a": leaf(1)}, {"a": leaf(2)})
    assert not stacking.equal({"a": leaf(1)}, {})
