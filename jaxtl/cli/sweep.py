"""`jaxtl sweep`: plans, runs and sums up a grid of experiments."""

import pathlib
import sys
import time

from jaxtl.core import compilation
from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results import format_number
from jaxtl.results.database import DONE, FAILED, FINISHED, Database, Outcome
from jaxtl.sweep import axes_from_text, plan, runner
from jaxtl.sweep.grid import grid_of
from jaxtl.training import experiment_file

PAUSE = 5.0  # seconds between lines of progress
EXAMINED = 12  # programs of a plan that are set up to say what they take


def sweep_(args) -> int:
    """`jaxtl sweep FILE [a.b=0,0.1 …] [--plan] [--out DIR]`."""
    made = prepare(args)
    console = console_lib.console()
    if warned := plan.warning(made.programs):
        print(f"warning: {warned}", file=sys.stderr)
    if args.plan:
        _planned(console, made)
        return 0
    with runner.open_database(made, overwrite=args.overwrite) as database:
        compilation.keep(made.folder / "compiled")
        if args.retry:
            database.requeue((FAILED,))
        _run(console, made, database)
        left = database.counts()
    _told(console, made, left)
    return _reported(made, left)


def prepare(args) -> runner.Sweep:
    """Returns the sweep that a command line asks for."""
    module = experiment_file.import_file(args.file)
    axes, fixed = axes_from_text.parted(getattr(module, "SWEEP", None), args.overrides)
    file = experiment_file.read_file(args.file, *fixed)
    module = sys.modules[experiment_file.MODULE + args.file.stem]
    grid = grid_of(file, getattr(module, "SWEEP", None), axes)
    if not grid.axes:
        raise UserError(
            f"{args.file} has no SWEEP, and no axis is given; try "
            "optim.lr=0.0001,0.001,0.01."
        )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = args.out or pathlib.Path("runs") / f"sweep-{args.file.stem}" / stamp
    found = getattr(module, "BASELINES", None)
    return runner.build_sweep(
        file, grid, out, mode=args.mode, most=args.lanes, baselines=found
    )


def _planned(console, made: runner.Sweep) -> None:
    """Prints what would happen."""
    rows, unread = [], 0
    for number, program in enumerate(made.programs):
        mode = memory = "–"
        if number < EXAMINED:
            mode, memory = plan.describe_plan(program, made.mode, made.most)
        else:
            unread += 1
        fixed = ", ".join(f"{k}={v}" for k, v in program.fixed.items()) or "everything"
        rows.append(
            (fixed, ", ".join(program.traced), mode, len(program.cells), memory)
        )
    columns = ("program", "traced axes", "runs as", "cells", "memory")
    title = f"{len(made.cells):,} cells in {_count(len(made.programs), 'program')}"
    if made.fitted:
        title += f", and {_count(len(made.fitted), 'fit')} of baselines"
    shown = rows[: 2 * EXAMINED]
    console.print(console_lib.table(title, columns, shown, left=3), markup=False)
    if len(rows) > len(shown):
        console.print(f"… and {len(rows) - len(shown):,} programs more")
    if unread:
        console.print(f"the first {EXAMINED} programs were set up to be examined")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _run(console, made: runner.Sweep, database: Database) -> None:
    begun, total = time.perf_counter(), len(made.cells) + len(made.fitted)
    labels = {cell.key: cell.labels for cell in (*made.cells, *made.fitted)}
    before = _finished(database, labels)
    if before:
        console.print(f"{before} of {total} cells are done already")
    best: list = [None]
    told = [-PAUSE]

    def tell(outcomes) -> None:
        for outcome in outcomes:
            _note_best(best, outcome, labels.get(outcome.key, {}))
            if outcome.status == FAILED:
                where = _setting(labels.get(outcome.key, {}))
                print(f"{where} failed: {outcome.error}", file=sys.stderr)
        done, seconds = _finished(database, labels), time.perf_counter() - begun
        if done < total and seconds - told[0] < PAUSE:
            return
        told[0] = seconds
        line = f"{seconds:6.0f} s  {done}/{total} cells"
        if best[0] is not None:
            line += f"; best on val so far: {best[0][2]} at {best[0][1]}"
        console.print(line, markup=False)

    runner.run(made, database, tell)


def _finished(database: Database, mine) -> int:
    """Returns how many of some cells are done; the database may hold others besides."""
    known = database.statuses()
    return sum(known.get(key) in FINISHED for key in mine)


def _note_best(best: list, outcome: Outcome, labels) -> None:
    name = outcome.result.get("monitor")
    value = outcome.result.get("val", {}).get(name)
    if value is None:
        return
    signed = value if metrics.higher_is_better(name) else -value
    if best[0] is None or signed > best[0][0]:
        best[0] = (
            signed,
            _setting(labels),
            f"{name} {format_number.number(name, value, None)}",
        )


def _setting(labels) -> str:
    return ", ".join(f"{k}={v}" for k, v in labels.items())


def _told(console, made: runner.Sweep, counts) -> None:
    text = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    console.print(f"{text}; recorded in {made.folder}", markup=False)


def _reported(made: runner.Sweep, counts) -> int:
    """Prints the tables of what is done; returns the exit code."""
    from jaxtl.results import build_summary, records, report, tables

    if counts.get(DONE):
        found = build_summary.summarise(records.read([made.folder]))
        report.show(found, tables.sheets(found))
        print(f"more of it: jaxtl report {made.folder}")
    return 1 if counts.get(FAILED) else 0
