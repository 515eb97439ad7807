"""Runs a sweep: claims cells in its database, trains them, records their outcomes."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

from jaxtl.analysis.baselines.inputs import dataset
from jaxtl.core.errors import DataChanged, Stopped, UserError
from jaxtl.results.database import (
    DAMAGED,
    FAILED,
    RUNNING,
    WAITING,
    Database,
    Outcome,
    new_owner,
)
from jaxtl.sweep import baseline_cells, plan
from jaxtl.sweep.cells import Cell
from jaxtl.sweep.chunk import run_chunk
from jaxtl.sweep.sources import with_trained_source
from jaxtl.sweep.sweep_folder import Sweep, check_contents
from jaxtl.training import loop
from jaxtl.training.run import Run

HEARTBEAT_SECONDS = 10.0  # between two heartbeats of a worker


class Worker(contextlib.ExitStack):
    """A process that works on a sweep.

    As a context, it sends heartbeats from a thread, and at its end releases the cells
    that it claimed and did not finish.

    Attributes:
      database: the sweep's.
      owner: the name under which this process claims cells.
    """

    def __init__(self, database: Database):
        super().__init__()
        self.database, self.owner = database, new_owner()
        self._ended = threading.Event()

    def __enter__(self) -> "Worker":
        self.database.release_dead()
        thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        thread.start()
        self.callback(self.database.release, self.owner)
        self.callback(thread.join)
        self.callback(self._ended.set)
        return self

    def _send_heartbeats(self) -> None:
        with Database(self.database.path.parent) as database:
            while not self._ended.wait(HEARTBEAT_SECONDS):
                with contextlib.suppress(UserError):  # a full disk may have room later
                    database.heartbeat(self.owner)


def run(
    sweep: Sweep,
    database: Database,
    on_outcomes: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> None:
    """Runs every cell that waits, in chunks, and records each when it has finished.

    Args:
      sweep: the sweep.
      database: its database, open.
      on_outcomes: called with the outcomes of each chunk.

    Raises:
      Stopped: after Ctrl-C or SIGTERM; cells under way are released.
    """
    with Worker(database) as worker, loop.Interrupt() as interrupt:
        for group in sweep.programs:
            for outcomes in _run_group(sweep, group, worker, interrupt):
                database.finish(outcomes)
                on_outcomes(outcomes)
        for fit in sweep.fits:
            if not interrupt.requested and database.claim([fit.key], worker.owner):
                outcome = _run_fit(fit, sweep)
                database.finish([outcome])
                on_outcomes([outcome])
        if interrupt.requested:
            raise Stopped("stopped; the same command goes on.", interrupt.signal_number)


def _run_fit(fit: baseline_cells.BaselineFit, sweep: Sweep) -> Outcome:
    try:
        exp = with_trained_source(fit.exp, sweep)
        check_contents(sweep, exp, {"target": dataset(exp)})
    except DataChanged:
        raise
    except UserError as error:
        return Outcome(fit.key, FAILED, {}, {}, str(error))
    return baseline_cells.run_fit(fit, exp)


def _run_group(
    sweep: Sweep, group: plan.ProgramGroup, worker: Worker, interrupt: loop.Interrupt
) -> Iterator[list[Outcome]]:
    """Trains the cells of a program group that this process can claim."""
    execution, cells = None, list(group.cells)
    while cells and not interrupt.requested:
        statuses = worker.database.statuses()
        unfinished = (WAITING, RUNNING, DAMAGED)
        cells = [cell for cell in cells if statuses[cell.key] in unfinished]
        if not cells:
            return
        if execution is None:
            execution = yield from _plan_group(sweep, cells, worker)
            if execution is None:
                return
        count = execution.replicas
        chunk, cells = cells[:count], cells[count:]
        keys = worker.database.claim([cell.key for cell in chunk], worker.owner)
        claimed = [cell for cell in chunk if cell.key in set(keys)]
        if claimed:
            yield from run_chunk(sweep, claimed, execution, interrupt)


def _plan_group(
    sweep: Sweep, cells: Sequence[Cell], worker: Worker
) -> Generator[list[Outcome], None, plan.ExecutionPlan | None]:
    """Plans the execution of cells by the first of them that can be set up.

    Yields the outcomes of the cells before it; returns None if there is none.
    """
    for cell in cells:
        try:
            run = Run(with_trained_source(cell.exp, sweep))
            mode, max_replicas = sweep.mode, sweep.max_replicas
            return plan.plan_execution(run, len(cells), mode, max_replicas)
        except DataChanged:
            raise
        except UserError as error:
            if worker.database.claim([cell.key], worker.owner):
                yield [Outcome(cell.key, FAILED, {}, {}, str(error))]
    return None
