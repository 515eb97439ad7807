"""Sweeps from Python, as `jaxtl sweep` runs them: planned, run and shown."""

import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.results import results, writers
from jaxtl.results.database import FINISHED, Database
from jaxtl.results.tables import Sheet
from jaxtl.sweep import plan, runner
from jaxtl.sweep.grid import build_grid
from jaxtl.training import experiment_file as experiments
from jaxtl.training.experiment import Experiment
from jaxtl.training.experiment_file import File

PAUSE = 5.0  # seconds between lines of progress
EXAMINED = 12  # programs of a plan that are set up to say how they run

# Stands where a sweep of a file keeps a copy of it.
_NOTE = '"""{}\n\nMade in Python, by tl.run_sweep: what ran is in sweep.sqlite."""\n'


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep would run, shown as a table of its compiled programs.

    Attributes:
      cells: number of experiments.
      fits: number of fits of baselines.
      sheet: a row per program.
    """

    cells: int
    fits: int
    sheet: Sheet

    @property
    def programs(self) -> int:
        """Number of programs that are compiled."""
        return len(self.sheet.rows)

    def __repr__(self) -> str:
        return writers.markdown(self.sheet)

    def _repr_html_(self) -> str:
        return results.table(self.sheet)


def plan_sweep(
    experiment: Any,
    axes: Any = None,
    *,
    baselines: Any = None,
    mode: str = "auto",
    lanes: int | None = None,
) -> Plan:
    """Returns what `run_sweep` of the same arguments would do; nothing is trained."""
    with tempfile.TemporaryDirectory() as folder:
        made = _made(experiment, axes, folder, folder, "", baselines, mode, lanes)
        rows = [
            _row(made, program, number < EXAMINED)
            for number, program in enumerate(made.programs)
        ]
    title = f"{len(made.cells):,} cells in {len(rows):,} programs"
    title += f", and {len(made.fitted):,} fits of baselines" if made.fitted else ""
    columns = ("compiled in", "numbers of the program", "runs as", "cells", "memory")
    left = frozenset({0, 1, 2})
    sheet = Sheet(title=title, columns=columns, rows=tuple(rows), left=left)
    return Plan(len(made.cells), len(made.fitted), sheet)


def _row(made: runner.Sweep, program: plan.ProgramGroup, examined: bool) -> tuple:
    fixed = ", ".join(f"{k}={v}" for k, v in program.fixed.items()) or "everything"
    mode = memory = "–"
    if examined:
        mode, memory = plan.describe_plan(program, made.mode, made.most)
    traced = ", ".join(program.traced)
    return fixed, traced, mode, str(len(program.cells)), memory


def run_sweep(
    experiment: Any,
    axes: Any = None,
    out: str | pathlib.Path | None = None,
    *,
    baselines: Any = None,
    title: str = "",
    mode: str = "auto",
    lanes: int | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    **choices,
) -> results.Results:
    """Runs an experiment for every combination of some axes' values.

    Args:
      experiment: an `Experiment`, a dict of named ones (the axis "variant"), or the
        path of an experiment file, whose SWEEP and BASELINES stand in for `axes` and
        `baselines`.
      axes: as SWEEP of a file: {"optim.lr": [1e-3, 1e-2], "seed": range(5)}.
      out: folder to record the sweep in; the same call goes on where it was left, and
        `jaxtl report` and `tl.read_results` read it. None keeps nothing on disk.
      baselines: {"k-NN": tl.baselines.KNN()}, fitted on the same splits.
      title: what the sweep is about, for its report.
      mode: "auto", or "vmap", "map" or "alone" for how cells are trained.
      lanes: cells side by side at most.
      overwrite: whether a sweep that lies in `out` may be replaced.
      progress: whether lines tell how far it is; None tells on a terminal.
      choices: how results are summed up, as for `tl.read_results`.

    Returns:
      `Results`. Cells that failed are part of them, with the reason.

    Raises:
      UserError: axes that name no field, values that do not fit, a folder that holds
        another sweep, and where no cell could be finished.
      KeyboardInterrupt: after Ctrl-C; what is finished stays in `out`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "sweep" if out is None else pathlib.Path(out)
        given = (experiment, axes, folder, scratch, title, baselines, mode, lanes)
        made = _made(*given)
        with runner.open_database(made, overwrite=overwrite) as database:
            runner.run(made, database, _teller(made, database, progress))
        return results.read_results(folder, **choices)


def _made(experiment, axes, folder, scratch, title, baselines, mode, lanes):
    """Returns the sweep; `scratch` is a folder for what is needed until it ends."""
    file, own_axes, own_baselines = _file(experiment, pathlib.Path(scratch), title)
    grid = build_grid(file, own_axes if axes is None else axes)
    if not grid.axes:
        raise UserError(
            f"axes={axes!r}: expected a mapping from fields to values, such as "
            '{"optim.lr": [1e-3, 1e-2], "seed": range(5)}.'
        )
    baselines = own_baselines if baselines is None else baselines
    folder = pathlib.Path(folder)
    settings = {"mode": mode, "most": lanes, "baselines": baselines}
    return runner.build_sweep(file, grid, folder, **settings)


def _file(experiment: Any, scratch: pathlib.Path, title: str) -> tuple[File, Any, Any]:
    """Returns (file, its SWEEP, its BASELINES); of experiments a file that says so."""
    if isinstance(experiment, str | pathlib.Path):
        path = pathlib.Path(experiment)
        file = experiments.read_file(path)
        module = sys.modules[experiments.MODULE + path.stem]
        found = (getattr(module, name, None) for name in ("SWEEP", "BASELINES"))
        return file, *found
    variants = experiment if isinstance(experiment, Mapping) else {"": experiment}
    for name, value in variants.items():
        if not isinstance(value, Experiment):
            raise UserError(
                f"experiment={value!r}: expected a tl.Experiment, a dict of them, or "
                "the path of an experiment file" + (f" (for {name!r})." * bool(name))
            )
    path = scratch / "python.py"
    path.write_text(_NOTE.format(title.replace("\\", "/").replace('"', "'")))
    return File(path, dict(variants), None, (), title), None, None


def _teller(made: runner.Sweep, database: Database, progress: bool | None):
    """Returns what is told as cells finish: a line every few seconds."""
    total, begun = len(made.cells) + len(made.fitted), time.monotonic()
    progress = sys.stdout.isatty() if progress is None else progress
    last = [begun]

    def tell(outcomes) -> None:
        now = time.monotonic()
        if not progress or now - last[0] < PAUSE:
            return
        last[0] = now
        done = sum(database.counts().get(status, 0) for status in FINISHED)
        print(f"{now - begun:6.0f} s  {done}/{total} cells", flush=True)

    return tell
