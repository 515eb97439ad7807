"""Stacks the trees of several runs: equal leaves once, the others along a new axis."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.types import PyTree


class IncompatibleRuns(Exception):
    """Runs whose trees differ in structure or shapes, so that no program fits all."""


class StackedLayout(NamedTuple):
    """How the trees of several replicas are divided into shared and stacked leaves.

    Attributes:
      treedef: structure of one replica's tree.
      is_shared: of each leaf, whether all replicas have the same values.
    """

    treedef: Any
    is_shared: tuple[bool, ...]

    def join(self, shared: Sequence[Any], stacked: Sequence[Any]) -> PyTree:
        """Rebuilds the tree of one replica.

        Args:
          shared: the shared leaves, in order.
          stacked: the replica's slices of the stacked leaves, in order.
        """
        shared_leaves, stacked_leaves = iter(shared), iter(stacked)
        leaves = [
            next(shared_leaves) if is_shared else next(stacked_leaves)
            for is_shared in self.is_shared
        ]
        return jax.tree.unflatten(self.treedef, leaves)


def divide(trees: Sequence[PyTree]) -> tuple[StackedLayout, list, list]:
    """Divides trees of one structure into shared and stacked leaves.

    Returns:
      (layout, shared leaves, leaves stacked along a new leading axis).

    Raises:
      IncompatibleRuns: the trees differ in structure, shapes or dtypes.
    """
    treedef, columns = _leaf_columns(trees)
    shared, stacked, is_shared = [], [], []
    for leaves in columns:
        # One object in all trees is equal to itself: its values need not be read.
        first, distinct = leaves[0], {id(leaf): leaf for leaf in leaves}.values()
        if any(x.shape != first.shape or x.dtype != first.dtype for x in distinct):
            raise IncompatibleRuns(
                f"an array is {first.shape} in one run and differs in another"
            )
        values = [np.asarray(x) for x in distinct] if len(distinct) > 1 else []
        is_shared.append(all(np.array_equal(values[0], x) for x in values[1:]))
        if is_shared[-1]:
            shared.append(first)
        else:
            stacked.append(_stack_leaves(leaves))
    return StackedLayout(treedef, tuple(is_shared)), shared, stacked


def equal(first: PyTree, second: PyTree) -> bool:
    """Whether two trees hold the same numbers, in the same order of leaves."""
    a, b = jax.tree.leaves(first), jax.tree.leaves(second)
    return len(a) == len(b) and all(
        x is y or np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b)
    )


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stacks every leaf of trees of one structure along a new leading axis.

    Raises:
      IncompatibleRuns: the trees differ in structure or shapes.
    """
    treedef, columns = _leaf_columns(trees)
    stacked = []
    for leaves in columns:
        if any(x.shape != leaves[0].shape for x in leaves):
            raise IncompatibleRuns(
                f"a state is {leaves[0].shape} in one run and differs in another"
            )
        stacked.append(_stack_leaves(leaves))
    return jax.tree.unflatten(treedef, stacked)


def _leaf_columns(trees: Sequence[PyTree]) -> tuple[Any, list[tuple]]:
    """The common structure, and for each leaf its values in all trees."""
    flat = [jax.tree.flatten(tree) for tree in trees]
    treedef = flat[0][1]
    if any(structure != treedef for _, structure in flat):
        raise IncompatibleRuns("the trees of the runs differ in structure")
    return treedef, list(zip(*(leaves for leaves, _ in flat)))


def _stack_leaves(leaves: Sequence[Any]) -> jax.Array:
    return jnp.asarray(np.stack([np.asarray(x) for x in leaves]))
