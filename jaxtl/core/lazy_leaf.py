"""Leaves of a parameter tree that are computed where they are read.

To every function of `core.tree` such a leaf is one leaf, with a shape and a dtype; what
is stored, donated and passed to compiled programs are the arrays that it is made of.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class LazyLeaf:
    """An array as a function of others.

    Attributes:
      fixed: a tree of arrays that no step changes.
      trained: a tree of arrays that steps change; None without any.
      compute: `(fixed, trained) -> array`, pure; hashable, and equal where it computes
        the same.
      shape: of the array.
      dtype: of the array, to which what `compute` returns is cast.
    """

    fixed: PyTree
    trained: PyTree
    compute: Callable[[PyTree, PyTree], jax.Array]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def astype(self, dtype: Any) -> "LazyLeaf":
        """The same leaf, cast once it is computed."""
        return dataclasses.replace(self, dtype=np.dtype(dtype))

    def value(self) -> jax.Array:
        """The array."""
        return self.compute(self.fixed, self.trained).astype(self.dtype)

    def copy(self) -> "LazyLeaf":
        """The same leaf, of which what steps change lies in new buffers."""
        trained = jax.tree.map(lambda x: jnp.array(x, copy=True), self.trained)
        return dataclasses.replace(self, trained=trained)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value(), dtype)


jax.tree_util.register_dataclass(
    LazyLeaf, ["fixed", "trained"], ["compute", "shape", "dtype"]
)


def is_lazy(x: Any) -> bool:
    """Whether something is a leaf that is computed where it is read."""
    return isinstance(x, LazyLeaf)


def has_lazy(tree: PyTree) -> bool:
    """Whether a tree has such leaves."""
    return any(map(is_lazy, jax.tree.leaves(tree, is_leaf=is_lazy)))


def realized(tree: PyTree) -> PyTree:
    """The tree with the arrays themselves in place of such leaves."""
    return jax.tree.map(
        lambda leaf: leaf.value() if is_lazy(leaf) else leaf, tree, is_leaf=is_lazy
    )
