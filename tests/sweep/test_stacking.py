"""Stacked trees of several runs: joined, they are the trees that were divided."""

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
        lambda replicas: st.lists(
            st.lists(st.integers(0, 1), min_size=replicas, max_size=replicas),
            min_size=1,
            max_size=4,
        )
    )
)
def test_joined_replicas_are_the_trees_that_were_divided(columns):
    """Leaf i of replica k is columns[i][k]: shared where a column is constant."""
    trees = [
        {"a": [leaf(column[k]) for column in columns], "none": None}
        for k in range(len(columns[0]))
    ]
    layout, shared, stacked = stacking.divide(trees)
    assert layout.is_shared == tuple(len(set(column)) == 1 for column in columns)
    assert len(shared) + len(stacked) == len(columns)
    for k, tree in enumerate(trees):
        joined = layout.join(shared, [x[k] for x in stacked])
        assert jax.tree.structure(joined) == jax.tree.structure(tree)
        jax.tree.map(np.testing.assert_array_equal, joined, tree)


def test_a_leaf_that_is_one_object_is_not_read():
    class Unreadable:
        shape, dtype = (2,), np.float32

        def __array__(self, *_, **__):
            raise AssertionError("its values were read")

    array = Unreadable()
    layout, shared, stacked = stacking.divide([[array], [array]])
    assert layout.is_shared == (True,)
    assert shared == [array]
    assert stacked == []


def test_stacked_states_have_a_leading_axis():
    first, second = {"a": leaf(1), "b": jnp.int32(2)}, {"a": leaf(3), "b": jnp.int32(4)}
    stacked = stacking.stack([first, second])
    np.testing.assert_array_equal(stacked["a"], [[1, 1, 1], [3, 3, 3]])
    np.testing.assert_array_equal(stacked["b"], [2, 4])


@pytest.mark.parametrize("operation", [stacking.divide, stacking.stack])
@pytest.mark.parametrize(
    "tree", [{"a": leaf(1, (4,))}, {"a": leaf(1), "b": leaf(1)}, {"a": None}]
)
def test_trees_of_different_shapes_are_refused(operation, tree):
    with pytest.raises(stacking.IncompatibleRuns):
        operation([{"a": leaf(1)}, tree])


def test_leaves_of_different_dtypes_are_not_divided():
    with pytest.raises(stacking.IncompatibleRuns):
        stacking.divide([[leaf(1)], [jnp.ones(3, jnp.int32)]])


def test_trees_with_the_same_numbers_are_equal():
    assert stacking.equal({"a": leaf(1)}, {"a": np.ones(3)})
    assert not stacking.equal({"a": leaf(1)}, {"a": leaf(2)})
    assert not stacking.equal({"a": leaf(1)}, {})
