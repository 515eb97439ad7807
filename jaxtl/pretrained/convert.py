"""Between a library's file and our trees, by a family's table of rules."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.models.weight_layout import TRANSFORMS, Rule, WeightLayout
from jaxtl.pretrained.match import LoadRow, Weights
from jaxtl.pretrained.tensor_files import LazyTensor


def to_weights(tensors: Mapping[str, Any], layout: WeightLayout, meta=None) -> Weights:
    """Reads a file's tensors into our layout.

    Args:
      tensors: name -> array or `files.Tensor`; nothing is read yet.
      layout: the family's table.
      meta: handed on.

    Returns:
      Weights whose leaves are read and turned when asked for. A tensor that no rule
      knows stays under its own name at the top of `params`, where `match` complains
      of it unless told to ignore it; what the layout ignores is in `rows`.

    Raises:
      UserError: two tensors for one rule, or a tensor of the wrong rank.
    """
    rules = {without_prefix(rule.source, layout): rule for rule in layout.rules}
    flat, stats, unknown, names, rows = {}, {}, {}, {}, []
    for name, x in tensors.items():
        rule = rules.get(without_prefix(name, layout))
        if rule is None and any(re.fullmatch(p, name) for p in layout.ignored):
            rows.append(LoadRow("skipped", name, None, tuple(x.shape), name))
            continue
        if rule is None:
            unknown[name] = x
            continue
        if rule.path in names:
            raise UserError(
                f"both {names[rule.path]!r} and {name!r} would fill {rule.path!r}."
            )
        names[rule.path] = name
        (stats if rule.is_stat else flat)[rule.path] = _turned(x, rule, name)
    for rule in layout.rules:
        names.setdefault(rule.path, rule.source)
    params = {**trees.nested(flat), **unknown}
    return Weights(params, trees.nested(stats), dict(meta or {}), tuple(rows), names)


def without_prefix(name: str, layout: WeightLayout) -> str:
    """Returns the name without the prefixes that a file may have or lack."""
    for prefix in layout.prefixes:
        name = name.removeprefix(prefix)
    return name


def _turned(x, rule: Rule, name: str) -> LazyTensor:
    forward, _ = TRANSFORMS[rule.transform]
    try:
        # Transposes of a broadcast scalar cost nothing and tell shape and rank.
        shape = forward(np.broadcast_to(np.int8(0), x.shape)).shape
    except (ValueError, IndexError):
        raise UserError(
            f"the tensor {name!r} of shape {tuple(x.shape)} can't become {rule.path!r} "
            f"(read as {rule.transform!r})."
        ) from None
    return LazyTensor(shape, np.dtype(x.dtype), lambda: forward(np.asarray(x)))


def to_tensors(
    params: PyTree, stats: PyTree, layout: WeightLayout
) -> dict[str, np.ndarray]:
    """Writes our trees in the library's layout: the inverse of `to_weights`.

    Raises:
      UserError: leaves that no rule names, or rules without a leaf.
    """
    leaves = {**trees.flatten(params), **trees.flatten(stats)}
    rules = {rule.path: rule for rule in layout.rules}
    problems = [
        f"  - {p}{nearest(p, rules)} (no tensor of the layout)"
        for p in leaves
        if p not in rules
    ]
    problems += [
        f"  + {r.source} (its leaf {p} is missing{nearest(p, leaves)})"
        for p, r in rules.items()
        if p not in leaves
    ]
    if problems:
        lines = "\n".join(problems)
        raise UserError(f"the tree doesn't fit the layout to write:\n{lines}")
    return {
        rule.source: TRANSFORMS[rule.transform][1](np.asarray(leaves[path]))
        for path, rule in rules.items()
    }


def choose_layout(names: Iterable[str], layouts: Mapping[str, WeightLayout]) -> str:
    """Returns the name of the layout that knows the most of these tensors."""
    names, hits = list(names), {}
    for key, layout in layouts.items():
        known = {without_prefix(rule.source, layout) for rule in layout.rules}
        hits[key] = sum(without_prefix(name, layout) in known for name in names)
    best = max(hits, key=hits.get)
    if hits[best] == 0:
        shown = ", ".join(sorted(names)[:8])
        wanted = ", ".join(rule.source for rule in layouts[best].rules[:8])
        raise UserError(
            f"no tensor of the file belongs to this model (layouts: "
            f"{', '.join(layouts)}): the file has {shown}, …; expected {wanted}, …"
        )
    return best


def to_one_channel(weights: Weights, stem: str) -> Weights:
    """Makes a stem for RGB read one channel: the sum of its kernels over the colours.

    A grey image has three equal channels, so the sum computes what the RGB kernel
    computes on it (where the normalisation is the same for each channel).
    """
    *parents, last = stem.split("/")
    params = trees.map_with_path(lambda _, x: x, weights.params)
    node = params
    for parent in parents:
        node = node.get(parent, {})
    if last not in node or len(node[last].shape) != 4:
        raise UserError(f"channels=1: the weights have no image stem {stem!r}.")
    node[last] = np.asarray(node[last]).sum(2, keepdims=True)
    return dataclasses.replace(weights, params=params)


def count_statuses(rows: Iterable[LoadRow]) -> dict[str, int]:
    """Returns {status: number of tensors} of a report."""
    return dict(collections.Counter(row.status for row in rows))
