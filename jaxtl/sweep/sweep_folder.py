"""A sweep and the folder that records it."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxtl.core import atomic, serialization
from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Dataset
from jaxtl.results.database import CLAIM_TIMEOUT, DATABASE_FILE, Database
from jaxtl.sweep import axes, baseline_cells, plan
from jaxtl.sweep.baseline_cells import BaselineFit
from jaxtl.sweep.cell_key import experiment_digest
from jaxtl.sweep.cells import Cell, build_cells
from jaxtl.sweep.plan import ALONE
from jaxtl.sweep.vectorized_step import MAP, VMAP
from jaxtl.training import data_contents, inputs, run_dir
from jaxtl.training.experiment import Experiment
from jaxtl.training.experiment_file import File
from jaxtl.training.result import environment

EXPERIMENT_FILE = "experiment.py"  # copy of the experiment file in the folder
_UNLIMITED = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep in a folder.

    Attributes:
      file: the experiments.
      grid: the axes.
      cells: all cells.
      programs: the cells, grouped by the values that are compiled in.
      folder: where the sweep is recorded.
      mode: as for `plan.plan_execution`.
      max_replicas: as for `plan.plan_execution`.
      fits: baselines, fitted to the same splits.
      failed_sources: directory of a source -> why its training failed in this process.
    """

    file: File
    grid: axes.Grid
    cells: tuple[Cell, ...]
    programs: tuple[plan.ProgramGroup, ...]
    folder: pathlib.Path
    mode: str = "auto"
    max_replicas: int | None = None
    fits: tuple[BaselineFit, ...] = ()
    failed_sources: dict[pathlib.Path, str] = dataclasses.field(default_factory=dict)


def build_sweep(
    file: File,
    grid: axes.Grid,
    folder: pathlib.Path,
    *,
    mode: str = "auto",
    max_replicas: int | None = None,
    baselines: Any = None,
) -> Sweep:
    """Builds the sweep of a file; no experiment is set up and nothing is written.

    Args:
      file, grid, folder, mode, max_replicas: as in `Sweep`.
      baselines: name -> baseline, as BASELINES of a file; None for none.

    Raises:
      UserError: an unknown mode, no replica at all, or wrong axes.
    """
    if mode not in ("auto", VMAP, MAP, ALONE):
        raise UserError(f"mode={mode!r}: expected auto, vmap, map or alone.")
    if max_replicas is not None and max_replicas < 1:
        raise UserError(f"lanes={max_replicas}: expected at least 1 side by side.")
    if grid.halving is not None and max_replicas is None:
        # Settings are compared within a program, so all of its cells train at once.
        max_replicas = _UNLIMITED
    cells = tuple(build_cells(file, grid))
    fits: tuple[BaselineFit, ...] = ()
    if baselines:
        fits = tuple(baseline_cells.build_fits(baselines, grid, cells))
    axis = baseline_cells.method_axis(grid)
    if fits and axis not in cells[0].labels:
        # In one table with baselines, networks need a label as well.
        cells = tuple(
            dataclasses.replace(c, labels={axis: baseline_cells.NETWORK, **c.labels})
            for c in cells
        )
    programs = tuple(plan.group_by_program(cells))
    return Sweep(file, grid, cells, programs, folder, mode, max_replicas, fits)


def open_database(sweep: Sweep, *, overwrite: bool = False) -> Database:
    """Opens the sweep's database, with every cell in it.

    Raises:
      UserError: a folder that holds something else, or a sweep of other experiments.
    """
    folder, file = sweep.folder, sweep.file
    if overwrite and (folder / DATABASE_FILE).exists():
        _clear(folder)
    try:
        run_dir.create(folder, overwrite=overwrite)
    except UserError:
        # A database there means that the sweep goes on, or another process began it.
        if not (folder / DATABASE_FILE).exists():
            raise
    database = Database(folder, create=True)
    if not (folder / EXPERIMENT_FILE).exists():
        atomic.write_bytes(folder / EXPERIMENT_FILE, file.path.read_bytes())
    digests = {name: experiment_digest(exp) for name, exp in file.variants.items()}
    try:
        _check_same_experiments(folder, database.meta().get("digests"), digests)
    except UserError:
        database.close()
        raise
    database.set_meta(
        digests=digests,
        file=file.path.name,
        doc=file.doc,
        overrides=list(file.overrides),
        axes={name: _labels(values) for name, values in sweep.grid.axes.items()},
        experiments={n: serialization.to_json(e) for n, e in file.variants.items()},
        environment=environment(),
    )
    database.add((cell.key, cell.labels) for cell in (*sweep.cells, *sweep.fits))
    database.requeue_damaged()
    return database


def check_contents(
    sweep: Sweep, exp: Experiment, datasets: Mapping[str, Dataset]
) -> None:
    """Compares data with those of the sweep's other cells; the first ones are stored.

    Raises:
      DataChanged: a data set holds something else than it did for an earlier cell.
    """
    current = data_contents.contents(inputs.sources(exp), datasets)
    with Database(sweep.folder) as database:
        stored = database.meta().get("contents") or {}
        data_contents.check(sweep.folder, stored, current)
        if not current.keys() <= stored.keys():
            database.set_meta(contents={**current, **stored})


def _check_same_experiments(
    folder: pathlib.Path, stored: dict[str, str] | None, digests: dict[str, str]
) -> None:
    if stored is None or stored == digests:
        return
    changed = sorted(
        name or "the experiment"
        for name in {*stored, *digests}
        if stored.get(name) != digests.get(name)
    )
    raise UserError(
        f"{folder} holds a sweep of other experiments: {', '.join(changed)} changed "
        "since; choose another --out, or --overwrite what lies there."
    )


def _clear(folder: pathlib.Path) -> None:
    """Empties the folder of a sweep that no process works on."""
    busy = False  # a database that is damaged counts as idle
    with contextlib.suppress(UserError), Database(folder) as database:
        database.release_dead()
        busy = any(age < CLAIM_TIMEOUT for _, age in database.owners().values())
    if busy:
        raise UserError(
            f"{folder} is in use by another process; wait for it, or choose another "
            "--out."
        )
    run_dir.empty(folder, (DATABASE_FILE,))


def _labels(values: Any) -> list:
    values = values.values if isinstance(values, axes.When) else values
    return [axes.label_of(value) for value in values]
