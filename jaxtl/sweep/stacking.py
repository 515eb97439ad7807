"""Trees of many runs as one: what is equal once, the rest along a leading axis."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.types import PyTree


class Unlike(Exception):
    """Runs whose arrays differ in shape, or in what would have to be shared."""


class Layout(NamedTuple):
    """How a tree is divided: leaves that all lanes share, and their own."""

    treedef: Any
    shared: tuple[bool, ...]

    def join(self, shared: Sequence, own: Sequence) -> PyTree:
        """Returns the tree of one lane."""
        all_, mine = iter(shared), iter(own)
        leaves = [next(all_) if there else next(mine) for there in self.shared]
        return jax.tree.unflatten(self.treedef, leaves)


def divide(made: Sequence[PyTree]) -> tuple[Layout, list, list]:
    """Returns (layout, shared leaves, own leaves stacked) of trees of one structure.

    Raises:
      Unlike: the trees differ in structure or shapes.
    """
    flat = [jax.tree.flatten(tree) for tree in made]
    if any(treedef != flat[0][1] for _, treedef in flat):
        raise Unlike("their arrays are not of one structure")
    shared, own, where = [], [], []
    for leaves in zip(*(leaves for leaves, _ in flat)):
        first, distinct = leaves[0], {id(leaf): leaf for leaf in leaves}.values()
        if any(x.shape != first.shape or x.dtype != first.dtype for x in distinct):
            raise Unlike(f"an array is {first.shape} in one and not in another")
        values = [np.asarray(x) for x in distinct] if len(distinct) > 1 else []
        where.append(all(np.array_equal(values[0], x) for x in values[1:]))
        if where[-1]:
            shared.append(first)
        else:
            own.append(jnp.asarray(np.stack([np.asarray(x) for x in leaves])))
    return Layout(flat[0][1], tuple(where)), shared, own


def equal(one: PyTree, other: PyTree) -> bool:
    """Whether two trees hold the same numbers."""
    a, b = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(a) == len(b) and all(
        x is y or np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b)
    )


def stack(made: Sequence[PyTree]) -> PyTree:
    """Returns trees of one structure as one, with a leading axis.

    Raises:
      Unlike: the trees differ in structure or shapes.
    """
    flat = [jax.tree.flatten(tree) for tree in made]
    if any(treedef != flat[0][1] for _, treedef in flat):
        raise Unlike("their states are not of one structure")
    stacked = []
    for leaves in zip(*(leaves for leaves, _ in flat)):
        if any(x.shape != leaves[0].shape for x in leaves):
            raise Unlike(f"a state is {leaves[0].shape} in one and not in another")
        stacked.append(jnp.asarray(np.stack([np.asarray(x) for x in leaves])))
    return jax.tree.unflatten(flat[0][1], stacked)
