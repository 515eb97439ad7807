"""Loading of weights into a model's initial trees; every leaf is accounted for.

Every leaf of the model and every leaf of the weights is either in the table of rows or
in the one error that lists all leaves that do not fit.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.selection import first, matches
from jaxtl.core.types import PyTree, Source

# Leaves that an error message lists at most.
_LISTED = 40


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights from any source, in the layout of jaxtl's trees.

    Attributes:
      params: stage -> subtree; the leaves are numpy or jax arrays.
      stats: batch statistics, stage -> subtree ({} for none).
      meta: further content of the file (configuration, preprocessing, metrics).
      rows: tensors of the file that the architecture does not use, for the report.
      names: path -> name of the tensor in the file (also of tensors that are missing).
      output_names: of the head's outputs in order (classes, labels or regression
        targets); () where the source has none. Outputs beyond them have no name.
      feature_names: of the input columns in order, likewise.
      left_out: names of tensors of parts that the model does not have.
      absent: stages that the weights lack and that stay at their initial values.
      remark: how they were made, "" where there is nothing to tell.
    """

    params: PyTree
    stats: PyTree = dataclasses.field(default_factory=dict)
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: tuple["LoadRow", ...] = ()
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    output_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    remark: str = ""

    def note(self) -> str:
        """What was left out of the file, is not in it or was made, "" for nothing."""
        parts = [self.remark] if self.remark else []
        if self.left_out:
            names = ", ".join(self.left_out[:3])
            more = f", … ({len(self.left_out)} tensors)" * (len(self.left_out) > 3)
            parts.append(f"left out of the file: {names}{more}")
        if self.absent:
            parts.append(f"not in the file, initialized: {', '.join(self.absent)}")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class LoadRow:
    """One row of the report on loading.

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
    reset: tuple[str, ...] | str = (),
    ignore: tuple[str, ...] | str = (),
) -> tuple[PyTree, PyTree, Source, list[LoadRow]]:
    """Puts weights into a model's trees.

    Args:
      params: the model's initial parameters.
      stats: its initial batch statistics.
      weights: what to load; leaves are cast to the dtype of the model's.
      reset: patterns (see `core.selection`) of leaves that stay initial values.
      ignore: patterns of leaves of the weights to leave out; leaves that the model
        then lacks must be under `reset`.

    Returns:
      `(params, stats, source, rows)`. The leaves of `source` are those of `params` and
      `stats` themselves, not copies: copy them (`tree.copy`) before donating either.
      `source.params` is None where a leaf was re-initialized, `source.head` is the
      head of the weights in its own shape (None for none).

    Raises:
      UserError: with all problems at once: leaves that are missing, superfluous or of
        another shape, patterns that match nothing.
    """
    reset, ignore = patterns("reset", reset), patterns("ignore", ignore)
    model_paths = [*trees.flatten(params), *trees.flatten(stats)]
    weight_paths = [*trees.flatten(weights.params), *trees.flatten(weights.stats)]
    _check_patterns("reset", reset, model_paths)
    _check_patterns("ignore", ignore, weight_paths)
    reset += weights.absent
    joined_params = _join(params, weights.params, reset, ignore, weights.names)
    joined_stats = _join(stats, weights.stats, reset, ignore, weights.names)
    rows = [*joined_params.rows, *joined_stats.rows, *weights.rows]
    problems = [*joined_params.problems, *joined_stats.problems]
    if problems:
        raise UserError(_explain(problems, rows))
    head = weights.params.get("head") if isinstance(weights.params, dict) else None
    source = Source(
        params=joined_params.source,
        stats=joined_stats.source,
        head=jax.tree.map(_array, head),
    )
    return joined_params.merged, joined_stats.merged, source, rows


def patterns(field: str, value: tuple[str, ...] | str) -> tuple[str, ...]:
    """The patterns of a field, which may be a single one.

    Raises:
      UserError: a value that is no text.
    """
    values = (value,) if isinstance(value, str) else tuple(value)
    for pattern in values:
        if not isinstance(pattern, str):
            raise UserError(
                f"{field}={value!r}: expected path patterns such as 'head', "
                f"got {pattern!r}."
            )
    return values


def _check_patterns(field: str, patterns: tuple[str, ...], paths: list[str]) -> None:
    """Raises UserError where a pattern matches none of the paths."""
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            stages = list(dict.fromkeys(p.split("/")[0] for p in paths))
            hint = nearest(pattern, [*stages, *paths])
            raise UserError(
                f"{field}: the pattern {pattern!r} matches nothing{hint} "
                f"(stages: {', '.join(stages)})."
            )


class _Joined(NamedTuple):
    """One tree of a model with its weights.

    Attributes:
      merged: the model's tree with loaded leaves, None where there are problems.
      source: the loaded leaves, None where the model's are initial values.
      rows: the report.
      problems: rows of the leaves that do not fit.
    """

    merged: PyTree
    source: PyTree
    rows: list[LoadRow]
    problems: list[LoadRow]


def _join(
    model_tree: PyTree,
    weight_tree: PyTree,
    reset: tuple[str, ...],
    ignore: tuple[str, ...],
    names: Mapping[str, str],
) -> _Joined:
    model_leaves, weight_leaves = trees.flatten(model_tree), trees.flatten(weight_tree)
    rows, problems, loaded = [], [], {}

    def row(status: str, path: str, leaf: Any, weight: Any) -> LoadRow:
        shapes = [None if x is None else tuple(x.shape) for x in (leaf, weight)]
        return LoadRow(status, path, *shapes, names.get(path, ""))

    for path, weight in weight_leaves.items():
        if path not in model_leaves:
            excused = first(ignore, path) or first(reset, path)
            (rows if excused else problems).append(row("skipped", path, None, weight))
    for path, leaf in model_leaves.items():
        weight = None if first(ignore, path) else weight_leaves.get(path)
        if first(reset, path) is not None:
            rows.append(row("re-initialized", path, leaf, weight_leaves.get(path)))
        elif weight is None or tuple(weight.shape) != tuple(leaf.shape):
            problems.append(row("misfit", path, leaf, weight))
        else:
            rows.append(row("loaded", path, leaf, weight))
            loaded[path] = _array(weight, leaf.dtype)
            _check_finite(loaded[path], path, names.get(path, path))
    if problems:
        return _Joined(None, None, rows, problems)
    merged = trees.map_with_path(lambda path, x: loaded.get(path, x), model_tree)
    source = trees.map_with_path(lambda path, _: loaded.get(path), model_tree)
    return _Joined(merged, source, rows, problems)


def _array(leaf: Any, dtype: Any = None) -> jax.Array:
    """The leaf as a jax array; a lazy one is read from its file."""
    return jnp.asarray(
        leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), dtype=dtype
    )


def _check_finite(leaf: jax.Array, path: str, source: str) -> None:
    """Raises UserError where a loaded leaf holds NaN or infinity."""
    values = np.asarray(leaf)
    wrong = values.size - int(np.isfinite(values).sum())
    if wrong:
        raise UserError(
            f"the weights hold NaN or infinity: {wrong:,} of {leaf.size:,} numbers of "
            f"{source!r} as {leaf.dtype} (leaf {path}); a larger param_dtype holds "
            "numbers that overflow, else the file is damaged or of a run that diverged."
        )


def _explain(problems: list[LoadRow], rows: list[LoadRow]) -> str:
    """The message on all problems: their numbers, the leaves, and advice."""
    missing = [r for r in problems if r.shape is not None and r.source_shape is None]
    extra = [r for r in problems if r.shape is None]
    misshapen = [r for r in problems if None not in (r.shape, r.source_shape)]
    counts = [
        f"{len(group)} {kind}"
        for group, kind in (
            (misshapen, "of another shape"),
            (missing, "missing in the weights"),
            (extra, "unknown to the model"),
        )
        if group
    ]
    lines = []
    for row in problems[:_LISTED]:
        if row.source_shape is not None:
            lines.append(f"  - {row.path} {row.source_shape}")
        if row.shape is not None:
            hint = ""
            if row.source_shape is None:
                hint = f" from {row.source!r}" if row.source else ""
                hint += nearest(row.source or row.path, [r.path for r in extra])
            lines.append(f"  + {row.path} {row.shape}{hint}")
    if len(problems) > _LISTED:
        lines.append(f"  … and {len(problems) - _LISTED} more")
    return (
        f"the weights don't fit the model: {', '.join(counts)} "
        f"(- in the weights, + in the model):\n"
        + "\n".join(lines)
        + (_depth_advice(problems, rows) or _reset_advice(problems))
    )


def _reset_advice(problems: list[LoadRow]) -> str:
    """Names the smallest `reset`/`ignore` that would load the other leaves."""
    lacking = list(dict.fromkeys(r.path.split("/")[0] for r in problems if r.shape))
    extra = {r.path.split("/")[0] for r in problems if r.shape is None}
    extra = sorted(extra - set(lacking))
    if lacking and lacking != ["head"]:
        also = f" (the weights also have {', '.join(extra)})" if extra else ""
        return (
            f"\nThe stages {', '.join(lacking)} don't fit: check that the model is the "
            f"one that the weights were trained for{also}."
        )
    options = ['reset=("head",)'] if lacking else []
    if extra:
        options.append(f"ignore=({', '.join(map(repr, extra))},)")
    return f"\nTo load the remaining leaves without these: {', '.join(options)}."


def _depth_advice(problems: list[LoadRow], rows: list[LoadRow]) -> str:
    """A sentence on a model that is deeper or shallower than the weights, else "".

    Missing or superfluous leaves then have the paths of loaded ones except for numbers.
    """

    def without_numbers(row: LoadRow) -> str:
        return re.sub(r"\d+", "#", row.source or row.path)

    loaded = {without_numbers(row) for row in rows if row.status == "loaded"}
    if not all(without_numbers(row) in loaded for row in problems):
        return ""
    if all(row.source_shape is None for row in problems):
        return (
            f"\nThe model is deeper than the weights: these have no {problems[0].path}."
        )
    if all(row.shape is None for row in problems):
        return "\nThe weights are of a deeper model: give the model as many layers."
    return ""
