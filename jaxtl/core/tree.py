"""Pure functions over parameter trees: paths, splitting, merging, norms, bytes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.lazy_leaf import is_lazy

PyTree = Any


def path_str(path: Any) -> str:
    """A key path as "stage/block/kernel"."""
    return "/".join(
        str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
    )


def flatten(tree: PyTree) -> dict[str, Any]:
    """{path: leaf}, in the tree's own order; None counts as no leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_lazy)
    return {path_str(path): leaf for path, leaf in leaves}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Builds nested dicts from {path: leaf}: the inverse of `flatten` for dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(fn: Callable[..., Any], tree: PyTree, *more_trees: PyTree) -> PyTree:
    """Maps `fn(path string, leaf, ...)` over the leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(path_str(path), *leaves),
        tree,
        *more_trees,
        is_leaf=is_lazy,
    )


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a tree by a tree of bools into (where True, where False).

    Both results have the tree's structure with None in the other's places, so
    `merge(*partition(tree, mask))` is the tree again.
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
    """Puts together two trees of which, at each place, at most one has a leaf."""
    return jax.tree.map(
        lambda a, b: b if a is None else a,
        first,
        second,
        is_leaf=lambda x: x is None or is_lazy(x),
    )


def sub(a: PyTree, b: PyTree) -> PyTree:
    """A − b where both have a leaf, None elsewhere."""
    return jax.tree.map(
        lambda x, y: None if x is None or y is None else x - y,
        a,
        b,
        is_leaf=lambda x: x is None,
    )


def as_float32(tree: PyTree) -> PyTree:
    """Casts an array, or every leaf of a tree, to float32; float64 stays float64."""

    def cast(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))

    return jax.tree.map(cast, tree)


def sum_squares(tree: PyTree) -> jax.Array:
    """Σ of the squares of every element, in float32 (or wider)."""
    leaves = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(as_float32(tree))]
    return sum(leaves, jnp.float32(0.0))


def dot(a: PyTree, b: PyTree) -> jax.Array:
    """The inner product of two trees of equal structure."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return sum(jax.tree.leaves(products), jnp.float32(0.0))


def norms(tree: dict[str, PyTree]) -> dict[str, float]:
    """{stage: Euclidean norm of its subtree} as Python floats."""
    return {name: float(jnp.sqrt(sum_squares(sub))) for name, sub in tree.items()}


def nbytes(tree: PyTree) -> int:
    """The bytes of all array leaves."""
    return sum(x.nbytes for x in jax.tree.leaves(tree) if hasattr(x, "nbytes"))


def size(tree: PyTree) -> int:
    """The number of elements of all array leaves."""
    leaves = jax.tree.leaves(tree, is_leaf=is_lazy)
    return sum(x.size for x in leaves if hasattr(x, "size"))


def copy(tree: PyTree) -> PyTree:
    """The tree in new buffers, safe to donate beside the old.

    Lazy leaves keep the arrays that no step changes.
    """
    return jax.tree.map(
        lambda x: x.copy() if is_lazy(x) else jnp.array(x, copy=True),
        tree,
        is_leaf=is_lazy,
    )


def all_finite(tree: PyTree) -> jax.Array:
    """A bool scalar: no inexact leaf has a NaN or an infinity."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves] or [True]).all()


def first_not_finite(tree: PyTree) -> str | None:
    """The path of the first leaf with a NaN or an infinity, None without one."""
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
    """The tree with None in place of every leaf."""
    return jax.tree.map(lambda _: None, tree)


def restrict(tree: PyTree, mask: PyTree) -> PyTree:
    """The tree with None where the mask is False; None leaves stay None."""
    return jax.tree.map(
        lambda m, x: x if m else None, mask, tree, is_leaf=lambda x: x is None
    )


def like(shape: PyTree, tree: PyTree) -> PyTree:
    """The first tree's structure with the second's leaves, None where it has
    none; None itself for no tree at all."""
    if tree is None:
        return None
    leaves = flatten(tree)
    return map_with_path(lambda path, _: leaves.get(path), shape)


def fill(tree: PyTree, default: PyTree) -> PyTree:
    """The tree with the default's leaf wherever it has None or nothing."""
    leaves = flatten(tree)
    return map_with_path(lambda path, leaf: leaves.get(path, leaf), default)
