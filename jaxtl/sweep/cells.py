"""The cells of a sweep: the experiments that the axes of a grid span."""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import config, limits
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.ranges import check_ranges
from jaxtl.sweep.axes import (
    SEED,
    VARIANT,
    Grid,
    When,
    axis_name,
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


def build_cells(file: File, grid: Grid) -> list[Cell]:
    """Builds the cells of a grid; the last axis changes fastest.

    Raises:
      UserError: an axis that names no field of the experiment, a value that does not
        fit, two cells of the same experiment, or no cell at all.
    """
    _check_exclusions(grid)
    # An axis with a condition may be missing in most cells.
    unconditional = [v for v in grid.axes.values() if not isinstance(v, When)]
    limits.check_runs(math.prod(map(len, unconditional)), "the sweep")
    cells: dict[str, Cell] = {}
    sources: set[str] = set()
    checked: set[tuple[str, str, str]] = set()
    override = _Overrides()
    for variant in _variant_names(file, grid):
        base = file.variants[variant]
        check_ranges(base)
        for labels, changes, exp in _combinations(file, grid, variant, override):
            if any(matches_rule(labels, rule) for rule in grid.exclude):
                continue
            if needs_source(exp) and exp.init.name not in sources:
                variants.ordered({**file.variants, str(dict(labels)): exp})
                sources.add(exp.init.name)
            numbers = {(variant, path, repr(value)) for path, value in changes}
            if not numbers <= checked:
                # Of a million cells, few have a number that none before them had.
                check_ranges(exp)
                checked |= numbers
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


def needs_source(exp: Experiment) -> bool:
    """Whether an experiment starts from a variant that has to be trained first."""
    return isinstance(exp.init, Variant)


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
    for label, changes in choices(axis, values):
        exp = combination.exp
        for path, value in changes:
            exp = override(exp, path, value)
        extended = _Combination(
            {**combination.labels, axis_name(axis): label},
            combination.changes + changes,
            exp,
        )
        yield from _extend(extended, remaining, override)


def choices(axis: Axis, values: Any) -> Iterator[tuple[Any, tuple[Change, ...]]]:
    """Yields (label, changes) for each value of an axis.

    Raises:
      UserError: a named variant that is no mapping of changes.
    """
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
