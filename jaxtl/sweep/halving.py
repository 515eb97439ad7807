"""Asynchronous successive halving of a search's trials.

References:
  Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.sweep.axes import Halving
from jaxtl.sweep.cells import Cell
from jaxtl.sweep.optuna_study import SharedStudy
from jaxtl.sweep.vectorized_runs import VectorizedRuns


class Rungs:
    """Stops the replicas of trials that do not pass a rung.

    At every rung a trial's mean over its seeds is compared with those of all trials
    that reached the rung so far, in any process. A trial of which a seed has failed has
    no value in the end, so the others stop at the next rung and are compared with none.
    A trial stores the mean in the study
    as the intermediate value at the rung's share of the steps, in thousandths.

    Args:
      halving: the rungs.
      metric: the monitored metric.
      trials: key of a cell -> its trial.
      study: the study that processes share.
      higher: whether larger values of the metric are better.
    """

    def __init__(
        self,
        halving: Halving,
        metric: str,
        trials: Mapping[str, Any],
        study: SharedStudy,
        *,
        higher: bool,
    ):
        self._higher = higher
        self._halving, self._metric, self._study = halving, metric, study
        self._trials = trials
        # rung -> numbers of the trials of this process that have reached it
        self._reached: dict[float, set[int]] = {rung: set() for rung in halving.rungs}

    def __call__(self, replicas: VectorizedRuns, cells: Sequence[Cell]) -> None:
        """Stops replicas after an evaluation; `cells` are the replicas' cells."""
        members: dict[int, list[int]] = {}
        for replica in replicas.active:
            number = self._trials[cells[replica].key].number
            members.setdefault(number, []).append(replica)
        failed = {self._trials[cells[i].key].number for i in replicas.failures}
        for rung in self._halving.rungs:
            if rung * replicas.exp.steps <= replicas.steps_done < replicas.exp.steps:
                reached = self._reached[rung]
                new = {n: group for n, group in members.items() if n not in reached}
                reached.update(new)
                for number in failed & set(new):
                    replicas.stop(new.pop(number))
                replicas.stop(self._worst(replicas, new, round(1000 * rung)))

    def _worst(
        self, replicas: VectorizedRuns, members: Mapping[int, list[int]], step: int
    ) -> list[int]:
        """The replicas of trials that do not pass a rung.

        Args:
          replicas: the vectorized runs.
          members: number of a trial -> its replicas.
          step: of the intermediate values, in thousandths of the steps.
        """
        trials = {trial.number: trial for trial in self._trials.values()}
        means = {}
        for number, group in members.items():
            values = [replicas.curves[i]["val"][-1][self._metric] for i in group]
            means[number] = float(np.mean(values))
            trials[number].report(means[number], step)
        stored = [t.intermediate_values for t in self._study.trials()] if means else []
        values = [intermediate[step] for intermediate in stored if step in intermediate]
        keep = self._halving.keep
        return [
            replica
            for number, group in members.items()
            if not passes_rung(means[number], values, keep, self._higher)
            for replica in group
        ]


def passes_rung(
    value: float, values: Sequence[float], keep: float, higher_is_better: bool
) -> bool:
    """Whether a trial passes a rung of asynchronous successive halving.

    It does if it is among the best share `keep` of all that reached the rung so far;
    the best one always passes. (Optuna's own pruner rounds the share to 1/n, and judges
    trials that reach a rung together one by one, the first ones without the others.)

    Args:
      value: of the trial at this rung.
      values: of all trials that reached it, this one among them.
      keep: share that passes.
      higher_is_better: whether larger values are better.
    """
    if math.isnan(value):
        return False
    better = sum(x > value if higher_is_better else x < value for x in values)
    return better < max(1, math.ceil(keep * len(values)))
