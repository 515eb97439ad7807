"""Loads weights into a model's initial trees, strictly: nothing is left unsaid.

Every leaf of the model and every leaf of the weights ends in the table of rows or in
the one error that lists all that does not fit.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxtl import tree as trees
from jaxtl.core import PyTree, Source, UserError, nearest
from jaxtl.select import first, matches

_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights as read from anywhere, in the layout of jaxtl's trees.

    Attributes:
      params: stage -> subtree; the leaves are numpy or jax arrays.
      stats: batch statistics, stage -> subtree ({} for none).
      meta: what the file says about itself (configuration, preprocessing, metrics).
      rows: how the file's own tensors became these leaves, for the report.
    """

    params: PyTree
    stats: PyTree = dataclasses.field(default_factory=dict)
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: tuple = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the report on loading.

    Attributes:
      status: "loaded", "re-initialised" or "skipped" (in the weights, unused).
      path: path of the leaf in the model (or in the weights, where skipped).
      shape: its shape in the model, None where the model has no such leaf.
      source_shape: its shape in the weights, None where they have no such leaf.
    """

    status: str
    path: str
    shape: tuple[int, ...] | None
    source_shape: tuple[int, ...] | None


def match(
    params: PyTree,
    stats: PyTree,
    weights: Weights,
    reset: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> tuple[PyTree, PyTree, Source, list[Row]]:
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
      `source.params` is None where a leaf was re-initialised, `source.head` is the
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
        params, weights.params, reset, ignore
    )
    new_stats, kept_stats, more, others = _join(stats, weights.stats, reset, ignore)
    if problems or others:
        raise UserError(_explain([*problems, *others]))
    head = weights.params.get("head") if isinstance(weights.params, dict) else None
    source = Source(params=kept_params, stats=kept_stats, head=head)
    return new_params, new_stats, source, [*rows, *more]


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


def _join(ours: PyTree, theirs: PyTree, reset, ignore):
    """Returns (merged tree, tree with None where reset, rows, problems as rows)."""
    model, given = trees.flatten(ours), trees.flatten(theirs)
    rows, problems = [], []
    extra = {p: x for p, x in given.items() if p not in model}
    for path, x in extra.items():
        excused = first(ignore, path) or first(reset, path)
        (rows if excused else problems).append(_row("skipped", path, None, x))
    loaded = {}
    for path, leaf in model.items():
        x = None if first(ignore, path) else given.get(path)
        if first(reset, path) is not None:
            rows.append(_row("re-initialised", path, leaf, given.get(path)))
        elif x is None or tuple(x.shape) != tuple(leaf.shape):
            problems.append(_row("misfit", path, leaf, x))
        else:
            rows.append(_row("loaded", path, leaf, x))
            loaded[path] = jnp.asarray(x, dtype=leaf.dtype)
    if problems:
        return None, None, rows, problems
    merged = trees.map_with_path(lambda p, leaf: loaded.get(p, leaf), ours)
    kept = trees.map_with_path(lambda p, _: loaded.get(p), ours)
    return merged, kept, rows, problems


def _row(status: str, path: str, ours, theirs) -> Row:
    return Row(
        status,
        path,
        None if ours is None else tuple(ours.shape),
        None if theirs is None else tuple(theirs.shape),
    )


def _explain(problems: list[Row]) -> str:
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
                hint = nearest(row.path, [r.path for r in extra])
            lines.append(f"  + {row.path} {row.shape}{hint}")
    if len(problems) > _SHOWN:
        lines.append(f"  … and {len(problems) - _SHOWN} more")
    return (
        f"the weights don't fit the model: {', '.join(counts)} "
        f"(- in the weights, + in the model):\n" + "\n".join(lines) + _advice(problems)
    )


def _advice(problems: list[Row]) -> str:
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
