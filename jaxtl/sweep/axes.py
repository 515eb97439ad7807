"""Axes: the words in which a sweep is written down."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError

SEED, VARIANT, METHOD = "seed", "variant", "method"


@dataclasses.dataclass(frozen=True)
class Range(Sequence):
    """Numbers between two ends: a row of them in a grid, all of them in a search.

    Attributes:
      low, high: both included.
      count: of a grid's values.
      log: whether they lie evenly on a logarithmic axis.
    """

    low: float
    high: float
    count: int
    log: bool = False

    def __post_init__(self):
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

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        space = np.geomspace if self.log else np.linspace
        values = [float(f"{x:.6g}") for x in space(self.low, self.high, self.count)]
        return values[index]


def log(low: float, high: float, count: int) -> Range:
    """Returns `count` numbers from low to high, each the same factor above the last."""
    return Range(low, high, count, log=True)


def linear(low: float, high: float, count: int) -> Range:
    """Returns `count` numbers from low to high, evenly spaced."""
    return Range(low, high, count)


@dataclasses.dataclass(frozen=True)
class When:
    """An axis that exists only in some cells.

    Attributes:
      condition: axis -> a label, or a tuple of labels, of axes named before this one.
      values: as of any axis.
    """

    condition: Mapping[str, Any]
    values: Any

    def holds(self, labels: Mapping[str, Any]) -> bool:
        """Whether the cell so far is one of those meant."""
        return all(among(labels.get(k), v) for k, v in self.condition.items())


def among(label: Any, wanted: Any) -> bool:
    return any(label == shown(one) for one in several(wanted))


def several(wanted: Any) -> Iterable:
    return wanted if isinstance(wanted, tuple | list | set) else (wanted,)


@dataclasses.dataclass(frozen=True)
class Halving:
    """Successive halving: settings that do worst on validation stop early.

    Settings of one compiled program are compared with each other, by the mean of the
    monitored metric over their seeds.

    Attributes:
      rungs: shares of the steps at which settings are compared, rising, below 1.
      keep: share that goes on at each, at least one setting.

    References:
      Jamieson and Talwalkar, Non-stochastic Best Arm Identification, AISTATS 2016.
    """

    rungs: tuple[float, ...] = (0.25, 0.5)
    keep: float = 0.5

    def __post_init__(self):
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
    """A sweep with more to say than its axes.

    Attributes:
      axes: as the mapping SWEEP.
      exclude: cells to leave out: each a mapping from axes to a label, or a tuple of
        labels; a cell that matches all of one is left out.
      halving: lets cells stop early, None for none.
    """

    axes: Mapping[Any, Any]
    exclude: tuple[Mapping[str, Any], ...] = ()
    halving: Halving | None = None


def title(axis) -> str:
    """Returns an axis's name; zipped fields are joined by commas."""
    return axis if isinstance(axis, str) else ", ".join(axis)


def shown(value: Any) -> Any:
    """Returns a value as it stands in tables: numbers and texts as they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if config.is_config(value):
        parts = []
        for name, field in config.fields(value).items():
            own = getattr(value, name)
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if config.key(own) != config.key(default):
                parts.append(f"{name}={shown(own)!r}")
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple | list):
        return ", ".join(str(shown(x)) for x in value)
    return str(value)
