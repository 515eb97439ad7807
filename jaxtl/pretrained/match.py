"""Loads weights into a model's initial trees, strictly: nothing is left unsaid.

Every leaf of the model and every leaf of the weights ends in the table of rows or in
the one error that lists all that does not fit.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.selection import first, matches
from jaxtl.core.types import PyTree, Source

_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights as read from anywhere, in the layout of jaxtl's trees.

    Attributes:
      params: stage -> subtree; the leaves are numpy or jax arrays.
      stats: batch statistics, stage -> subtree ({} for none).
      meta: what the file says about itself (configuration, preprocessing, metrics).
      rows: tensors of the file that the architecture has no use for, for the report.
      names: path -> the tensor's name in the file it came from (or should come from).
    """

    params: PyTree
    stats: PyTree = dataclasses.field(default_factory=dict)
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: tuple["LoadRow", ...] = ()
    names: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LoadRow:
    """One line of the report on loading.

    Attributes:
      status: "loaded", "re-initialized" or "skipped" (in the weights, unused).
      path: path of the leaf in the model (or in the weights, where skipped).
      shape: its shape in the model, None where the model has no such leaf.
      source_shape: its shape in the weights, None where they have no such leaf.
      source: the tensor's name in the file, "" where there was none.
    """

    status: str
    path: str
    shape: tuple[int, ...] | None
    source_shape: tuple[int, ...] | None
    source: str = ""


def match(
    params: PyTree,
    stats: PyTree,
    weights: Weights,
    reset: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> tuple[PyTree, PyTree, Source, list[LoadRow]]:
    """Puts weights into a model's trees.

    Args:
      params: the model's initial parameters.
      stats: its initial batch statistics.
      weights: what to load; leaves are cast to the dtype of the model's.
      reset: patterns (see select.py) of leaves that keep their initial value.
      ignore: patterns of leaves of the weights to leave out; what the model then
        lacks must be under `reset`.

    Returns:
      `(params, stats, source, rows)`. The leaves of `source` are those of `params` and
      `stats` themselves, not copies: copy them (`tree.copy`) before donating either.
      `source.params` is None where a leaf was re-initialized, `source.head` is the
      head of the weights as it came (None for none).

    Raises:
      UserError: with all problems at once: leaves that are missing, superfluous or of
        another shape, patterns that match nothing.
    """
    reset, ignore = _patterns("reset", reset), _patterns("ignore", ignore)
    ours = [*trees.flatten(params), *trees.flatten(stats)]
    theirs = [*trees.flatten(weights.params), *trees.flatten(weights.stats)]
    _all_used("reset", reset, ours)
    _all_used("ignore", ignore, theirs)
    new_params, kept_params, rows, problems = _join(
        params, weights.params, reset, ignore, weights.names
    )
    new_stats, kept_stats, more, others = _join(
        stats, weights.stats, reset, ignore, weights.names
    )
    rows = [*rows, *more, *weights.rows]
    if problems or others:
        raise UserError(_explain([*problems, *others], rows))
    head = weights.params.get("head") if isinstance(weights.params, dict) else None
    head = jax.tree.map(_array, head)
    source = Source(params=kept_params, stats=kept_stats, head=head)
    return new_params, new_stats, source, rows


def _patterns(field: str, value) -> tuple[str, ...]:
    patterns = (value,) if isinstance(value, str) else tuple(value)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UserError(
                f"{field}={value!r}: expected path patterns such as 'head', "
                f"got {pattern!r}."
            )
    return patterns


def _all_used(field: str, patterns: tuple[str, ...], paths: list[str]) -> None:
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            stages = list(dict.fromkeys(p.split("/")[0] for p in paths))
            hint = nearest(pattern, [*stages, *paths])
            raise UserError(
                f"{field}: the pattern {pattern!r} matches nothing{hint} "
                f"(stages: {', '.join(stages)})."
            )


def _join(ours: PyTree, theirs: PyTree, reset, ignore, names):
    """Returns (merged tree, tree with None where reset, rows, problems as rows)."""
    model, given = trees.flatten(ours), trees.flatten(theirs)
    rows, problems = [], []

    def row(status: str, path: str, ours, theirs) -> LoadRow:
        shapes = [None if x is None else tuple(x.shape) for x in (ours, theirs)]
        return LoadRow(status, path, *shapes, names.get(path, ""))

    extra = {p: x for p, x in given.items() if p not in model}
    for path, x in extra.items():
        excused = first(ignore, path) or first(reset, path)
        (rows if excused else problems).append(row("skipped", path, None, x))
    loaded = {}
    for path, leaf in model.items():
        x = None if first(ignore, path) else given.get(path)
        if first(reset, path) is not None:
            rows.append(row("re-initialized", path, leaf, given.get(path)))
        elif x is None or tuple(x.shape) != tuple(leaf.shape):
            problems.append(row("misfit", path, leaf, x))
        else:
            rows.append(row("loaded", path, leaf, x))
            loaded[path] = _array(x, leaf.dtype)
    if problems:
        return None, None, rows, problems
    merged = trees.map_with_path(lambda p, leaf: loaded.get(p, leaf), ours)
    kept = trees.map_with_path(lambda p, _: loaded.get(p), ours)
    return merged, kept, rows, problems


def _array(x, dtype=None) -> jax.Array:
    """Returns the leaf as a jax array, read from its file where it is still there."""
    return jnp.asarray(x if isinstance(x, jax.Array) else np.asarray(x), dtype=dtype)


def _explain(problems: list[LoadRow], rows: list[LoadRow]) -> str:
    missing = [r for r in problems if r.shape is not None and r.source_shape is None]
    extra = [r for r in problems if r.shape is None]
    shaped = [r for r in problems if None not in (r.shape, r.source_shape)]
    counts = [
        f"{len(rows)} {what}"
        for rows, what in (
            (shaped, "of another shape"),
            (missing, "missing in the weights"),
            (extra, "unknown to the model"),
        )
        if rows
    ]
    lines = []
    for row in problems[:_SHOWN]:
        if row.source_shape is not None:
            lines.append(f"  - {row.path} {row.source_shape}")
        if row.shape is not None:
            hint = ""
            if row.source_shape is None:
                hint = f" from {row.source!r}" if row.source else ""
                hint += nearest(row.source or row.path, [r.path for r in extra])
            lines.append(f"  + {row.path} {row.shape}{hint}")
    if len(problems) > _SHOWN:
        lines.append(f"  … and {len(problems) - _SHOWN} more")
    return (
        f"the weights don't fit the model: {', '.join(counts)} "
        f"(- in the weights, + in the model):\n"
        + "\n".join(lines)
        + (_depth(problems, rows) or _advice(problems))
    )


def _advice(problems: list[LoadRow]) -> str:
    """Names the smallest `reset`/`ignore`, where that is what is likely meant."""
    wanting = dict.fromkeys(r.path.split("/")[0] for r in problems if r.shape)
    wanting = list(wanting)
    extra = {r.path.split("/")[0] for r in problems if r.shape is None}
    extra = sorted(extra - set(wanting))
    if wanting == ["head"]:
        asked = ['reset=("head",)']
    elif wanting:
        lacking = ", ".join(wanting)
        return (
            f"\nThe stages {lacking} don't fit: check that the model is the "
            "one that the weights were trained for"
            + (f" (the weights also have {', '.join(extra)})." if extra else ".")
        )
    else:
        asked = []
    if extra:
        names = ", ".join(repr(e) for e in extra)
        asked.append(f"ignore=({names},)")
    return f"\nTo load the rest and leave these: {', '.join(asked)}."


def _depth(problems: list[LoadRow], rows: list[LoadRow]) -> str:
    """Tells a model that is deeper or shallower than the weights, "" if it is neither.

    What is missing, or superfluous, then looks like what was loaded but for numbers.
    """

    def alike(row: LoadRow) -> str:
        return re.sub(r"\d+", "#", row.source or row.path)

    known = {alike(row) for row in rows if row.status == "loaded"}
    missing = [r for r in problems if r.source_shape is None]
    extra = [r for r in problems if r.shape is None]
    if len(missing) == len(problems) and all(alike(r) in known for r in missing):
        return (
            f"\nThe model is deeper than the weights: these have no {missing[0].path}."
        )
    if len(extra) == len(problems) and all(alike(r) in known for r in extra):
        return "\nThe weights are of a deeper model: give the model as many layers."
    return ""
