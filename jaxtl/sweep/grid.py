"""What a sweep consists of: axes, and the cells that they span.

    SWEEP = {
        "method": {"full": {}, "L2-SP": {"terms.near": tl.regularizers.L2SP()}},
        "terms.near.weight": tl.sweep.When({"method": "L2-SP"}, [0.01, 0.1, 1.0]),
        "optim.lr": tl.sweep.log(1e-4, 1e-2, 5),
        ("batch", "steps"): [(32, 400), (64, 200)],
        "seed": range(5),
    }

An axis is a dotted path with its values; several paths that change together (zipped);
or any name with a mapping from labels to changes (named variants). A cell is one value
of each: an experiment.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core import config, serialization
from jaxtl.core.errors import UserError, nearest
from jaxtl.sweep import axes_from_text
from jaxtl.sweep.axes import (
    METHOD,
    SEED,
    VARIANT,
    Grid,
    Halving,
    Range,
    When,
    among,
    linear,
    log,
    several,
    shown,
    title,
)
from jaxtl.training import variants
from jaxtl.training.experiment import Experiment, Variant
from jaxtl.training.experiment_file import File

# What an experiment file says: tl.sweep.log, tl.sweep.When and the like.
__all__ = [
    "METHOD",
    "SEED",
    "VARIANT",
    "Grid",
    "Halving",
    "Range",
    "When",
    "cells",
    "grid_of",
    "linear",
    "log",
    "shown",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment of a sweep.

    Attributes:
      key: identity: equal for equal experiments of equal files.
      labels: axis -> value as it is shown.
      variant: name of the experiment that it changes.
      changes: (path, value) in the order that they are made.
      exp: the experiment, unless its weights wait for a source.
    """

    key: str
    labels: Mapping[str, Any]
    variant: str
    changes: tuple[tuple[str, Any], ...]
    exp: Experiment


def grid_of(file: File, given: Any, asked: Sequence[str] = ()) -> Grid:
    """Returns the sweep of a file's SWEEP and of axes from the command line.

    Args:
      file: the experiments.
      given: the file's SWEEP: a mapping, a Grid, or None.
      asked: "a.b=0,0.01" texts; an axis of the same name replaces the file's.

    Raises:
      UserError: an axis that names no field or has no values, each with its name.
    """
    grid = given if isinstance(given, Grid) else Grid(given or {})
    if not isinstance(grid.axes, Mapping):
        raise UserError(
            f"SWEEP={given!r}: expected a mapping from fields to values, such as "
            '{"optim.lr": [1e-3, 1e-2]}, or a tl.sweep.Grid.'
        )
    own = {axis: _held(values) for axis, values in grid.axes.items()}
    axes = dict(own)
    for text in asked:
        name, values = axes_from_text.parsed(text)
        axes[name] = _replacing(name, axes.get(name), values)
    if SEED not in axes and file.seeds is not None:
        axes[SEED] = file.seeds
    variants.ordered(file.variants)
    if len(file.variants) > 1 and VARIANT not in axes:
        sources = {e.init.name for e in file.variants.values() if _waits(e)}
        names = [name for name in file.variants if name not in sources]
        axes = {VARIANT: names, **axes}
    if SEED in axes:  # the innermost
        axes[SEED] = axes.pop(SEED)
    for axis, values in axes.items():
        _check_axis(axis, values, list(axes))
    _check_conditions(file, dataclasses.replace(grid, axes=own))
    return dataclasses.replace(grid, axes=axes)


def _held(values: Any) -> Any:
    """Returns an axis's values such that they can be gone through again and again."""
    if isinstance(values, When):
        return dataclasses.replace(values, values=_held(values.values))
    if isinstance(values, Iterable) and not isinstance(values, Mapping | Range | str):
        return tuple(values)
    return values


def _replacing(name: str, known: Any, values: Any) -> Any:
    """Returns an axis with other values, which choose among names where it has some."""
    if isinstance(known, When):
        inner = _replacing(name, known.values, values)
        return dataclasses.replace(known, values=inner)
    if not isinstance(known, Mapping):
        return values
    for label in values:
        if label not in known:
            raise UserError(
                f"the axis {name!r} has no {label!r}{nearest(str(label), known)} "
                f"(known: {', '.join(map(str, known))})."
            )
    return {label: known[label] for label in values}


def _check_conditions(file: File, grid: Grid) -> None:
    """Raises UserError for a condition or an exclusion that no cell can meet."""
    rules = [("exclude", rule) for rule in grid.exclude]
    for axis, values in grid.axes.items():
        if isinstance(values, When):
            rules.append((f"the axis {title(axis)!r}", values.condition))
    labels = {VARIANT: list(file.variants)}
    for axis, values in grid.axes.items():
        values = values.values if isinstance(values, When) else values
        if isinstance(values, Iterable):  # else the command line gave another
            labels[title(axis)] = [label for label, _ in _choices(axis, values)]
    for where, rule in rules:
        for name, wanted in rule.items():
            for one in several(wanted):
                if name in labels and not among(shown(one), labels[name]):
                    there = [str(label) for label in labels[name]]
                    raise UserError(
                        f"{where}: {name!r} is never {shown(one)!r}"
                        f"{nearest(str(one), there)} (values: {', '.join(there)})."
                    )


def _waits(exp: Experiment) -> bool:
    return isinstance(exp.init, Variant)


def _check_axis(axis, values, known) -> None:
    if isinstance(values, When):
        before = [title(a) for a in known[: known.index(axis)]]
        for name in values.condition:
            if name not in before:
                raise UserError(
                    f"the axis {title(axis)!r} depends on {name!r}, which is no axis "
                    f"before it{nearest(name, before)}."
                )
        values = values.values
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(
            f"the axis {title(axis)!r} is {values!r}; expected a list of values."
        )
    if len(list(values)) == 0:
        raise UserError(f"the axis {title(axis)!r} has no values.")
    if isinstance(axis, tuple):
        for value in values:
            if not isinstance(value, tuple | list) or len(value) != len(axis):
                raise UserError(
                    f"the axis {title(axis)!r} zips {len(axis)} fields, but one of its "
                    f"values is {value!r}; expected a tuple of {len(axis)}."
                )


def cells(file: File, grid: Grid) -> list[Cell]:
    """Returns the cells of a grid, the last axis changing fastest.

    Raises:
      UserError: an axis that names no field of the experiment, a value that does not
        fit, and cells that turn out twice.
    """
    for rule in grid.exclude:
        for name in rule:
            names = [title(axis) for axis in grid.axes]
            if name not in names:
                raise UserError(
                    f"exclude: {name!r} is no axis{nearest(name, names)} "
                    f"(axes: {', '.join(names)})."
                )
    found, seen, sources = [], {}, set()
    for labels, variant, changes, exp in _spanned(file, grid):
        if any(_matches(labels, rule) for rule in grid.exclude):
            continue
        if _waits(exp) and exp.init.name not in sources:
            variants.ordered({**file.variants, str(dict(labels)): exp})
            sources.add(exp.init.name)
        key = _key(file, variant, changes, labels)
        if key in seen:
            raise UserError(
                f"two cells of the sweep are the same experiment: {dict(labels)} and "
                f"{seen[key]}; an axis names a value twice."
            )
        seen[key] = labels
        found.append(Cell(key, labels, variant, changes, exp))
    if not found:
        raise UserError("the sweep has no cells: everything is excluded.")
    return found


def _matches(labels, rule) -> bool:
    return all(k in labels and among(labels[k], v) for k, v in rule.items())


def _spanned(file: File, grid: Grid) -> Iterator[tuple]:
    axes = dict(grid.axes)
    names = axes.pop(VARIANT, list(file.variants))
    override = _Overrides()
    for variant in names:
        if variant not in file.variants:
            raise UserError(
                f"the axis 'variant' names {variant!r}, which is no variant of "
                f"{file.path.name}{nearest(variant, file.variants)} "
                f"(variants: {', '.join(file.variants)})."
            )
        labels = {VARIANT: variant} if len(file.variants) > 1 else {}
        start = (labels, (), file.variants[variant])
        for labels, changes, exp in _grown(start, list(axes.items()), override):
            yield labels, variant, changes, exp


def _grown(start, axes, override) -> Iterator[tuple]:
    """Yields (labels, changes, experiment) of every choice of values of the axes."""
    if not axes:
        yield start
        return
    (axis, values), rest = axes[0], axes[1:]
    labels, changes, exp = start
    if isinstance(values, When):
        if not values.holds(labels):
            yield from _grown(start, rest, override)
            return
        values = values.values
    for label, change in _choices(axis, values):
        made = exp
        for path, value in change:
            made = override(made, path, value)
        grown = ({**labels, title(axis): label}, changes + change, made)
        yield from _grown(grown, rest, override)


def _choices(axis, values) -> Iterator[tuple[Any, tuple]]:
    """Yields (label, changes) of an axis's values."""
    if isinstance(values, Mapping):
        for label, changes in values.items():
            if not isinstance(changes, Mapping):
                raise UserError(
                    f"the axis {title(axis)!r}: {label!r} is {changes!r}; expected a "
                    'mapping of changes, such as {"optim.lr": 1e-3}.'
                )
            yield label, tuple(changes.items())
    elif isinstance(axis, tuple):
        for row in values:
            yield ", ".join(str(shown(x)) for x in row), tuple(zip(axis, row))
    else:
        for value in values:
            value = value.item() if isinstance(value, np.generic) else value
            yield shown(value), ((axis, value),)


class _Overrides:
    """`config.override` that reads each text and checks each type but once."""

    def __init__(self):
        self.known: dict[Any, Any] = {}

    def __call__(self, exp: Experiment, path: str, value: Any) -> Experiment:
        if path == SEED and isinstance(value, int):
            return self._seeded(exp, int(value))
        import jaxtl

        return config.override(
            exp, path, value, names={"tl": jaxtl}, new=True, memo=self.known
        )

    def _seeded(self, exp: Experiment, seed: int) -> Experiment:
        """Returns the experiment with another seed; most cells differ in that alone."""
        if (SEED, seed) not in self.known:
            self.known[SEED, seed] = dataclasses.replace(exp, seed=seed)  # checks it
        other = copy.copy(exp)
        object.__setattr__(other, "seed", seed)
        return other


def digest(exp: Experiment) -> str:
    """Returns a hash of an experiment's settings."""
    text = json.dumps(serialization.to_json(exp), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_PICTURES: dict[int, tuple[Any, Any]] = {}


def _once(value: Any, make: Callable[[Any], Any]) -> Any:
    """Returns what is made of an object, made the first time it is asked for."""
    if id(value) not in _PICTURES:
        _PICTURES[id(value)] = value, make(value)  # alive, so its id is its own
    return _PICTURES[id(value)][1]


def _key(file: File, variant: str, changes, labels) -> str:
    last = dict(changes)  # of several changes of one path the last counts
    made = [[path, _picture(last[path])] for path in sorted(last)]
    text = json.dumps([variant, _once(file.variants[variant], digest), made])
    if '"type": "object"' in text:  # of which there is no picture, but a name at best
        text += str(labels)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _picture(value: Any) -> Any:
    """Returns a value as JSON, the same in every process; 1 and 1.0 are one."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)
    return _once(value, serialization.to_json)
