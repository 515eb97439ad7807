"""Pure functions over parameter trees: paths, splitting, merging, norms, bytes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.lazy_leaf import is_lazy

PyTree = Any


def path_str(path: Any) -> str:
    """Writes a key path as "stage/block/kernel".

    Args:
      path: key entries as jax.tree_util yields them, of dicts, attributes or sequences.

    Returns:
      The keys, names and indices, joined by slashes.
    """
    return "/".join(
        str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
    )


def flatten(tree: PyTree) -> dict[str, Any]:
    """Lists the leaves of a tree by their paths.

    Args:
      tree: any tree; None counts as no leaf, a lazy leaf as one.

    Returns:
      {path: leaf}, in the tree's own order (dicts by sorted key).
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_lazy)
    return {path_str(path): leaf for path, leaf in leaves}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Builds nested dicts from {path: leaf}: the inverse of `flatten` for dicts.

    Args:
      leaves: path with slashes -> leaf.

    Returns:
      Dicts of dicts, one level per part of a path; sequences do not come back as such.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(fn: Callable[..., Any], tree: PyTree, *more_trees: PyTree) -> PyTree:
    """Maps a function of the path and the leaves over one or several trees.

    Args:
      fn: `(path, leaf, *more_leaves) -> new leaf`, the path as `flatten` writes it.
      tree: gives the structure.
      *more_trees: of the same structure, or with subtrees where `tree` has a leaf.

    Returns:
      A tree of the first one's structure.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(path_str(path), *leaves),
        tree,
        *more_trees,
        is_leaf=is_lazy,
    )


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a tree by a tree of bools.

    Both results have the tree's structure with None in the other's places, so
    `merge(*partition(tree, mask))` is the tree again.

    Args:
      tree: any tree.
      mask: bools in the structure of `tree`.

    Returns:
      (where True, where False).
    """

    def part(keep: bool) -> PyTree:
        return jax.tree.map(
            lambda leaf, m: leaf if bool(m) == keep else None,
            tree,
            mask,
            is_leaf=is_lazy,
        )

    return part(True), part(False)


def merge(first: PyTree, second: PyTree) -> PyTree:
    """Puts together two trees of which, at each place, at most one has a leaf.

    Args:
      first: a tree, None where its leaf is in `second`.
      second: a tree of the same structure; is read where `first` has None.

    Returns:
      The tree of all leaves; None where neither has one.
    """
    return jax.tree.map(
        lambda a, b: b if a is None else a,
        first,
        second,
        is_leaf=lambda x: x is None or is_lazy(x),
    )


def sub(a: PyTree, b: PyTree) -> PyTree:
    """Subtracts one tree from another, leaf by leaf.

    Args:
      a: a tree; may have None.
      b: a tree of the same structure; may have None.

    Returns:
      a − b where both have a leaf, None elsewhere.
    """
    return jax.tree.map(
        lambda x, y: None if x is None or y is None else x - y,
        a,
        b,
        is_leaf=lambda x: x is None,
    )


def as_float32(tree: PyTree) -> PyTree:
    """Casts an array, or every leaf of a tree, to at least float32.

    Args:
      tree: of numbers or arrays; integers and bools become float32 as well.

    Returns:
      The same structure of jax arrays, float32; float64 stays float64.
    """

    def cast(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))

    return jax.tree.map(cast, tree)


def sum_squares(tree: PyTree) -> jax.Array:
    """Sums the squares of every element of a tree.

    Args:
      tree: of numbers or arrays.

    Returns:
      Σ x², a scalar in float32 (or wider), without ½; 0 for an empty tree.
    """
    leaves = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(as_float32(tree))]
    return sum(leaves, jnp.float32(0.0))


def dot(a: PyTree, b: PyTree) -> jax.Array:
    """Computes the inner product of two trees.

    Args:
      a: a tree of arrays.
      b: a tree of equal structure and shapes.

    Returns:
      Σ a·b over all elements, a scalar: within a leaf in its dtype, over leaves in
      float32 or wider; 0 for empty trees.
    """
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return sum(jax.tree.leaves(products), jnp.float32(0.0))


def norms(tree: dict[str, PyTree]) -> dict[str, float]:
    """Measures the Euclidean norm of each stage's subtree.

    Args:
      tree: stage -> subtree.

    Returns:
      {stage: √Σ x²} as Python floats, which waits for the device.
    """
    return {name: float(jnp.sqrt(sum_squares(sub))) for name, sub in tree.items()}


def nbytes(tree: PyTree) -> int:
    """Counts the bytes of all array leaves.

    Args:
      tree: any tree; leaves that are not arrays count 0, of a lazy leaf its arrays.

    Returns:
      The sum, also of arrays that occur twice.
    """
    return sum(x.nbytes for x in jax.tree.leaves(tree) if hasattr(x, "nbytes"))


def size(tree: PyTree) -> int:
    """Counts the elements of all array leaves.

    Args:
      tree: any tree; leaves that are not arrays count 0, a lazy leaf what it computes.

    Returns:
      The number of parameters, for a tree of parameters.
    """
    leaves = jax.tree.leaves(tree, is_leaf=is_lazy)
    return sum(x.size for x in leaves if hasattr(x, "size"))


def copy(tree: PyTree) -> PyTree:
    """Copies a tree into new buffers, safe to donate beside the old.

    Lazy leaves keep the arrays that no step changes.

    Args:
      tree: of arrays.

    Returns:
      The same values.
    """
    return jax.tree.map(
        lambda x: x.copy() if is_lazy(x) else jnp.array(x, copy=True),
        tree,
        is_leaf=is_lazy,
    )


def all_finite(tree: PyTree) -> jax.Array:
    """Tests that no element of a tree is NaN or infinite.

    Args:
      tree: of arrays; integers and bools are not looked at.

    Returns:
      A bool scalar on the device, True for a tree without floating-point leaves.
    """
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves] or [True]).all()


def first_not_finite(tree: PyTree) -> str | None:
    """Finds the first leaf with a NaN or an infinity; reads the values to the host.

    Args:
      tree: of jax arrays; integers and bools are not looked at.

    Returns:
      The leaf's path, None where all are finite.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        # On the host nothing has to be compiled for each shape.
        on_host = leaf.is_fully_addressable and all(
            device.platform == "cpu" for device in leaf.devices()
        )
        is_finite = np.isfinite(leaf) if on_host else jnp.isfinite(leaf)
        if not bool(is_finite.all()):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None


def nothing(tree: PyTree) -> PyTree:
    """Puts None in place of every leaf.

    Args:
      tree: any tree.

    Returns:
      A tree of the same dicts and sequences without a leaf.
    """
    return jax.tree.map(lambda _: None, tree)


def restrict(tree: PyTree, mask: PyTree) -> PyTree:
    """Keeps the leaves that a mask marks; None leaves stay None.

    Args:
      tree: any tree; may have None.
      mask: bools in the structure of `tree`.

    Returns:
      The tree with None where the mask is False.
    """
    return jax.tree.map(
        lambda m, x: x if m else None, mask, tree, is_leaf=lambda x: x is None
    )


def like(shape: PyTree, tree: PyTree) -> PyTree:
    """Puts the leaves of one tree into the structure of another, by path.

    Args:
      shape: gives the structure; its leaves are not read.
      tree: gives the leaves; leaves at paths that `shape` lacks are dropped.

    Returns:
      The structure of `shape`, None at the paths where `tree` has nothing; None itself
      where `tree` is None.
    """
    if tree is None:
        return None
    leaves = flatten(tree)
    return map_with_path(lambda path, _: leaves.get(path), shape)


def fill(tree: PyTree, default: PyTree) -> PyTree:
    """Completes a tree with the leaves of another one, by path.

    Args:
      tree: may have None, or lack paths of `default`.
      default: gives the structure, and a leaf for every path.

    Returns:
      The structure of `default` with the leaves of `tree` where it has one.
    """
    leaves = flatten(tree)
    return map_with_path(lambda path, leaf: leaves.get(path, leaf), default)
