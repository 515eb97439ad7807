"""Sweeps from Python: `plan_sweep` and `run_sweep`, as `jaxtl sweep` on a terminal."""

import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtl.core import atomic, notebook
from jaxtl.core.errors import UserError
from jaxtl.core.progress import duration
from jaxtl.results import results, writers
from jaxtl.results.database import FINISHED, Database, Outcome
from jaxtl.results.tables import TextTable
from jaxtl.sweep import plan, runner
from jaxtl.sweep.grid import build_grid
from jaxtl.sweep.sweep_folder import Sweep, build_sweep, open_database
from jaxtl.training import experiment_file
from jaxtl.training.experiment import Experiment
from jaxtl.training.experiment_file import File

PROGRESS_SECONDS = 5.0  # between lines of progress

# Written in place of the experiment file that a sweep's folder has a copy of.
_PLACEHOLDER = (
    '"""{}\n\nMade in Python, by tl.run_sweep: what ran is in sweep.sqlite."""\n'
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a sweep; notebooks show it as a table of its compiled programs.

    Attributes:
      cells: number of experiments.
      fits: number of fits of baselines.
      table: a row per compiled program.
    """

    cells: int
    fits: int
    table: TextTable

    @property
    def programs(self) -> int:
        """Number of programs that will be compiled."""
        return len(self.table.rows)

    def __repr__(self) -> str:
        return writers.markdown(self.table)

    def _repr_html_(self) -> str:
        return results.html_table(self.table)


def plan_sweep(
    experiment: Any,
    axes: Any = None,
    *,
    baselines: Any = None,
    mode: str = "auto",
    lanes: int | None = None,
) -> Plan:
    """Plans a sweep without training anything.

    Args:
      experiment, axes, baselines, mode, lanes: as for `run_sweep`.

    Returns:
      The programs and their cells; a notebook shows them as a table.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file, axes, baselines = _read(experiment, axes, baselines, scratch, "")
        sweep = _build(file, axes, scratch, baselines, mode, lanes)
        rows = plan.plan_rows(sweep.programs, sweep.mode, sweep.max_replicas)
    title = f"{len(sweep.cells):,} cells in {len(rows):,} programs"
    title += f", and {len(sweep.fits):,} fits of baselines" if sweep.fits else ""
    table = TextTable(
        title=title,
        columns=("compiled in", "numbers of the program", "runs as", "cells", "memory"),
        rows=tuple(tuple(map(str, row)) for row in rows),
        text_columns=frozenset({0, 1, 2}),
    )
    return Plan(len(sweep.cells), len(sweep.fits), table)


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
    **options: Any,
) -> results.Results:
    """Runs an experiment for every combination of the axes' values.

    Args:
      experiment: an `Experiment`, a dict of named ones (the axis "variant"), or the
        path of an experiment file, whose SWEEP and BASELINES are the defaults of `axes`
        and `baselines`.
      axes: as SWEEP of a file: {"optim.lr": [1e-3, 1e-2], "seed": range(5)}.
      out: folder to record the sweep in. Called again with the same arguments, the
        sweep continues; `jaxtl report` and `tl.read_results` read the folder. None
        stores nothing on disk.
      baselines: {"k-NN": tl.baselines.KNN()}, fitted to the same splits.
      title: of the sweep's report.
      mode: how cells are trained: "vmap" or "map" (many cells in one compiled program),
        "alone" (one by one), or "auto".
      lanes: largest number of cells that train side by side.
      overwrite: whether a sweep in `out` may be replaced.
      progress: whether to print lines of progress; None prints them on a terminal.
      options: how results are summarized, as for `tl.read_results`.

    Returns:
      The results, with cells that failed and their errors.

    Raises:
      UserError: axes that name no field, values that do not fit, a folder that holds
        another sweep, and if no cell could be finished.
      KeyboardInterrupt: after Ctrl-C; finished cells stay in `out`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "sweep" if out is None else pathlib.Path(out)
        file, axes, baselines = _read(experiment, axes, baselines, scratch, title)
        sweep = _build(file, axes, folder, baselines, mode, lanes)
        with open_database(sweep, overwrite=overwrite) as database:
            runner.run(sweep, database, _print_progress(sweep, database, progress))
        return results.read_results(folder, **options)


def _read(
    experiment: Any, axes: Any, baselines: Any, scratch: str, title: str
) -> tuple[File, Any, Any]:
    """Reads (file, axes, baselines); experiments get a file that names their origin.

    Args:
      experiment, axes, baselines, title: as for `run_sweep`.
      scratch: folder for that file.
    """
    if isinstance(experiment, str | pathlib.Path):
        path = pathlib.Path(experiment)
        file = experiment_file.read_file(path)
        module = sys.modules[experiment_file.MODULE + path.stem]
        axes = getattr(module, "SWEEP", None) if axes is None else axes
        if baselines is None:
            baselines = getattr(module, "BASELINES", None)
        return file, axes, baselines
    variants = experiment if isinstance(experiment, Mapping) else {"": experiment}
    for name, value in variants.items():
        if not isinstance(value, Experiment):
            raise UserError(
                f"experiment={value!r}: expected a tl.Experiment, a dict of them, or "
                "the path of an experiment file"
                + (f" (for {name!r})." if name else ".")
            )
    path = pathlib.Path(scratch) / "python.py"
    text = title.replace("\\", "/").replace('"', "'")  # inside of a docstring
    atomic.write_text(path, _PLACEHOLDER.format(text))
    return File(path, dict(variants), None, (), title), axes, baselines


def _build(
    file: File,
    axes: Any,
    folder: str | pathlib.Path,
    baselines: Any,
    mode: str,
    lanes: int | None,
) -> Sweep:
    grid = build_grid(file, axes)
    if not grid.axes:
        raise UserError(
            f"axes={axes!r}: expected a mapping from fields to values, such as "
            '{"optim.lr": [1e-3, 1e-2], "seed": range(5)}.'
        )
    return build_sweep(
        file,
        grid,
        pathlib.Path(folder),
        mode=mode,
        max_replicas=lanes,
        baselines=baselines,
    )


def _print_progress(
    sweep: Sweep, database: Database, progress: bool | None
) -> Callable[[Sequence[Outcome]], None]:
    """A callback that prints a line of progress every few seconds.

    In a notebook it is one output of the cell, which is drawn again.
    """
    total, start = len(sweep.cells) + len(sweep.fits), time.monotonic()
    cell = notebook.CellOutput() if notebook.is_running() else None
    if progress is None:
        progress = cell is not None or sys.stdout.isatty()
    last_line = start

    def on_outcomes(outcomes: Sequence[Outcome]) -> None:
        nonlocal last_line
        seconds = time.monotonic()
        if progress and cell is not None:
            done = sum(database.counts().get(status, 0) for status in FINISHED)
            line = f"{done} of {total} cells in {duration(seconds - start)}"
            html = f"<div>{notebook.bar(done, total)} {line}</div>"
            cell.draw(html, line, now=done == total)
            return
        if not progress or seconds - last_line < PROGRESS_SECONDS:
            return
        last_line = seconds
        done = sum(database.counts().get(status, 0) for status in FINISHED)
        print(f"{seconds - start:6.0f} s  {done}/{total} cells", flush=True)

    return on_outcomes
