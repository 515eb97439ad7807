"""Leaves that reparametrizations adapt: which they are, their shapes, nested dicts."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxtl.core.types import PyTree

# How libraries name a layer's weights, and the bias beside them.
MATRIX_NAMES = {"kernel": "bias", "weight": "bias", "w": "b", "embedding": ""}


def subtree(tree: PyTree, path: str) -> PyTree:
    """The subtree at a path of nested dicts, None where there is none.

    Args:
      tree: nested dicts.
      path: names with slashes between them.

    Returns:
      The dict or leaf there.
    """
    for name in path.split("/"):
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def add_leaves(tree: PyTree, extra: PyTree) -> PyTree:
    """Nested dicts with the leaves of both; those of `tree` stay the same objects.

    Args:
      tree: nested dicts, which are not changed.
      extra: nested dicts of further leaves; where both have a leaf this one counts.

    Returns:
      New dicts, as deep as `extra`.
    """
    if not isinstance(extra, Mapping):
        return extra
    subtrees = {name: add_leaves(tree.get(name, {}), x) for name, x in extra.items()}
    return {**tree, **subtrees}


def is_matrix(path: str, leaf: Any) -> bool:
    """Whether a leaf holds the weights of a layer, as opposed to a vector.

    Its name does not matter, with two exceptions: a kernel by name is one even if it
    has a single input or output; a bias, of (heads, width) say, and a table of
    positions are none.

    Args:
      path: of the leaf; its last name counts.
      leaf: an array, or its shape and dtype.

    Returns:
      True for two or more axes that are longer than 1, but for these exceptions.
    """
    name = path.rpartition("/")[2]
    if name in ("position", "bias") or len(leaf.shape) < 2:
        return False
    return name in MATRIX_NAMES or sum(side > 1 for side in leaf.shape) >= 2


def matrix_shape(leaf: Any) -> tuple[int, int]:
    """(inputs, outputs) of a leaf as a matrix: its last axis is the outputs.

    Args:
      leaf: (..., outputs), of a convolution (rows, columns, channels, outputs).

    Returns:
      (product of all axes but the last, the last).
    """
    return math.prod(leaf.shape[:-1]), leaf.shape[-1]


def delta_dtype(dtype: Any) -> Any:
    """The dtype of δ for a leaf of this dtype: float32 or wider.

    Args:
      dtype: of the base leaf, bfloat16 say.

    Returns:
      float32, or float64 for float64.
    """
    return jnp.promote_types(dtype, jnp.float32)
