"""What a sweep found, in one structure that tables, plots and pages are made from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.results import database
from jaxtl.results.selection_cost import CriterionChoice
from jaxtl.results.settings import Division, Setting
from jaxtl.results.statistics import Difference, Estimate

BETTER, WORSE, TIE = "better", "worse", "tie"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A line against another one, over their common seeds.

    Attributes:
      against: the other's name.
      difference: line − other of the metric, on the summary's split.
      adjusted: p by Holm over all lines of the summary; None with one common seed.
      verdict: "better", "worse", "tie" (adjusted p ≥ 0.05), "" where it can't be told.
    """

    against: str
    difference: Difference
    adjusted: float | None
    verdict: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alarm:
    """A line that came out below a reference.

    Attributes:
      comparison: with the reference.
      reference: "from-scratch" or "the untouched source".
      significant: it loses; otherwise its mean is below, and no more can be told.
    """

    comparison: Comparison
    reference: str
    significant: bool

    @property
    def text(self) -> str:
        """Says it, "loses to from-scratch"."""
        if self.significant:
            return f"loses to {self.reference}"
        return f"below {self.reference}, not significant"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One setting: all labels but the seed.

    Attributes:
      labels: axis -> value.
      name: its values on the compared axes, and the tuned ones where nothing was tuned.
      compared: axis -> value, of the compared axes.
      tuned: axis -> value, of the tuned axes.
      values: split -> seed -> the metric; no "test" but for lines that are chosen.
      val: mean and interval over seeds, None without any.
      test: the same; None for lines that are not chosen.
      seeds: of finished runs.
      missing: seeds that other settings have and this one lacks.
      failed: number of failed cells; `stopped` (by successive halving) and
        `unfinished` (waiting or running) likewise.
      reasons: why cells failed, each reason once, "… (3 cells)".
      drift: mean ‖θ − θ₀‖; `seconds` of a run and its `trainable` parameters likewise.
      chosen: stands in the main table.
      candidates: settings that it was chosen among on val.
      partial: settings that were no candidates since they have fewer finished seeds.
      rival: tuned values of one of those that is better on val so far, "" without.
      comparison: with the baseline; None without one, and for the baseline itself.
      alarms: references that it came out below.
      top: best mean of its column, or a tie with it.
      setting: its records.
    """

    labels: Mapping[str, Any]
    name: str
    compared: Mapping[str, Any]
    tuned: Mapping[str, Any]
    values: Mapping[str, Mapping[Any, float]]
    val: Estimate | None
    test: Estimate | None
    seeds: tuple
    missing: tuple = ()
    failed: int = 0
    stopped: int = 0
    unfinished: int = 0
    reasons: tuple[str, ...] = ()
    drift: float | None = None
    seconds: float | None = None
    trainable: float | None = None
    chosen: bool = False
    candidates: int = 1
    partial: int = 0
    rival: str = ""
    comparison: Comparison | None = None
    alarms: tuple[Alarm, ...] = ()
    top: bool = False
    setting: Setting

    def estimate(self, split: str) -> Estimate | None:
        """Returns the mean and interval of a split."""
        return self.test if split == "test" else self.val


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How lines are compared.

    Attributes:
      metric: what is compared.
      higher: whether larger values of it are better.
      split: on which lines are compared, "test" or "val".
      interval: "t" or "bootstrap".
      test: "t" or "wilcoxon", of paired differences.
      division: compared, tuned and fixed axes, and the axis of methods.
      by: what settings are chosen by on val; "" for the metric. A criterion where the
        target is unlabelled.
    """

    metric: str
    higher: bool
    split: str
    interval: str
    test: str
    division: Division
    by: str = ""

    @property
    def chooser(self) -> str:
        """The metric, or the criterion, that settings are chosen by on val."""
        return self.by or self.metric

    def rank(self, line: Line, split: str = "") -> float:
        """Returns what lines are sorted by: larger is better, whatever the metric."""
        found = line.estimate(split or self.split)
        if found is None:
            return float("-inf")
        return found.mean if self.higher else -found.mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(Rules):
    """All that the outputs tell.

    Attributes:
      title: of the experiment file.
      lines: the main table, a line per combination of compared values.
      settings: every setting with a finished, failed or stopped run, by val only.
      tuned: whether lines were chosen on val.
      baseline: axis -> value that baselines have, {"method": "full"}; {} without.
      references: "from-scratch" or "the untouched source", those that are there.
      counts: status -> number of cells.
      choosing: what each criterion chooses where the target is unlabelled; () else.
    """

    title: str
    lines: tuple[Line, ...]
    settings: tuple[Line, ...]
    tuned: bool
    baseline: Mapping[str, str]
    references: tuple[str, ...]
    counts: Mapping[str, int]
    choosing: tuple[CriterionChoice, ...] = ()

    @property
    def total(self) -> int:
        """Number of cells."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """Number of cells that are done, failed or stopped."""
        return sum(self.counts.get(status, 0) for status in database.FINISHED)
