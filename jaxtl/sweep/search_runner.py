"""Runs a search: asks for trials, trains them side by side, says what came out."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results.database import FAILED, FINISHED, STOPPED, Database, Outcome
from jaxtl.sweep import axes, optuna_study, plan, runner, vectorized_runs
from jaxtl.sweep.grid import Cell
from jaxtl.sweep.search_space import HALVING, Search, draw, goes_on, sampler
from jaxtl.training import build, loop
from jaxtl.training.experiment import Experiment
from jaxtl.training.run import Run

POLL = 1.0  # seconds between looks at what other processes do
EXCLUDED = 1000  # settings drawn in a row that are all excluded


class Told(NamedTuple):
    """What became of a trial.

    Attributes:
      labels: axis -> value of its setting.
      value: mean of the monitored metric, None where it failed or was stopped.
      error: why it failed.
    """

    labels: Mapping[str, Any]
    value: float | None
    error: str = ""


class Rungs:
    """Successive halving of trials that train as lanes.

    At every rung a trial's mean over its seeds is compared with those of all trials
    that came as far, in whatever process; a trial tells it as its intermediate value
    at the rung's share of the steps, in thousandths.

    Args:
      halving: the rungs.
      metric: monitored.
      owners: key of a cell -> its trial.
      shared: the study.
    """

    def __init__(
        self,
        halving: axes.Halving,
        metric: str,
        owners: Mapping[str, Any],
        shared: optuna_study.SharedStudy,
    ):
        self.halving, self.metric, self.shared = halving, metric, shared
        self.owners, self.passed = owners, dict.fromkeys(halving.rungs, ())

    def __call__(
        self, side: vectorized_runs.VectorizedRuns, cells: Sequence[Cell]
    ) -> None:
        """Stops lanes after an evaluation; `cells` are the lanes'."""
        groups: dict[int, list[int]] = {}
        for lane in side.active:
            groups.setdefault(self.owners[cells[lane].key].number, []).append(lane)
        for rung in self.halving.rungs:
            if rung * side.exp.steps <= side.steps_taken < side.exp.steps:
                own = {n: g for n, g in groups.items() if n not in self.passed[rung]}
                self.passed[rung] = (*self.passed[rung], *own)
                side.stop(self._worst(side, own, round(1000 * rung)))

    def _worst(
        self, side: vectorized_runs.VectorizedRuns, groups: dict, place: int
    ) -> list[int]:
        own = {trial.number: trial for trial in self.owners.values()}
        values = {}
        for number, mine in groups.items():
            found = [side.curves[lane]["val"][-1][self.metric] for lane in mine]
            values[number] = float(np.mean(found))
            own[number].report(values[number], place)
        known = [t.intermediate_values for t in self.shared.trials()] if groups else []
        others = [found[place] for found in known if place in found]
        higher = metrics.higher_is_better(self.metric)
        return [
            lane
            for number, mine in groups.items()
            if not goes_on(values[number], others, self.halving.keep, higher)
            for lane in mine
        ]


def work(
    search: Search,
    database: Database,
    shared: optuna_study.SharedStudy,
    found: Mapping[str, dict],
    tell: Callable[[Told], None] = lambda told: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Runs trials until the study has all that it is to hold.

    Args:
      search: what is searched.
      database: the folder's database, where each trial's cells are recorded.
      shared: the study.
      found: from `space`.
      tell: called with each trial that is finished here.
      note: called with sentences for people.

    Raises:
      KeyboardInterrupt: after Ctrl-C; trials under way are left to others.
      UserError: the storage fell silent, or every setting is excluded.
    """
    waiting, warned, sizes = False, False, {}
    with (
        runner.Worker(database) as working,
        loop.Interrupt() as interrupt,
        shared,
    ):
        while not interrupt.requested:
            shared.revive()
            asked = _ask(search, shared, found)
            if asked:
                _batch(search, asked, working, shared, interrupt, sizes, tell)
                warned = warned or _warn(search, sizes, note)
                continue
            done, total = shared.counts()
            if done >= total:
                return
            if not waiting:
                waiting = True
                note(f"{total - done} trials are left, all with other workers: waiting")
            time.sleep(min(POLL, shared.grace / 4))
        raise KeyboardInterrupt("stopped; the same command goes on.")


def _warn(search: Search, sizes: Mapping, note) -> bool:
    """Says so where trials can't be stopped early; returns whether it did."""
    alone = [size.why for size in sizes.values() if size.mode == vectorized_runs.ALONE]
    if search.kind != HALVING or not alone:
        return False
    note(f"halving stops nothing of what runs one by one ({alone[0]})")
    return True


def _ask(
    search: Search, shared: optuna_study.SharedStudy, found
) -> list[tuple[Any, list]]:
    """Returns up to a batch of trials with their cells."""
    asked: list[tuple[Any, list]] = []
    excluded, made = 0, search.made
    while len(asked) < search.batch:
        trial = shared.ask(lambda number: sampler(search.kind, search.seed, number))
        if trial is None:
            break
        cells = draw(trial, made.file, made.grid, found)
        if cells:
            asked.append((trial, cells))
            excluded = 0
            continue
        shared.discard(trial)
        excluded += 1
        if excluded >= EXCLUDED:
            raise UserError(
                f"the last {EXCLUDED:,} settings that were drawn are all excluded; a "
                "tl.sweep.When draws only what is meant."
            )
    return asked


def _batch(search, asked, working, shared, interrupt, sizes, tell) -> None:
    """Runs the cells of some trials side by side; tells each trial when it has all."""
    database = working.database
    cells = {cell.key: cell for _, own in asked for cell in own}
    owners = {cell.key: trial for trial, own in reversed(asked) for cell in own}
    database.add((key, cell.labels) for key, cell in cells.items())
    database.release_dead()
    outcomes = _recorded(database, cells)
    todo = [cell for key, cell in cells.items() if key not in outcomes]
    database.claim([cell.key for cell in todo], working.owner)
    left = _conclude(search, shared, asked, outcomes, tell)
    for program in plan.programs(todo):
        for came in _trained(search, program, owners, shared, interrupt, sizes):
            database.finish(came)
            outcomes.update((one.key, one) for one in came)
            left = _conclude(search, shared, left, outcomes, tell)
        if interrupt.requested:
            return


def _recorded(database: Database, cells) -> dict[str, Outcome]:
    """Returns what is known of some cells: settings can be drawn twice."""
    statuses = database.statuses()
    if not any(statuses.get(key) in FINISHED for key in cells):
        return {}
    return {
        entry.key: Outcome(
            entry.key, entry.status, entry.result, entry.curve, entry.error
        )
        for entry in database.entries()
        if entry.key in cells and entry.status in FINISHED
    }


def _trained(search, program, owners, shared, interrupt, sizes) -> Iterator:
    grid, cells, watch = search.made.grid, list(program.cells), None
    if search.kind == HALVING:
        watch = Rungs(grid.halving or axes.Halving(), search.metric, owners, shared)
    # Rungs look after the halving, across processes; lanes shall not do so as well.
    grid = dataclasses.replace(grid, halving=None)
    made = dataclasses.replace(search.made, grid=grid)
    several = len(cells) > 1 or watch is not None
    size = _footing(made, cells[0].exp, several, sizes)
    seeds = max(collections.Counter(owners[c.key].number for c in cells).values())
    count = max(1, size.lanes // seeds) * seeds  # a trial's seeds stay together
    while cells and not interrupt.requested:
        some, cells = cells[:count], cells[count:]
        yield from runner.run_chunk(made, some, size, interrupt, watch)


def _footing(made, exp: Experiment, several: bool, sizes: dict) -> plan.ExecutionPlan:
    try:
        exp = runner.resolved(exp, made)
        key = build.static_key(exp), several
        if key not in sizes:
            most = plan.LANES if several else 1
            sizes[key] = plan.plan_execution(Run(exp), most, made.mode, made.most)
        return sizes[key]
    except UserError as error:  # each cell will say so of itself
        return plan.ExecutionPlan(vectorized_runs.ALONE, str(error), 1, 0, 0)


def _conclude(search, shared, asked, outcomes, tell) -> list:
    """Tells the trials of which everything is known; returns the others."""
    left = []
    for trial, cells in asked:
        if any(cell.key not in outcomes for cell in cells):
            left.append((trial, cells))
            continue
        own = [outcomes[cell.key] for cell in cells]
        value, error = _value(own, search.metric)
        if shared.tell(trial, value, error):
            labels = {k: v for k, v in cells[0].labels.items() if k != axes.SEED}
            tell(Told(labels, value, error))
    return left


def _value(own: Sequence[Outcome], metric: str) -> tuple[float | None, str]:
    """Returns (mean of the metric on val, error); neither where it was stopped."""
    failed = [one.error for one in own if one.status == FAILED]
    if failed:
        return None, failed[0]
    if any(one.status == STOPPED for one in own):
        return None, ""
    values = [one.result.get("val", {}).get(metric) for one in own]
    if None in values or not np.isfinite(values).all():
        return None, f"{metric} on val is not a finite number"
    return float(np.mean(values)), ""
