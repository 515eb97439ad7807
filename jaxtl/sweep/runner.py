"""Runs a sweep: claims cells, trains them as lanes or alone, records what came out."""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxtl import pretrained
from jaxtl.core import serialization
from jaxtl.core.errors import RunLocked, UserError
from jaxtl.results.database import (
    CLAIM_TIMEOUT,
    DAMAGED,
    DATABASE_FILE,
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    Database,
    Outcome,
    new_owner,
)
from jaxtl.sweep import (
    axes,
    baseline_cells,
    plan,
    stacking,
    vectorized_loop,
    vectorized_runs,
)
from jaxtl.sweep.cell_key import experiment_digest
from jaxtl.sweep.grid import Cell, build_cells
from jaxtl.training import build, loop, run_dir, setup
from jaxtl.training.experiment import Experiment, Variant
from jaxtl.training.experiment_file import File
from jaxtl.training.result import environment
from jaxtl.training.run import Run

BEAT = 10.0  # seconds between signs of life
POLL = 1.0  # seconds between looks at a source that another process trains


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep in a folder.

    Attributes:
      file, grid: what it is made of.
      cells: all of them.
      programs: the cells by what is compiled in.
      folder: where it is recorded.
      mode, most: as for `plan.plan_execution`.
      fitted: baselines, on the same splits.
      broken: source -> why it can't be trained, as far as that was found out.
    """

    file: File
    grid: axes.Grid
    cells: tuple[Cell, ...]
    programs: tuple[plan.ProgramGroup, ...]
    folder: pathlib.Path
    mode: str = "auto"
    most: int | None = None
    fitted: tuple[baseline_cells.Fit, ...] = ()
    broken: dict[pathlib.Path, str] = dataclasses.field(default_factory=dict)


def build_sweep(
    file: File,
    grid: axes.Grid,
    folder: pathlib.Path,
    *,
    mode: str = "auto",
    most: int | None = None,
    baselines: Any = None,
) -> Sweep:
    """Returns the sweep of a file; nothing is set up or written yet.

    Args:
      file, grid, folder, mode, most: as in `Sweep`.
      baselines: the file's BASELINES, or None.
    """
    if mode not in (
        "auto",
        vectorized_runs.VMAP,
        vectorized_runs.MAP,
        vectorized_runs.ALONE,
    ):
        raise UserError(f"mode={mode!r}: expected auto, vmap, map or alone.")
    if most is not None and most < 1:
        raise UserError(f"lanes={most}: expected at least 1 side by side.")
    if grid.halving is not None and most is None:
        most = 2**20  # settings are compared within a program: all its lanes at once
    cells = tuple(build_cells(file, grid))
    groups = tuple(plan.programs(cells))
    fitted = tuple(baseline_cells.fits(baselines, grid, cells)) if baselines else ()
    if fitted and baseline_cells.method_axis(grid) not in cells[0].labels:
        # Beside baselines, networks need a name as well.
        axis = baseline_cells.method_axis(grid)
        cells = tuple(
            dataclasses.replace(c, labels={axis: baseline_cells.NETWORK, **c.labels})
            for c in cells
        )
        groups = tuple(plan.programs(cells))
    return Sweep(file, grid, cells, groups, folder, mode, most, fitted)


def open_database(made: Sweep, *, overwrite: bool = False) -> Database:
    """Opens the sweep's database, with every cell in it.

    Raises:
      UserError: a folder that holds something else, or a sweep of other experiments.
    """
    folder = made.folder
    if overwrite and (folder / DATABASE_FILE).exists():
        _clear(folder)
    try:
        run_dir.create(folder, overwrite=overwrite)
    except UserError:
        # A database there means that the sweep goes on, or another process began it.
        if not (folder / DATABASE_FILE).exists():
            raise
    database = Database(folder, create=True)
    if not (folder / "experiment.py").exists():
        shutil.copyfile(made.file.path, folder / "experiment.py")
    digests = {name: experiment_digest(exp) for name, exp in made.file.variants.items()}
    known = database.meta().get("digests")
    if known is not None and known != digests:
        changed = sorted(
            name or "the experiment"
            for name in {*known, *digests}
            if known.get(name) != digests.get(name)
        )
        database.close()
        raise UserError(
            f"{folder} holds a sweep of other experiments: {', '.join(changed)} "
            "changed since; choose another --out, or --overwrite what lies there."
        )
    database.set_meta(
        digests=digests,
        file=made.file.path.name,
        doc=made.file.doc,
        overrides=list(made.file.overrides),
        axes={name: _shown(values) for name, values in made.grid.axes.items()},
        experiments={
            n: serialization.to_json(e) for n, e in made.file.variants.items()
        },
        environment=environment(),
    )
    database.add((cell.key, cell.labels) for cell in (*made.cells, *made.fitted))
    database.requeue_damaged()
    return database


def _clear(folder: pathlib.Path) -> None:
    """Empties the folder of a sweep that nobody works on."""
    busy = False  # nor with a database that is damaged
    with contextlib.suppress(UserError), Database(folder) as database:
        database.release_dead()
        busy = any(age < CLAIM_TIMEOUT for _, age in database.owners().values())
    if busy:
        raise UserError(
            f"{folder} is in use by another process; wait for it, or choose another "
            "--out."
        )
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def _shown(values: Any) -> Any:
    values = values.values if isinstance(values, axes.When) else values
    return [axes.label_of(value) for value in values]


class Worker(contextlib.ExitStack):
    """A process that works on a sweep: beats while it does, hands back what is left."""

    def __init__(self, database: Database):
        super().__init__()
        self.database, self.owner = database, new_owner()
        self._ended = threading.Event()

    def __enter__(self) -> "Worker":
        self.database.release_dead()
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        self.callback(self.database.release, self.owner)
        self.callback(thread.join)
        self.callback(self._ended.set)
        return self

    def _beat(self) -> None:
        with Database(self.database.path.parent) as own:
            while not self._ended.wait(BEAT):
                with contextlib.suppress(UserError):  # the disk may be full for now
                    own.heartbeat(self.owner)


def run(
    made: Sweep,
    database: Database,
    tell: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> None:
    """Runs every cell that waits, chunk by chunk, and records each as it finishes.

    Raises:
      KeyboardInterrupt: after Ctrl-C; what is under way waits anew.
    """
    with Worker(database) as working, loop.Interrupt() as interrupt:
        for program in made.programs:
            for outcomes in _chunks(made, program, working, interrupt):
                database.finish(outcomes)
                tell(outcomes)
        for fit in made.fitted:
            if not interrupt.requested and database.claim([fit.key], working.owner):
                outcome = _fitted(fit, made)
                database.finish([outcome])
                tell([outcome])
        if interrupt.requested:
            raise KeyboardInterrupt("stopped; the same command goes on.")


def _fitted(fit: baseline_cells.Fit, made: Sweep) -> Outcome:
    try:
        exp = resolved(fit.exp, made)
    except UserError as error:
        return Outcome(fit.key, FAILED, {}, {}, str(error))
    return baseline_cells.run(fit, exp)


def _chunks(made: Sweep, program: plan.ProgramGroup, working: Worker, interrupt):
    """Yields the outcomes of a program's cells, some at a time."""
    database, owner = working.database, working.owner
    size, left = None, list(program.cells)
    while left and not interrupt.requested:
        known = database.statuses()
        open_ = (WAITING, RUNNING, DAMAGED)
        left = [cell for cell in left if known[cell.key] in open_]
        if not left:
            return
        if size is None:
            size = yield from _sized(made, program, left, working)
            if size is None:
                return
        wanted, left = left[: size.lanes], left[size.lanes :]
        taken = set(database.claim([cell.key for cell in wanted], owner))
        mine = [cell for cell in wanted if cell.key in taken]
        if mine:
            yield from run_chunk(made, mine, size, interrupt)


def _sized(made: Sweep, program: plan.ProgramGroup, left, working: Worker):
    """Returns the footing of a program, or None where no cell of it can be set up."""
    for cell in left:
        try:
            first = Run(resolved(cell.exp, made))
            return plan.plan_execution(first, len(left), made.mode, made.most)
        except UserError as error:
            if working.database.claim([cell.key], working.owner):
                yield [Outcome(cell.key, FAILED, {}, {}, str(error))]
    return None


def run_chunk(
    made: Sweep,
    cells: Sequence[Cell],
    size: plan.ExecutionPlan,
    interrupt,
    watch=None,
) -> Iterator[list[Outcome]]:
    """Trains some cells of one program; yields what came out.

    `watch` is called with lanes and their cells after each evaluation, and may stop
    some; cells that train alone are not watched.
    """
    ready, failed = _set_up(made, cells)
    if failed:
        yield failed
    if size.mode != vectorized_runs.ALONE and (len(ready) > 1 or (ready and watch)):
        try:
            found = _side_by_side(made, ready, size.mode, interrupt, watch)
            if found is not None:
                yield found
            return
        except stacking.IncompatibleRuns:
            pass  # their arrays differ in shape after all
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or len(ready) < 2:
                raise
            # Too many for the memory after all.
            half = dataclasses.replace(size, lanes=-(-len(ready) // 2))
            mine = [cell for cell, _ in ready]
            yield from run_chunk(made, mine[: half.lanes], half, interrupt, watch)
            yield from run_chunk(made, mine[half.lanes :], half, interrupt, watch)
            return
    for cell, one in ready:
        if interrupt.requested:
            return
        try:
            found = [_alone(cell, one)]
        except KeyboardInterrupt:  # it was the run that was told
            interrupt.requested = True
            return
        yield found


def _set_up(made: Sweep, cells):
    """Returns ([(cell, run)], outcomes of those that can't be set up)."""
    ready, failed, known = [], [], {}
    for cell in cells:
        try:
            exp = resolved(cell.exp, made)
            essence = build.static_key(exp)
            if essence not in known:
                known[essence] = Run(exp)
                one = known[essence]
                if len(one.parts.phases) > 1:
                    del known[essence]
            else:
                one = known[essence].with_experiment(exp)
            ready.append((cell, one))
        except UserError as error:
            failed.append(Outcome(cell.key, FAILED, {}, {}, str(error)))
    return ready, failed


def _side_by_side(made: Sweep, ready, mode: str, interrupt, watch=None):
    """Trains cells as lanes; returns their outcomes, None where that was stopped."""
    begun = time.perf_counter()
    apart = made.grid.halving is None and watch is None
    parts = _parts(len(ready)) if mode == vectorized_runs.MAP and apart else 1
    size = -(-len(ready) // parts)
    shares = [ready[i : i + size] for i in range(0, len(ready), size)]
    # Features are cached here, one share after the other: most are common to all.
    sides = [
        vectorized_runs.VectorizedRuns(
            [one for _, one in share], mode, one_core=len(shares) > 1
        )
        for share in shares
    ]

    def train(share, side):
        cells = [cell for cell, _ in share]
        return vectorized_loop.train_vectorized(
            side,
            halving=made.grid.halving,
            settings=[_setting(cell) for cell in cells],
            should_stop=lambda: interrupt.requested,
            on_evaluation=lambda _: watch(side, cells) if watch else None,
        )

    with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
        found = list(pool.map(train, shares, sides))
    if any(part is None for part in found):
        return None
    seconds = (time.perf_counter() - begun) / len(ready)
    return [
        Outcome(
            cell.key,
            one.status,
            {**one.result, "seconds": seconds} if one.result else {},
            one.curve,
            one.error,
        )
        for share, part in zip(shares, found)
        for (cell, _), one in zip(share, part)
    ]


def _parts(count: int) -> int:
    """Returns over how many cores lanes are shared out: each has at least four."""
    cores = getattr(os, "sched_getaffinity", None)
    cores = len(cores(0)) if cores else os.cpu_count() or 1
    return max(1, min(cores, count // 4))


def _setting(cell: Cell) -> tuple:
    """Returns a cell's labels but its seed's."""
    return tuple((k, str(v)) for k, v in cell.labels.items() if k != axes.SEED)


def _alone(cell: Cell, one: Run) -> Outcome:
    begun = time.perf_counter()
    # The run's first step donates its state, which siblings share.
    one = one.with_experiment(one.exp) if len(one.parts.phases) == 1 else one
    try:
        result = loop.train(one, progress=False)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        # The device's own errors (no memory left) are one cell's: the others go on.
        text = str(error).partition("\n")[0]
        return Outcome(cell.key, FAILED, {}, one.curve, text)
    result = {**result, "seconds": time.perf_counter() - begun}
    curve = {
        "step": one.curve["step"],
        "loss": [float(f"{x:.6g}") for x in one.curve["loss"]],
        "val": [vectorized_loop.rounded(row) for row in one.curve["val"]],
    }
    return Outcome(cell.key, DONE, result, curve)


def resolved(exp: Experiment, made: Sweep) -> Experiment:
    """Returns an experiment whose source, where that is a variant, is trained."""
    if not isinstance(exp.init, Variant):
        return exp
    init = exp.init
    base = made.file.variants[init.name]
    seed = exp.seed if init.per_seed else base.seed
    path = made.folder / "sources" / init.name.replace("/", "_") / f"seed{seed}"
    source = resolved(dataclasses.replace(base, seed=seed), made)
    if path not in made.broken:  # else it would fail for every cell anew
        try:
            _trained(source, path, made)
        except UserError as error:
            made.broken[path] = f"its source {init.name!r} failed: {error}"
    if path in made.broken:
        raise UserError(made.broken[path])
    start = pretrained.FromRun(str(path), init.reset, init.ignore, init.which)
    return dataclasses.replace(exp, init=start)


def _trained(exp: Experiment, path: pathlib.Path, made: Sweep) -> None:
    """Trains a source, or waits until another process has."""
    while not (path / "result.json").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with run_dir.lock(path.parent):
                if (path / run_dir.MARK).exists():
                    one = setup.resume(path)
                else:
                    fresh = {"file": made.file.path, "overwrite": path.exists()}
                    one = setup.setup(exp, path, **fresh)
                loop.train(one, progress=False)
        except RunLocked:
            time.sleep(POLL)
