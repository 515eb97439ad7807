"""Grid sweeps on the terminal: their plan, their progress and their tables."""

import argparse
import pathlib
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.cli import arguments, formatting
from jaxtl.core import compilation, console, devices
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results import build_summary, records, report
from jaxtl.results.database import DONE, FAILED, FINISHED, Database, Outcome
from jaxtl.sweep import axes_from_text, local_workers, plan, runner
from jaxtl.sweep.axes import Grid
from jaxtl.sweep.grid import build_grid
from jaxtl.sweep.sweep_folder import Sweep, build_sweep, open_database
from jaxtl.training import experiment_file

PAUSE = 5.0  # seconds between lines of progress


def run(args: argparse.Namespace) -> int:
    """Runs every cell of a grid, or prints the plan with --plan.

    Returns:
      The exit code: 1 where a cell failed, else 0.
    """
    workers = 1 if args.workers is None else args.workers
    local_workers.check(workers)
    sweep = prepare(args)
    terminal = console.console()
    if warning := plan.warn_of_many(sweep.programs):
        print(f"warning: {warning}", file=sys.stderr)
    if args.plan:
        _print_plan(terminal, sweep)
        return 0
    terminal.print(f"device: {devices.describe()}", markup=False)
    with open_database(sweep, overwrite=args.overwrite) as database:
        compilation.keep(sweep.folder / "compiled")
        if args.retry:
            database.requeue((FAILED,))
        progress = _Progress(terminal, sweep, database)
        if workers > 1:
            command = _command(args, sweep)
            local_workers.run(command, workers, database, progress.update)
        else:
            runner.run(sweep, database, progress.update)
        counts = database.counts()
    text = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    terminal.print(f"{text}; recorded in {sweep.folder}", markup=False)
    print_report(sweep.folder, counts)
    console.print_written(sweep.folder)
    return 1 if counts.get(FAILED) else 0


def _command(args: argparse.Namespace, sweep: Sweep) -> list[str]:
    """The arguments of a process that joins a sweep."""
    command = ["sweep", str(args.file), *args.overrides, "--mode", args.mode]
    command += ["--out", str(sweep.folder), "--device", "cpu"]
    command += ["--trust"] if args.trust else []
    return command + (["--lanes", str(args.lanes)] if args.lanes else [])


def prepare(args: argparse.Namespace) -> Sweep:
    """Builds the sweep of a command line; nothing is written yet.

    Raises:
      UserError: neither the file nor the command line gives an axis.
    """
    file, grid, module = read_grid(args)
    if not grid.axes:
        raise UserError(
            f"{args.file} has no SWEEP, and no axis is given; try "
            "optim.lr=0.0001,0.001,0.01."
        )
    folder = args.out or arguments.default_folder(f"sweep-{args.file.stem}")
    baselines = getattr(module, "BASELINES", None)
    return build_sweep(
        file, grid, folder, mode=args.mode, max_replicas=args.lanes, baselines=baselines
    )


def read_grid(
    args: argparse.Namespace,
) -> tuple[experiment_file.File, Grid, types.ModuleType]:
    """Reads an experiment file, and its SWEEP together with the command line's axes.

    Returns:
      The file with the single-valued overrides, the grid, and the file's module.
    """
    module = experiment_file.import_file(args.file)
    axes, fixed = axes_from_text.split_axes(
        getattr(module, "SWEEP", None), args.overrides
    )
    file = experiment_file.read_file(args.file, *fixed)
    module = sys.modules[experiment_file.MODULE + args.file.stem]
    return file, build_grid(file, getattr(module, "SWEEP", None), axes), module


def print_report(folder: pathlib.Path, counts: Mapping[str, int]) -> None:
    """Prints the tables of a sweep's folder, where any cell of it is done.

    Args:
      folder: of the sweep.
      counts: {status: number of cells}.
    """
    if counts.get(DONE):
        summary = build_summary.summarize(records.read([folder]))
        report.print_report(summary)
        print(f"more of it: jaxtl report {folder}")


def _print_plan(terminal: Any, sweep: Sweep) -> None:
    """Prints a row per compiled program: its cells, and how they would run."""
    rows = plan.plan_rows(sweep.programs, sweep.mode, sweep.max_replicas)
    examined = plan.EXAMINED_PROGRAMS
    columns = ("program", "traced axes", "runs as", "cells", "memory")
    title = f"{len(sweep.cells):,} cells in {_count(len(sweep.programs), 'program')}"
    if sweep.fits:
        title += f", and {_count(len(sweep.fits), 'fit')} of baselines"
    shown = rows[: 2 * examined]
    terminal.print(console.table(title, columns, shown, left=3), markup=False)
    if len(rows) > len(shown):
        terminal.print(f"… and {len(rows) - len(shown):,} programs more")
    if len(rows) > examined:
        terminal.print(f"the first {examined} programs were set up to be examined")
    cores = devices.core_count()
    if cores > 1 and any(plan.CONVOLUTIONS in row[2] for row in shown):
        terminal.print(
            f"--workers {cores} shares cells that run one by one among the "
            f"{cores} cores"
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


class _Progress:
    """Prints failures, and every few seconds a line with the best cell on val.

    Attributes:
      best: (value, larger being better; its text) of the best cell, or None.
    """

    def __init__(self, terminal: Any, sweep: Sweep, database: Database):
        self.terminal, self.database = terminal, database
        # The database may hold other cells besides, of an earlier grid.
        cells = (*sweep.cells, *sweep.fits)
        self.labels = {cell.key: cell.labels for cell in cells}
        self.total = len(cells)
        self.best: tuple[float, str] | None = None
        self.start, self.last_line = time.perf_counter(), -PAUSE
        if finished := self._finished():
            terminal.print(f"{finished} of {self.total} cells are done already")

    def update(self, outcomes: Sequence[Outcome]) -> None:
        """Takes in the outcomes of cells that have ended."""
        for outcome in outcomes:
            labels = self.labels.get(outcome.key, {})
            cell = ", ".join(f"{axis}={label}" for axis, label in labels.items())
            self._update_best(outcome, cell)
            if outcome.status == FAILED:
                print(f"{cell} failed: {outcome.error}", file=sys.stderr)
        finished, seconds = self._finished(), time.perf_counter() - self.start
        if finished < self.total and seconds - self.last_line < PAUSE:
            return
        self.last_line = seconds
        line = f"{seconds:6.0f} s  {finished}/{self.total} cells"
        if self.best is not None:
            line += f"; best on val so far: {self.best[1]}"
        self.terminal.print(line, markup=False)

    def _finished(self) -> int:
        """Number of this sweep's cells that are done or failed."""
        statuses = self.database.statuses()
        return sum(statuses.get(key) in FINISHED for key in self.labels)

    def _update_best(self, outcome: Outcome, cell: str) -> None:
        metric = outcome.result.get("monitor")
        value = outcome.result.get("val", {}).get(metric)
        if not metrics.is_finite_number(value):
            return
        directions = outcome.result.get("higher_is_better", {})
        signed = metrics.score(metric, value, directions)
        if self.best is None or signed > self.best[0]:
            text = f"{metric} {formatting.metric_value(metric, value)} at {cell}"
            self.best = (signed, text)
