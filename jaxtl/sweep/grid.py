"""Grids: the axes of a file and of the command line, put together and checked.

    SWEEP = {
        "method": {"full": {}, "L2-SP": {"terms.near": tl.regularizers.L2SP()}},
        "terms.near.weight": tl.sweep.When({"method": "L2-SP"}, [0.01, 0.1, 1.0]),
        "optim.lr": tl.sweep.log(1e-4, 1e-2, 5),
        ("batch", "steps"): [(32, 400), (64, 200)],
        "seed": range(5),
    }

An axis is a dotted path with its values; several paths that change together (zipped);
or any name with a mapping from labels to changes (named variants). A cell is one value
of each axis: an experiment.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtl.core import config, limits
from jaxtl.core.errors import UserError, nearest
from jaxtl.sweep import axes_from_text
from jaxtl.sweep.axes import (
    SEED,
    VARIANT,
    Grid,
    Range,
    When,
    as_labels,
    axis_name,
    has_label,
    label_of,
)
from jaxtl.sweep.cells import Axis, choices, needs_source
from jaxtl.training import variants
from jaxtl.training.experiment_file import File


def build_grid(
    file: File, sweep: Mapping[Any, Any] | Grid | None, texts: Sequence[str] = ()
) -> Grid:
    """Builds a grid from a file's SWEEP and the axes of a command line.

    Args:
      file: the experiments.
      sweep: the file's SWEEP.
      texts: "a.b=0,0.01" and the like; such an axis replaces the file's of its name.

    Raises:
      UserError: an axis that names no field or has no values.
    """
    grid = sweep if isinstance(sweep, Grid) else Grid(sweep or {})
    if not isinstance(grid.axes, Mapping):
        raise UserError(
            f"SWEEP={sweep!r}: expected a mapping from fields to values, such as "
            '{"optim.lr": [1e-3, 1e-2]}, or a tl.sweep.Grid.'
        )
    axes_of_file = {a: _reusable(a, values) for a, values in grid.axes.items()}
    axes = dict(axes_of_file)
    for text in texts:
        name, values = axes_from_text.parse_axis(text)
        values = _reusable(name, values)
        axes[name] = _replace_values(name, axes.get(name), values)
    if SEED not in axes and file.seeds is not None:
        axes[SEED] = file.seeds
    variants.ordered(file.variants)
    if len(file.variants) > 1 and VARIANT not in axes:
        sources = {e.init.name for e in file.variants.values() if needs_source(e)}
        names = [name for name in file.variants if name not in sources]
        axes = {VARIANT: names, **axes}
    if SEED in axes:  # it changes fastest
        axes[SEED] = axes.pop(SEED)
    for axis, values in axes.items():
        _check_axis(axis, values, list(axes))
        _check_labels(axis, values)
    _check_conditions(file, dataclasses.replace(grid, axes=axes_of_file))
    return dataclasses.replace(grid, axes=axes)


def _reusable(axis: Axis, values: Any) -> Any:
    """An axis's values in a form that can be iterated over again and again."""
    if isinstance(values, When):
        return dataclasses.replace(values, values=_reusable(axis, values.values))
    if isinstance(values, Iterable) and not isinstance(values, Mapping | Range | str):
        return limits.as_sequence(values, f"the axis {axis_name(axis)!r}")
    return values


def _replace_values(name: str, axis: Any, values: Any) -> Any:
    """Replaces an axis's values; of named variants the values select some by label."""
    if isinstance(axis, When):
        inner = _replace_values(name, axis.values, values)
        return dataclasses.replace(axis, values=inner)
    if not isinstance(axis, Mapping):
        return values
    for label in values:
        if label not in axis:
            raise UserError(
                f"the axis {name!r} has no {label!r}{nearest(str(label), axis)} "
                f"(known: {', '.join(map(str, axis))})."
            )
    return {label: axis[label] for label in values}


def _check_conditions(file: File, grid: Grid) -> None:
    """Raises UserError for a condition or an exclusion that no cell can meet."""
    rules = [("exclude", rule) for rule in grid.exclude]
    labels = {VARIANT: list(file.variants)}
    for axis, values in grid.axes.items():
        if isinstance(values, When):
            rules.append((f"the axis {axis_name(axis)!r}", values.condition))
            values = values.values
        if isinstance(values, Iterable):  # otherwise the command line replaces it
            labels[axis_name(axis)] = [label for label, _ in choices(axis, values)]
    for location, rule in rules:
        for name, allowed in rule.items():
            for value in as_labels(allowed):
                if name in labels and not has_label(label_of(value), labels[name]):
                    names = [str(label) for label in labels[name]]
                    raise UserError(
                        f"{location}: {name!r} is never {label_of(value)!r}"
                        f"{nearest(str(value), names)} (values: {', '.join(names)})."
                    )


def _check_axis(axis: Axis, values: Any, axes: Sequence[Axis]) -> None:
    """Raises UserError for an axis without values, or with values of a wrong form."""
    if isinstance(values, When):
        before = [axis_name(name) for name in axes[: axes.index(axis)]]
        for name in values.condition:
            if name not in before:
                raise UserError(
                    f"the axis {axis_name(axis)!r} depends on {name!r}, which is no "
                    f"axis before it{nearest(name, before)}."
                )
        values = values.values
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(
            f"the axis {axis_name(axis)!r} is {values!r}; expected a list of values."
        )
    if len(values) == 0:
        raise UserError(f"the axis {axis_name(axis)!r} has no values.")
    if isinstance(axis, tuple):
        for value in values:
            if not isinstance(value, tuple | list) or len(value) != len(axis):
                raise UserError(
                    f"the axis {axis_name(axis)!r} zips {len(axis)} fields, but one of "
                    f"its values is {value!r}; expected a tuple of {len(axis)}."
                )


def _check_labels(axis: Axis, values: Any) -> None:
    """Raises UserError for different values that have one label.

    Reports know settings by their labels: two of one label would be one row. numpy
    writes large arrays with "..." in place of their inner values.
    """
    values = values.values if isinstance(values, When) else values
    if isinstance(values, Mapping | Range | range):  # different labels as they are
        return
    known: dict[Any, Any] = {}
    for label, changes in choices(axis, values):
        same = known.setdefault((type(label), label), changes)
        if config.key(same) != config.key(changes):
            text = " ".join(str(label).split())
            text = text if len(text) < 80 else f"{text[:80]}…"
            paths = ", ".join(f'"{path}": ...' for path, _ in changes)
            raise UserError(
                f"the axis {axis_name(axis)!r} has two values that tables show alike, "
                f'as {text}; name its values by a mapping, such as {{"first": '
                f"{{{paths}}}}}."
            )
