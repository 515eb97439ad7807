"""The summary of a sweep's results, which tables, plots and reports are made from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.results import database
from jaxtl.results.axis_roles import AxisRoles
from jaxtl.results.selection_cost import CriterionChoice
from jaxtl.results.settings import Setting
from jaxtl.results.statistics import Difference, Estimate

BETTER, WORSE, TIE = "better", "worse", "tie"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of one setting with another, over their common seeds.

    Attributes:
      against: the other setting's name.
      difference: this setting − the other, of the metric on the summary's split.
      adjusted: p by Holm over all comparisons of the family; None with fewer than two
        common seeds.
      verdict: "better", "worse", "tie" (adjusted p ≥ 0.05), "" where there is no p.
    """

    against: str
    difference: Difference
    adjusted: float | None
    verdict: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alarm:
    """An alarm for negative transfer: a setting's mean is worse than a reference's.

    Attributes:
      comparison: with the reference.
      reference: "from-scratch" or "the untouched source".
      significant: whether the difference is significant.
    """

    comparison: Comparison
    reference: str
    significant: bool

    @property
    def text(self) -> str:
        """The alarm in words: "loses to from-scratch"."""
        if self.significant:
            return f"loses to {self.reference}"
        return f"below {self.reference}, not significant"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SettingSummary:
    """A setting (all labels but the seed) with its statistics over seeds.

    Attributes:
      labels: axis -> value.
      name: its values on the compared axes, and on the tuned ones where no choice was
        made among them.
      compared: axis -> value, of the compared axes.
      tuned: axis -> value, of the tuned axes.
      values: split -> seed -> the metric; "test" is empty unless it is selected.
      val: mean and interval over seeds, None without a value.
      test: likewise; None for settings that are not selected.
      seeds: of finished runs.
      missing: seeds that other settings have and this one lacks.
      failed: number of failed cells.
      stopped: number of cells that successive halving stopped.
      interrupted: number of runs that ended without a result.
      unfinished: number of cells that wait or run.
      reasons: why cells failed, each reason once, "… (3 cells)".
      drift: mean ‖θ − θ₀‖ over finished runs.
      seconds: mean duration of a run.
      trainable: mean number of trainable parameters.
      selected: whether it was chosen on val, so that it is a row of the main table.
      candidates: number of settings that it was chosen from on val.
      partial: number of settings that were no candidates, as they have fewer finished
        seeds.
      rival: tuned values of a partial one that is better on val so far, "" without.
      comparison: with the baseline; None without one, and for the baseline itself.
      alarms: references that it is below.
      top: whether it has the best mean of its column, or ties with it.
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
    interrupted: int = 0
    unfinished: int = 0
    reasons: tuple[str, ...] = ()
    drift: float | None = None
    seconds: float | None = None
    trainable: float | None = None
    selected: bool = False
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
class ComparisonRules:
    """The rules by which settings are chosen and compared.

    Attributes:
      metric: the metric that is compared.
      higher: whether larger values of it are better.
      split: of the comparison, "test" or "val".
      interval: "t" or "bootstrap".
      test: of paired differences, "t" or "wilcoxon".
      roles: of the axes.
      criterion: where the target is unlabelled, the criterion that settings are chosen
        by on val; else "", and they are chosen by the metric.
    """

    metric: str
    higher: bool
    split: str
    interval: str
    test: str
    roles: AxisRoles
    criterion: str = ""

    @property
    def selection_metric(self) -> str:
        """The metric, or the criterion, that settings are chosen by on val."""
        return self.criterion or self.metric

    def rank(self, row: SettingSummary, split: str = "") -> float:
        """Returns a sort key: a better setting has a larger one, whatever the metric.

        Args:
          row: the setting.
          split: default: the split of the comparison.
        """
        estimate = row.estimate(split or self.split)
        if estimate is None:
            return float("-inf")
        return estimate.mean if self.higher else -estimate.mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(ComparisonRules):
    """All that reports show of a collection of records.

    Attributes:
      title: of the experiment file.
      rows: of the main table, one for each combination of compared values.
      settings: every setting with a finished, failed, stopped or interrupted run, by
        val only.
      tuned: whether the rows were chosen on val.
      baseline: axis -> value that baselines have, {"method": "full"}; {} without.
      references: those of "from-scratch", "the untouched source" that were run.
      counts: status -> number of cells.
      criterion_choices: the choice of each criterion where the target is unlabelled.
      pretraining: the runs that others start from, on other data; they are no rows.
    """

    title: str
    rows: tuple[SettingSummary, ...]
    settings: tuple[SettingSummary, ...]
    tuned: bool
    baseline: Mapping[str, str]
    references: tuple[str, ...]
    counts: Mapping[str, int]
    criterion_choices: tuple[CriterionChoice, ...] = ()
    pretraining: tuple[SettingSummary, ...] = ()

    @property
    def total(self) -> int:
        """Number of cells."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """Number of cells that are done, failed or stopped."""
        return sum(self.counts.get(status, 0) for status in database.FINISHED)
