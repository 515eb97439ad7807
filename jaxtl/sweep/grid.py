"""Grids: the axes of a sweep, and the cells that they span.

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

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import config
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
    matches_rule,
)
from jaxtl.sweep.cell_key import cell_key
from jaxtl.training import variants
from jaxtl.training.experiment import Experiment, Variant
from jaxtl.training.experiment_file import File

Axis = str | tuple[str, ...]
Change = tuple[str, Any]  # a dotted path and its value


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment of a sweep.

    Attributes:
      key: identity: equal for equal experiments of equal files.
      labels: axis -> value as tables show it.
      variant: name of the experiment that it changes.
      changes: (path, value) in the order in which they are made.
      exp: the experiment; its initial weights may be a variant that is not trained yet.
    """

    key: str
    labels: Mapping[str, Any]
    variant: str
    changes: tuple[Change, ...]
    exp: Experiment


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
    axes_of_file = {axis: _reusable(values) for axis, values in grid.axes.items()}
    axes = dict(axes_of_file)
    for text in texts:
        name, values = axes_from_text.parse_axis(text)
        axes[name] = _replace_values(name, axes.get(name), values)
    if SEED not in axes and file.seeds is not None:
        axes[SEED] = file.seeds
    variants.ordered(file.variants)
    if len(file.variants) > 1 and VARIANT not in axes:
        sources = {e.init.name for e in file.variants.values() if _needs_source(e)}
        names = [name for name in file.variants if name not in sources]
        axes = {VARIANT: names, **axes}
    if SEED in axes:  # it changes fastest
        axes[SEED] = axes.pop(SEED)
    for axis, values in axes.items():
        _check_axis(axis, values, list(axes))
    _check_conditions(file, dataclasses.replace(grid, axes=axes_of_file))
    return dataclasses.replace(grid, axes=axes)


def _reusable(values: Any) -> Any:
    """An axis's values in a form that can be iterated over again and again."""
    if isinstance(values, When):
        return dataclasses.replace(values, values=_reusable(values.values))
    if isinstance(values, Iterable) and not isinstance(values, Mapping | Range | str):
        return tuple(values)
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
            labels[axis_name(axis)] = [label for label, _ in _choices(axis, values)]
    for location, rule in rules:
        for name, allowed in rule.items():
            for value in as_labels(allowed):
                if name in labels and not has_label(label_of(value), labels[name]):
                    names = [str(label) for label in labels[name]]
                    raise UserError(
                        f"{location}: {name!r} is never {label_of(value)!r}"
                        f"{nearest(str(value), names)} (values: {', '.join(names)})."
                    )


def _needs_source(exp: Experiment) -> bool:
    return isinstance(exp.init, Variant)


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
    if len(list(values)) == 0:
        raise UserError(f"the axis {axis_name(axis)!r} has no values.")
    if isinstance(axis, tuple):
        for value in values:
            if not isinstance(value, tuple | list) or len(value) != len(axis):
                raise UserError(
                    f"the axis {axis_name(axis)!r} zips {len(axis)} fields, but one of "
                    f"its values is {value!r}; expected a tuple of {len(axis)}."
                )


def build_cells(file: File, grid: Grid) -> list[Cell]:
    """Builds the cells of a grid; the last axis changes fastest.

    Raises:
      UserError: an axis that names no field of the experiment, a value that does not
        fit, two cells of the same experiment, or no cell at all.
    """
    _check_exclusions(grid)
    cells: dict[str, Cell] = {}
    sources: set[str] = set()
    override = _Overrides()
    for variant in _variant_names(file, grid):
        base = file.variants[variant]
        for labels, changes, exp in _combinations(file, grid, variant, override):
            if any(matches_rule(labels, rule) for rule in grid.exclude):
                continue
            if _needs_source(exp) and exp.init.name not in sources:
                variants.ordered({**file.variants, str(dict(labels)): exp})
                sources.add(exp.init.name)
            key = cell_key(variant, base, changes, labels)
            if key in cells:
                raise UserError(
                    "two cells of the sweep are the same experiment: "
                    f"{dict(labels)} and {cells[key].labels}; an axis names a value "
                    "twice."
                )
            cells[key] = Cell(key, labels, variant, changes, exp)
    if not cells:
        raise UserError("the sweep has no cells: everything is excluded.")
    return list(cells.values())


def _check_exclusions(grid: Grid) -> None:
    names = [axis_name(axis) for axis in grid.axes]
    for rule in grid.exclude:
        for name in rule:
            if name not in names:
                raise UserError(
                    f"exclude: {name!r} is no axis{nearest(name, names)} "
                    f"(axes: {', '.join(names)})."
                )


def _variant_names(file: File, grid: Grid) -> Iterator[str]:
    for name in grid.axes.get(VARIANT, list(file.variants)):
        if name not in file.variants:
            raise UserError(
                f"the axis 'variant' names {name!r}, which is no variant of "
                f"{file.path.name}{nearest(name, file.variants)} "
                f"(variants: {', '.join(file.variants)})."
            )
        yield name


class _Combination(NamedTuple):
    """One value of each axis so far, and the experiment that they make."""

    labels: dict[str, Any]
    changes: tuple[Change, ...]
    exp: Experiment


def _combinations(
    file: File, grid: Grid, variant: str, override: "_Overrides"
) -> Iterator[_Combination]:
    """Yields every combination of values of the axes for one variant."""
    labels = {VARIANT: variant} if len(file.variants) > 1 else {}
    start = _Combination(labels, (), file.variants[variant])
    axes = [item for item in grid.axes.items() if item[0] != VARIANT]
    yield from _extend(start, axes, override)


def _extend(
    combination: _Combination, axes: Sequence[tuple[Axis, Any]], override: "_Overrides"
) -> Iterator[_Combination]:
    """Yields a combination extended by every choice of values of the axes."""
    if not axes:
        yield combination
        return
    (axis, values), remaining = axes[0], axes[1:]
    if isinstance(values, When):
        if not values.holds(combination.labels):
            yield from _extend(combination, remaining, override)
            return
        values = values.values
    for label, changes in _choices(axis, values):
        exp = combination.exp
        for path, value in changes:
            exp = override(exp, path, value)
        extended = _Combination(
            {**combination.labels, axis_name(axis): label},
            combination.changes + changes,
            exp,
        )
        yield from _extend(extended, remaining, override)


def _choices(axis: Axis, values: Any) -> Iterator[tuple[Any, tuple[Change, ...]]]:
    """Yields (label, changes) for each value of an axis."""
    if isinstance(values, Mapping):
        for label, changes in values.items():
            if not isinstance(changes, Mapping):
                raise UserError(
                    f"the axis {axis_name(axis)!r}: {label!r} is {changes!r}; expected "
                    'a mapping of changes, such as {"optim.lr": 1e-3}.'
                )
            yield label, tuple(changes.items())
    elif isinstance(axis, tuple):
        for row in values:
            yield ", ".join(str(label_of(x)) for x in row), tuple(zip(axis, row))
    else:
        for value in values:
            value = value.item() if isinstance(value, np.generic) else value
            yield label_of(value), ((axis, value),)


class _Overrides:
    """`config.override` that reads each text and checks each type only once."""

    def __init__(self) -> None:
        self._memo: dict[Any, Any] = {}

    def __call__(self, exp: Experiment, path: str, value: Any) -> Experiment:
        if path == SEED and isinstance(value, int):
            return self._with_seed(exp, int(value))
        import jaxtl

        return config.override(
            exp, path, value, names={"tl": jaxtl}, new=True, memo=self._memo
        )

    def _with_seed(self, exp: Experiment, seed: int) -> Experiment:
        """Replaces the seed, the only difference between most cells, in little time."""
        if (SEED, seed) not in self._memo:  # `replace` checks the seed, `copy` does not
            self._memo[SEED, seed] = dataclasses.replace(exp, seed=seed)
        seeded = copy.copy(exp)
        object.__setattr__(seeded, "seed", seed)
        return seeded
