"""Selections: path patterns over a parameter tree -> masks or labels.

A pattern is a regular expression that must match a leaf's whole path
("stage1/block0/conv1/kernel") or a whole leading part of it, at a slash:
"stem" covers "stem/conv/kernel" and not "stem2/conv/kernel".
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern covers a path: the whole of it, or a part up to a slash.

    Args:
      pattern: regular expression; "stem" covers "stem/conv/kernel", not "stem2/kernel".
      path: of a leaf, as `tree.flatten` writes it.

    Returns:
      True where it covers the path; later characters of a name count, so that "conv"
      does not cover "conv1".

    Raises:
      UserError: a pattern that is not a regular expression.
    """
    return _compiled(pattern).match(path) is not None


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(f"(?:{pattern})(?:/|$)")
    except re.error as error:
        raise UserError(
            f"the pattern {pattern!r} is not a regular expression: {error}."
        ) from None


def _fail(pattern: str, paths: list[str], what: str) -> UserError:
    # Every leading part of a path is a pattern that would match.
    parts = [p.split("/") for p in paths]
    depth = max(map(len, parts), default=0)
    heads = ["/".join(p[:n]) for n in range(1, depth + 1) for p in parts]
    hint = nearest(pattern.removesuffix("/.*"), dict.fromkeys(heads)) or "."
    shown = "\n  ".join(paths[:60]) + ("\n  …" if len(paths) > 60 else "")
    return UserError(
        f"{what}: the pattern {pattern!r} matches no parameter{hint} "
        f"The paths are:\n  {shown}"
    )


def mask(pattern: str, tree: PyTree, *, what: str = "select") -> PyTree:
    """Marks the leaves that a pattern covers.

    Args:
      pattern: regular expression on paths.
      tree: any tree; its leaves' paths are matched.
      what: the field's name, for the error message.

    Returns:
      A tree of bools of the same structure, True where the pattern covers the leaf's
      path.

    Raises:
      UserError: if nothing matches.
    """
    paths = list(trees.flatten(tree))
    if not any(matches(pattern, p) for p in paths):
        raise _fail(pattern, paths, what)
    return trees.map_with_path(lambda p, _: matches(pattern, p), tree)


def labels(
    patterns: Iterable[str] | Mapping[str, Any],
    tree: PyTree,
    *,
    what: str = "groups",
    rest: str | None = None,
) -> PyTree:
    """Labels each leaf with the first pattern that covers its path.

    Args:
      patterns: regular expressions on paths, in order.
      tree: any tree; its leaves' paths are matched.
      what: the field's name, for the error message.
      rest: label of the leaves that no pattern covers; None refuses such leaves.

    Returns:
      A tree of the same structure with a pattern, or `rest`, at each leaf.

    Raises:
      UserError: if a pattern covers no leaf at all, or a leaf has no label.
    """
    patterns = list(patterns)
    paths = list(trees.flatten(tree))
    for pattern in patterns:
        if not any(matches(pattern, p) for p in paths):
            raise _fail(pattern, paths, what)
    pattern_of = {p: first(patterns, p) or rest for p in paths}
    missing = [p for p, label in pattern_of.items() if label is None]
    if missing:
        shown = "\n  ".join(missing)
        raise UserError(
            f"{what}: no pattern of {patterns} covers these parameters (end with "
            f'".*" to cover the rest):\n  {shown}'
        )
    used = set(pattern_of.values())
    for pattern in patterns:
        if pattern not in used:
            earlier = patterns[: patterns.index(pattern)]
            raise UserError(
                f"{what}: the pattern {pattern!r} decides nothing, since every "
                f"parameter that it matches is taken by an earlier one of {earlier}; "
                "put it before them."
            )
    return trees.map_with_path(lambda p, _: pattern_of[p], tree)


def first(patterns: Iterable[str], path: str) -> str | None:
    """Finds the first pattern that covers a path.

    Args:
      patterns: regular expressions on paths, in order of precedence.
      path: of a leaf, as `tree.flatten` writes it.

    Returns:
      That pattern; None where none covers the path.
    """
    return next((p for p in patterns if matches(p, path)), None)


def keep(mask_tree: PyTree, tree: PyTree) -> PyTree:
    """Keeps the leaves of a tree that a mask marks.

    Args:
      mask_tree: a tree of bools, the structure of `tree` or a leading part of it.
      tree: a tree without None; `tree.restrict` takes one with them.

    Returns:
      The tree with None where the mask is False.
    """
    return jax.tree.map(lambda m, x: x if m else None, mask_tree, tree)
