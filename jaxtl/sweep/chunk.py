"""Trains a chunk of a sweep's cells: as replicas of one program, or one by one."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from jaxtl.core import devices, resource_errors
from jaxtl.core.errors import DataChanged, Stopped, UserError
from jaxtl.results.database import DONE, FAILED, Outcome
from jaxtl.sweep import plan, stacking, vectorized_loop
from jaxtl.sweep.axes import SEED
from jaxtl.sweep.cells import Cell
from jaxtl.sweep.plan import ALONE
from jaxtl.sweep.sources import with_trained_source
from jaxtl.sweep.sweep_folder import Sweep, check_contents
from jaxtl.sweep.vectorized_runs import VectorizedRuns
from jaxtl.sweep.vectorized_step import MAP
from jaxtl.training import build, loop
from jaxtl.training.run import Run

# Replicas per core at least, where they are distributed over several.
MIN_REPLICAS_PER_CORE = 4

OnEvaluation = Callable[[VectorizedRuns, Sequence[Cell]], None]


class _CellRun(NamedTuple):
    """A cell and its run, set up and not begun."""

    cell: Cell
    run: Run


def run_chunk(
    sweep: Sweep,
    cells: Sequence[Cell],
    execution: plan.ExecutionPlan,
    interrupt: loop.Interrupt,
    on_evaluation: OnEvaluation | None = None,
) -> Iterator[list[Outcome]]:
    """Trains some cells of one program group; yields the outcomes as they come.

    Args:
      sweep: the sweep.
      cells: the cells to train.
      execution: how.
      interrupt: ends the training when requested; unfinished cells have no outcome.
      on_evaluation: called with the replicas and their cells after each evaluation, and
        may stop replicas; it is not called for cells that train alone.
    """
    ready, failed = _set_up(sweep, cells)
    if failed:
        yield failed
    if execution.mode != ALONE and (len(ready) > 1 or (ready and on_evaluation)):
        try:
            outcomes = _train_replicas(
                sweep, ready, execution.mode, interrupt, on_evaluation
            )
            if outcomes is not None:
                yield outcomes
            return
        except stacking.IncompatibleRuns:
            pass  # arrays of unequal shapes, which show only once the runs are set up
        except jax.errors.JaxRuntimeError as error:
            if not resource_errors.is_out_of_memory(error) or len(ready) < 2:
                raise
            # The plan's estimate of the memory was too low: half as many at once.
            count = -(-len(ready) // 2)
            half = dataclasses.replace(execution, replicas=count)
            cells = [cell for cell, _ in ready]
            for part in (cells[:count], cells[count:]):
                yield from run_chunk(sweep, part, half, interrupt, on_evaluation)
            return
    yield from _train_one_by_one(ready, interrupt)


def _set_up(
    sweep: Sweep, cells: Sequence[Cell]
) -> tuple[list[_CellRun], list[Outcome]]:
    """Sets cells up; returns their runs, and the outcomes of those that fail.

    Raises:
      DataChanged: the data are not those that earlier cells were measured on.
    """
    ready, failed = [], []
    runs: dict[Any, Run] = {}
    for cell in cells:
        try:
            exp = with_trained_source(cell.exp, sweep)
            key = build.static_key(exp)
            if key in runs:
                run = runs[key].with_experiment(exp)
            else:
                run = Run(exp)
                check_contents(sweep, exp, run.datasets)
                if len(run.parts.phases) == 1:
                    runs[key] = run
            ready.append(_CellRun(cell, run))
        except DataChanged:  # no cell of this sweep can be measured any more
            raise
        except UserError as error:
            failed.append(Outcome(cell.key, FAILED, {}, {}, str(error)))
    return ready, failed


def _train_replicas(
    sweep: Sweep,
    ready: Sequence[_CellRun],
    mode: str,
    interrupt: loop.Interrupt,
    on_evaluation: OnEvaluation | None,
) -> list[Outcome] | None:
    """Trains cells as replicas; returns their outcomes, None after an interrupt."""
    start = time.perf_counter()
    # Replicas that are compared with each other train in one group.
    independent = sweep.grid.halving is None and on_evaluation is None
    count = _core_count(len(ready)) if mode == MAP and independent else 1
    size = -(-len(ready) // count)
    groups = [ready[i : i + size] for i in range(0, len(ready), size)]
    # In one thread, since it fills the feature cache and groups share most features.
    vectorized = [
        VectorizedRuns([run for _, run in group], mode, one_core=len(groups) > 1)
        for group in groups
    ]

    def train(
        group: Sequence[_CellRun], replicas: VectorizedRuns
    ) -> list[vectorized_loop.TrainedReplica] | None:
        cells = [cell for cell, _ in group]
        return vectorized_loop.train_vectorized(
            replicas,
            halving=sweep.grid.halving,
            settings=[_setting(cell) for cell in cells],
            should_stop=lambda: interrupt.requested,
            on_evaluation=lambda _: (
                on_evaluation(replicas, cells) if on_evaluation else None
            ),
        )

    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        trained = list(pool.map(train, groups, vectorized))
    if any(replicas is None for replicas in trained):
        return None
    seconds = (time.perf_counter() - start) / len(ready)
    return [
        _outcome(cell, replica, seconds)
        for group, replicas in zip(groups, trained)
        for (cell, _), replica in zip(group, replicas)
    ]


def _outcome(
    cell: Cell, replica: vectorized_loop.TrainedReplica, seconds: float
) -> Outcome:
    result = {**replica.result, "seconds": seconds} if replica.result else {}
    return Outcome(cell.key, replica.status, result, replica.curve, replica.error)


def _core_count(replicas: int) -> int:
    """Number of cores that replicas are distributed over."""
    return max(1, min(devices.core_count(), replicas // MIN_REPLICAS_PER_CORE))


def _setting(cell: Cell) -> tuple[tuple[str, str], ...]:
    """A cell's labels without that of its seed."""
    return tuple((k, str(v)) for k, v in cell.labels.items() if k != SEED)


def _train_one_by_one(
    ready: Sequence[_CellRun], interrupt: loop.Interrupt
) -> Iterator[list[Outcome]]:
    for cell, run in ready:
        if interrupt.requested:
            return
        try:
            outcome = _train_alone(cell, run)
        except KeyboardInterrupt as stopped:  # the run's own loop received the signal
            interrupt.requested = True
            if isinstance(stopped, Stopped):
                interrupt.signal_number = stopped.signal_number
            return
        yield [outcome]


def _train_alone(cell: Cell, run: Run) -> Outcome:
    """Trains one cell by the loop of single runs."""
    start = time.perf_counter()
    # The first step donates the run's state, which runs of the same key share.
    run = run.with_experiment(run.exp) if len(run.parts.phases) == 1 else run
    try:
        result = loop.train(run, progress=False)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        # Errors of the device, such as no memory, fail this cell; the others go on.
        text = resource_errors.device_sentence(error)
        return Outcome(cell.key, FAILED, {}, run.curve, text)
    result = {**result, "seconds": time.perf_counter() - start}
    curve = {
        "step": run.curve["step"],
        "loss": [vectorized_loop.six_digits(x) for x in run.curve["loss"]],
        "val": [vectorized_loop.rounded(row) for row in run.curve["val"]],
    }
    return Outcome(cell.key, DONE, result, curve)
