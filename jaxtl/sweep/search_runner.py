"""Runs a search: draws trials, trains them side by side, reports their values."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import Stopped, UserError
from jaxtl.results.database import FAILED, FINISHED, STOPPED, Database, Outcome
from jaxtl.sweep import chunk, plan, search_space
from jaxtl.sweep.axes import SEED, Halving
from jaxtl.sweep.cells import Cell
from jaxtl.sweep.halving import Rungs
from jaxtl.sweep.optuna_study import SharedStudy
from jaxtl.sweep.plan import ALONE
from jaxtl.sweep.runner import Worker
from jaxtl.sweep.search_space import Search
from jaxtl.sweep.sources import with_trained_source
from jaxtl.training import build, loop
from jaxtl.training.experiment import Experiment
from jaxtl.training.run import Run

POLL_SECONDS = 1.0  # between looks at what other processes do
MAX_EXCLUDED = 1000  # excluded settings drawn in succession before a search gives up


class TrialOutcome(NamedTuple):
    """The outcome of a trial.

    Attributes:
      labels: axis -> value of its setting.
      value: mean of the monitored metric on val over the seeds; None where the trial
        failed or was stopped.
      error: why it failed.
    """

    labels: Mapping[str, Any]
    value: float | None
    error: str = ""


class _TrialCells(NamedTuple):
    """A trial and the cells of its setting, one per seed."""

    trial: Any
    cells: list[Cell]


def run_search(
    search: Search,
    database: Database,
    study: SharedStudy,
    distributions: Mapping[str, dict],
    on_trial: Callable[[TrialOutcome], None] = lambda outcome: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> None:
    """Runs trials until the study has as many as it shall have.

    Args:
      search: the search.
      database: the folder's database, which records the cells of each trial.
      study: the study that processes share.
      distributions: from `search_space.space`.
      on_trial: called with each trial that this process finishes.
      on_note: called with sentences for the user.

    Raises:
      Stopped: after Ctrl-C or SIGTERM; trials under way are left to other processes.
      UserError: the storage stops answering, or every setting is excluded.
    """
    is_waiting = has_warned = False
    with Worker(database) as worker, loop.Interrupt() as interrupt, study:
        batches = _Batches(search, worker, study, interrupt, on_trial)
        while not interrupt.requested:
            study.requeue_dead()
            batch = _draw_batch(search, study, distributions)
            if batch:
                batches.run(batch)
                if not has_warned and (reason := batches.reason_without_halving()):
                    on_note(f"halving stops nothing of what runs one by one ({reason})")
                    has_warned = True
                continue
            done, total = study.counts()
            if done >= total:
                return
            if not is_waiting:
                is_waiting = True
                on_note(
                    f"{total - done} trials are left, all with other workers: waiting"
                )
            time.sleep(min(POLL_SECONDS, study.grace / 4))
        raise Stopped("stopped; the same command goes on.", interrupt.signal_number)


def _draw_batch(
    search: Search, study: SharedStudy, distributions: Mapping[str, dict]
) -> list[_TrialCells]:
    """Draws up to a batch of trials whose settings are not excluded."""
    batch: list[_TrialCells] = []
    excluded, sweep = 0, search.sweep
    while len(batch) < search.batch:
        trial = study.ask(
            lambda number: search_space.sampler(search.kind, search.seed, number)
        )
        if trial is None:
            break
        cells = search_space.draw(trial, sweep.file, sweep.grid, distributions)
        study.mark_drawn(trial)
        if cells:
            batch.append(_TrialCells(trial, cells))
            excluded = 0
            continue
        study.drop(trial)
        excluded += 1
        if excluded >= MAX_EXCLUDED:
            raise UserError(
                f"the last {MAX_EXCLUDED:,} settings that were drawn are all excluded; "
                "a tl.sweep.When draws only what is meant."
            )
    return batch


class _Batches:
    """Trains batches of trials, one after the other."""

    def __init__(
        self,
        search: Search,
        worker: Worker,
        study: SharedStudy,
        interrupt: loop.Interrupt,
        on_trial: Callable[[TrialOutcome], None],
    ):
        self._search, self._worker = search, worker
        self._study, self._interrupt, self._on_trial = study, interrupt, on_trial
        # (static key of an experiment, whether several cells run) -> plan
        self._plans: dict[Any, plan.ExecutionPlan] = {}

    def reason_without_halving(self) -> str:
        """Why trials can't be stopped early by halving, "" where they can."""
        if self._search.kind != search_space.HALVING:
            return ""
        reasons = [p.reason for p in self._plans.values() if p.mode == ALONE]
        return reasons[0] if reasons else ""

    def run(self, batch: Sequence[_TrialCells]) -> None:
        """Trains the cells of some trials; tells the study each trial's value."""
        cells = {cell.key: cell for _, group in batch for cell in group}
        # Of two trials with one setting, the first one owns the cells.
        trials = {cell.key: trial for trial, group in reversed(batch) for cell in group}
        self._worker.database.add((key, cell.labels) for key, cell in cells.items())
        self._worker.database.release_dead()
        outcomes = self._recorded(cells)
        missing = [cell for key, cell in cells.items() if key not in outcomes]
        self._worker.database.claim([cell.key for cell in missing], self._worker.owner)
        unfinished = self._tell_finished(batch, outcomes)
        for group in plan.group_by_program(missing):
            for chunk_outcomes in self._train(group, trials):
                self._worker.database.finish(chunk_outcomes)
                outcomes.update((outcome.key, outcome) for outcome in chunk_outcomes)
                unfinished = self._tell_finished(unfinished, outcomes)
            if self._interrupt.requested:
                return

    def _recorded(self, cells: Mapping[str, Cell]) -> dict[str, Outcome]:
        """Outcomes of cells that finished earlier: a setting can be drawn twice."""
        statuses = self._worker.database.statuses()
        if not any(statuses.get(key) in FINISHED for key in cells):
            return {}
        return {
            entry.key: Outcome(
                entry.key, entry.status, entry.result, entry.curve, entry.error
            )
            for entry in self._worker.database.entries()
            if entry.key in cells and entry.status in FINISHED
        }

    def _train(
        self, group: plan.ProgramGroup, trials: Mapping[str, Any]
    ) -> Iterator[list[Outcome]]:
        """Trains the cells of a program group; `trials` maps their keys to trials."""
        cells, on_evaluation = list(group.cells), None
        grid = self._search.sweep.grid
        if self._search.kind == search_space.HALVING:
            on_evaluation = Rungs(
                grid.halving or Halving(),
                self._search.metric,
                trials,
                self._study,
                higher=search_space.higher_is_better(self._search),
            )
        # Rungs compare the trials of all processes, so a grid's halving is not applied.
        grid = dataclasses.replace(grid, halving=None)
        sweep = dataclasses.replace(self._search.sweep, grid=grid)
        several = len(cells) > 1 or on_evaluation is not None
        execution = self._plan(cells[0].exp, several)
        counts = collections.Counter(trials[cell.key].number for cell in cells)
        seeds = max(counts.values())
        size = max(1, execution.replicas // seeds) * seeds  # keeps seeds together
        for start in range(0, len(cells), size):
            if self._interrupt.requested:
                return
            yield from chunk.run_chunk(
                sweep,
                cells[start : start + size],
                execution,
                self._interrupt,
                on_evaluation,
            )

    def _plan(self, exp: Experiment, several: bool) -> plan.ExecutionPlan:
        sweep = self._search.sweep
        try:
            exp = with_trained_source(exp, sweep)
            key = build.static_key(exp), several
            if key not in self._plans:
                count = plan.MAX_REPLICAS if several else 1
                self._plans[key] = plan.plan_execution(
                    Run(exp), count, sweep.mode, sweep.max_replicas
                )
            return self._plans[key]
        except UserError as error:  # every cell will fail with an error of its own
            return plan.ExecutionPlan(ALONE, str(error), 1, 0, 0)

    def _tell_finished(
        self, batch: Sequence[_TrialCells], outcomes: Mapping[str, Outcome]
    ) -> list[_TrialCells]:
        """Tells the study the finished trials; returns the others."""
        unfinished = []
        for trial, cells in batch:
            if any(cell.key not in outcomes for cell in cells):
                unfinished.append(_TrialCells(trial, cells))
                continue
            trial_outcomes = [outcomes[cell.key] for cell in cells]
            value, error = _value(trial_outcomes, self._search.metric)
            if self._study.tell(trial, value, error):
                labels = {k: v for k, v in cells[0].labels.items() if k != SEED}
                self._on_trial(TrialOutcome(labels, value, error))
        return unfinished


def _value(outcomes: Sequence[Outcome], metric: str) -> tuple[float | None, str]:
    """(mean of the metric on val, error) of a trial; (None, "") if it was stopped."""
    errors = [outcome.error for outcome in outcomes if outcome.status == FAILED]
    if errors:
        return None, errors[0]
    if any(outcome.status == STOPPED for outcome in outcomes):
        return None, ""
    values = [outcome.result.get("val", {}).get(metric) for outcome in outcomes]
    if None in values or not np.isfinite(values).all():
        return None, f"{metric} on val is not a finite number"
    return float(np.mean(values)), ""
