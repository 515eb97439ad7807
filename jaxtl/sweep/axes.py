"""The axes of a sweep, as experiment files declare them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core import config, limits
from jaxtl.core.errors import UserError

SEED, VARIANT, METHOD = "seed", "variant", "method"


@dataclasses.dataclass(frozen=True)
class Range(Sequence):
    """Numbers between two ends.

    A grid takes `count` of them, evenly spaced; a search draws from all of them.

    Attributes:
      low: the lower end, included.
      high: the upper end, included.
      count: number of values in a grid, at least 2.
      log: whether they are evenly spaced on a logarithmic axis.
    """

    low: float
    high: float
    count: int = dataclasses.field()  # not Sequence.count as its default
    log: bool = False

    def __post_init__(self) -> None:
        name = "log" if self.log else "linear"
        ends = (self.low, self.high)
        if not all(isinstance(x, int | float) for x in ends):
            raise UserError(f"tl.sweep.{name}{ends!r}: expected two numbers.")
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(
                f"tl.sweep.{name}({self.low!r}, {self.high!r}): expected "
                f"{'0 < ' if self.log else ''}low < high."
            )
        if not (isinstance(self.count, int) and self.count >= 2):
            raise UserError(
                f"tl.sweep.{name}: count={self.count!r}; expected at least 2 values."
            )

        limits.check_runs(self.count, f"tl.sweep.{name}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __iter__(self) -> Iterator[float]:
        space = np.geomspace if self.log else np.linspace
        for value in space(self.low, self.high, self.count):
            yield float(f"{value:.6g}")


def log(low: float, high: float, count: int) -> Range:
    """Numbers from low to high, each the same factor above the one before.

    Args:
      low: the first number, above 0 and below `high`.
      high: the last number, included.
      count: how many, at least 2.

    Returns:
      The values of an axis, rounded to 6 significant digits.

    Raises:
      UserError: ends in another order, or a count below 2.
    """
    return Range(low, high, count, log=True)


def linear(low: float, high: float, count: int) -> Range:
    """Numbers from low to high, evenly spaced.

    Args:
      low: the first number, below `high`.
      high: the last number, included.
      count: how many, at least 2.

    Returns:
      The values of an axis, rounded to 6 significant digits.

    Raises:
      UserError: ends in another order, or a count below 2.
    """
    return Range(low, high, count)


@dataclasses.dataclass(frozen=True)
class When:
    """An axis that exists in some cells only.

    Attributes:
      condition: axis -> a label or a tuple of labels, of axes declared before this one;
        the axis exists where every one of them has such a label.
      values: as of any axis.
    """

    condition: Mapping[str, Any]
    values: Any

    def holds(self, labels: Mapping[str, Any]) -> bool:
        """Whether the axis exists in a cell.

        Args:
          labels: axis -> label of the cell, of the axes before this one.

        Returns:
          True where every axis of `condition` has one of its labels; False where one is
          missing.
        """
        return all(
            has_label(labels.get(name), allowed)
            for name, allowed in self.condition.items()
        )


def has_label(label: Any, allowed: Any) -> bool:
    """Whether a label is the allowed one, or one of several."""
    return any(label == label_of(value) for value in as_labels(allowed))


def as_labels(allowed: Any) -> Iterable:
    """The alternatives of a condition: a tuple, a list or a set, or a single label."""
    return allowed if isinstance(allowed, tuple | list | set) else (allowed,)


@dataclasses.dataclass(frozen=True)
class Halving:
    """Successive halving: the settings that are worst on validation stop early.

    The settings of one compiled program are compared with each other, by the mean of
    the monitored metric over their seeds.

    Attributes:
      rungs: shares of the steps at which settings are compared, rising, below 1.
      keep: share of the settings that go on at each rung; at least one does.

    References:
      Jamieson and Talwalkar, Non-stochastic Best Arm Identification, AISTATS 2016.
    """

    rungs: tuple[float, ...] = (0.25, 0.5)
    keep: float = 0.5

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.rungs, self.rungs[1:]))
        if not (self.rungs and rising and all(0 < r < 1 for r in self.rungs)):
            raise UserError(
                f"halving.rungs={self.rungs!r}: expected rising shares of the steps "
                "between 0 and 1, such as (0.25, 0.5)."
            )
        if not 0 < self.keep < 1:
            raise UserError(
                f"halving.keep={self.keep!r}: expected a share between 0 and 1."
            )


@dataclasses.dataclass(frozen=True)
class Grid:
    """The axes of a sweep, with cells to leave out and a rule to stop cells early.

    Attributes:
      axes: axis -> values, as SWEEP of an experiment file.
      exclude: rules, each a mapping from axes to a label or a tuple of labels; a cell
        that matches all axes of a rule is left out.
      halving: stops cells early; None lets all of them run to their end.
    """

    axes: Mapping[Any, Any]
    exclude: tuple[Mapping[str, Any], ...] = ()
    halving: Halving | None = None


def matches_rule(labels: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Whether a cell with these labels has all axes of a rule, with such labels."""
    return all(
        name in labels and has_label(labels[name], allowed)
        for name, allowed in rule.items()
    )


def axis_name(axis: str | tuple[str, ...]) -> str:
    """The name of an axis; the fields of a zipped axis are joined by commas."""
    return axis if isinstance(axis, str) else ", ".join(axis)


def label_of(value: Any) -> Any:
    """The label of a value in tables: numbers and texts as they are.

    A configuration is written with the fields that differ from their defaults.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if config.is_config(value):
        changed = []
        for name, field in config.fields(value).items():
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            field_value = getattr(value, name)
            if config.key(field_value) != config.key(default):
                changed.append(f"{name}={label_of(field_value)!r}")
        return f"{type(value).__name__}({', '.join(changed)})"
    if isinstance(value, tuple | list):
        return ", ".join(str(label_of(x)) for x in value)
    return str(value)
