"""Conversion between the files of other libraries and jaxtl's trees, by their rules."""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.models.weight_layout import Rule, WeightLayout, transform
from jaxtl.pretrained.match import LoadRow, Weights
from jaxtl.pretrained.tensor_files import LazyTensor


def to_weights(
    tensors: Mapping[str, Any],
    layout: WeightLayout,
    meta: Mapping[str, Any] | None = None,
) -> Weights:
    """Converts a file's tensors to jaxtl's layout.

    Args:
      tensors: name -> array or `tensor_files.LazyTensor`; nothing is read yet.
      layout: the family's rules.
      meta: becomes `Weights.meta`.

    Returns:
      Weights whose leaves are read and transformed when their values are used; a tensor
      that repeats another one is compared with it at once. A tensor without a rule
      stays under its own name at the top of `params`, where `match` reports it unless
      it is ignored; tensors that the layout ignores are in `rows`.

    Raises:
      UserError: two tensors for one rule, a tensor of the wrong rank, or one that
        differs from the one it should repeat.
    """
    rules = {without_prefix(rule.source, layout): rule for rule in layout.rules}
    tensors = _separate(tensors, layout)
    leaves, unknown, names, repeats, skipped = {}, {}, {}, {}, []
    for name, tensor in tensors.items():
        short = without_prefix(name, layout)
        rule = rules.get(short)
        if rule is None and short in layout.copies:
            repeats[name] = layout.copies[short]
        elif rule is None and (
            short in layout.duplicates or _matches(name, layout.ignored + layout.unused)
        ):
            skipped.append(name)
        elif rule is None:
            unknown[name] = tensor
        elif rule.path in names:
            raise UserError(
                f"both {names[rule.path]!r} and {name!r} would fill {rule.path!r}."
            )
        else:
            names[rule.path] = name
            leaves[rule.path] = _transformed(tensor, rule, name)
    for name, path in repeats.items():
        if path in names:
            _check_repeats(tensors, name, names[path])
            skipped.append(name)
        else:
            names[path], leaves[path] = name, tensors[name]
    stats = {rule.path for rule in layout.rules if rule.is_stat}
    params = trees.nested({p: x for p, x in leaves.items() if p not in stats})
    shapes = {name: tuple(tensors[name].shape) for name in skipped}
    return Weights(
        {**params, **unknown},
        trees.nested({p: x for p, x in leaves.items() if p in stats}),
        dict(meta or {}),
        tuple(LoadRow("skipped", n, None, shape, n) for n, shape in shapes.items()),
        {**{rule.path: rule.source for rule in layout.rules}, **names},
        left_out=tuple(name for name in skipped if _matches(name, layout.unused)),
        absent=_absent(leaves, layout),
    )


def _separate(tensors: Mapping[str, Any], layout: WeightLayout) -> dict[str, Any]:
    """The tensors, with the parts of those that join several: "name[0]", "name[1]", ….

    Raises:
      UserError: a tensor that has no such parts.
    """
    joined = {without_prefix(k, layout): n for k, n in layout.joined().items()}
    separate: dict[str, Any] = {}
    for name, tensor in tensors.items():
        number = joined.get(without_prefix(name, layout), 1)
        shape = tuple(tensor.shape)
        if number == 1:
            separate[name] = tensor
            continue
        if not shape or shape[0] % number:
            raise UserError(
                f"the tensor {name!r} of shape {shape} should join {number} equal "
                "parts along its first axis."
            )
        for i in range(number):
            read = functools.partial(_part, tensor, i, number)
            part = (shape[0] // number, *shape[1:])
            separate[f"{name}[{i}]"] = LazyTensor(part, np.dtype(tensor.dtype), read)
    return separate


def _part(tensor: Any, i: int, number: int) -> np.ndarray:
    """The i-th of so many equal parts along the first axis."""
    return np.split(np.asarray(tensor), number)[i]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the regular expressions is of the whole name."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def without_prefix(name: str, layout: WeightLayout) -> str:
    """The name as the layout has it, without the prefixes a file may have or lack."""
    for pattern, replacement in layout.renames:
        name = re.sub(pattern, replacement, name)
    for prefix in layout.prefixes:
        name = name.removeprefix(prefix)
    return name


def repeats_differ(tensors: Mapping[str, Any], layout: WeightLayout) -> bool:
    """Whether a tensor that the layout takes for a copy of another one differs from it.

    Such a file has a head of its own although its config.json ties it to the
    embeddings; transformers keeps it.
    """
    try:
        copies = {n for n in tensors if without_prefix(n, layout) in layout.copies}
        if copies:
            to_weights(tensors, layout)
    except DifferentCopy:
        return True
    return False


class DifferentCopy(UserError):
    """A tensor that differs from the one that it should repeat."""


def _check_repeats(tensors: Mapping[str, Any], name: str, source: str) -> None:
    """Raises DifferentCopy where the tensor `name` differs from `source`."""
    copy, original = tensors[name], tensors[source]
    same_shape = tuple(copy.shape) == tuple(original.shape)
    if not same_shape or not np.array_equal(np.asarray(copy), np.asarray(original)):
        raise DifferentCopy(
            f"the file's {name!r} differs from {source!r}, which the model uses in its "
            "place (tied=True): build the model with tied=False, as FromHub.model does."
        )


def _absent(leaves: Iterable[str], layout: WeightLayout) -> tuple[str, ...]:
    """The optional stages of which a file has no tensor; none if it has a head.

    A trained head would read what they compute.
    """
    stages = {path.split("/")[0] for path in leaves}
    if "head" in stages:
        return ()
    return tuple(stage for stage in layout.optional if stage not in stages)


def _transformed(tensor: Any, rule: Rule, name: str) -> LazyTensor:
    """The leaf that a tensor becomes, read when its values are used."""
    forward, _ = transform(rule.transform)
    try:
        # A broadcast scalar gives the shape without reading the tensor.
        shape = forward(np.broadcast_to(np.int8(0), tensor.shape)).shape
    except (ValueError, IndexError):
        raise UserError(
            f"the tensor {name!r} of shape {tuple(tensor.shape)} can't become "
            f"{rule.path!r} (read as {rule.transform!r})."
        ) from None
    dtype = np.dtype(tensor.dtype)
    if dtype.kind in "iub":
        raise UserError(
            f"the tensor {name!r} has dtype {dtype}, for {rule.path!r}: expected "
            "floating numbers (quantized weights are not supported)."
        )
    return LazyTensor(shape, dtype, lambda: forward(np.asarray(tensor)))


def to_tensors(
    params: PyTree, stats: PyTree, layout: WeightLayout
) -> dict[str, np.ndarray]:
    """Converts jaxtl's trees to the tensors of a layout: the inverse of `to_weights`.

    Raises:
      UserError: leaves without a rule, rules without a leaf, or a leaf of a shape that
        no tensor of its rule becomes.
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
    tensors = {
        rule.source: _inverse(leaves[path], rule) for path, rule in rules.items()
    }
    for name, number in layout.joined().items():
        parts = [tensors.pop(f"{name}[{i}]") for i in range(number)]
        tensors[name] = np.concatenate(parts)
    duplicates = layout.duplicates.items()
    return tensors | {name: np.asarray(leaves[path]) for name, path in duplicates}


def _inverse(leaf: Any, rule: Rule) -> np.ndarray:
    """The tensor that a leaf is written as."""
    try:
        return transform(rule.transform)[1](np.asarray(leaf))
    except (ValueError, IndexError):
        raise UserError(
            f"the leaf {rule.path!r} of shape {leaf.shape} can't become "
            f"{rule.source!r} (written as {rule.transform!r})."
        ) from None


def choose_layout(names: Iterable[str], layouts: Mapping[str, WeightLayout]) -> str:
    """The name of the layout with rules for the most of these tensors.

    Raises:
      UserError: no layout has a rule for any of them.
    """
    names, hits = list(names), {}
    for key, layout in layouts.items():
        sources = {
            without_prefix(rule.source, layout).partition("[")[0]
            for rule in layout.rules
        }
        hits[key] = sum(without_prefix(name, layout) in sources for name in names)
    best = max(hits, key=hits.get)
    if hits[best] == 0:
        examples = ", ".join(sorted(names)[:8])
        expected = ", ".join(rule.source for rule in layouts[best].rules[:8])
        raise UserError(
            f"no tensor of the file belongs to this model (layouts: "
            f"{', '.join(layouts)}): the file has {examples}, …; expected {expected}, …"
        )
    return best


def to_one_channel(weights: Weights, stem: str) -> Weights:
    """Converts an RGB stem to one channel: its kernels are summed over the colors.

    A gray image has three equal channels, so the sum computes the same on it as the RGB
    kernel (where the normalization is the same for each channel).

    Args:
      weights: of an image model.
      stem: path of the kernel that reads the image.

    Raises:
      UserError: there is no such kernel.
    """
    *parents, name = stem.split("/")
    params = trees.map_with_path(lambda _, x: x, weights.params)  # copies the dicts
    node = params
    for parent in parents:
        node = node.get(parent, {})
    if name not in node or len(node[name].shape) != 4:
        raise UserError(f"channels=1: the weights have no image stem {stem!r}.")
    node[name] = np.asarray(node[name]).sum(2, keepdims=True)
    return dataclasses.replace(weights, params=params)


def count_statuses(rows: Iterable[LoadRow]) -> dict[str, int]:
    """{status: number of tensors} of a report."""
    return dict(collections.Counter(row.status for row in rows))
