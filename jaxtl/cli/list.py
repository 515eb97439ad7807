"""`jaxtl list`: the runs, studies and sweeps below directories, the newest first."""

import argparse
import dataclasses
import json
import pathlib
import time
from typing import TYPE_CHECKING

from jaxtl.core import console, progress

if TYPE_CHECKING:
    from jaxtl.results.run_list import ListedRun

HELP = "runs, studies and sweeps: state, time, metrics"
_DEFAULT = "runs"  # where `jaxtl run` writes without --out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl list`."""
    parser.add_argument(
        "dirs",
        type=pathlib.Path,
        nargs="*",
        metavar="DIR",
        help="directories of runs, studies and sweeps (default: runs)",
    )
    parser.add_argument(
        "--each", action="store_true", help="the runs of studies one by one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def main(args: argparse.Namespace) -> int:
    """Prints a row per run, study and sweep."""
    from jaxtl.results import run_list

    folders = args.dirs or [pathlib.Path(_DEFAULT)]
    with progress.Task("reading the runs"):
        rows = run_list.read(folders, each_run=args.each)
    if args.json:
        print(json.dumps([_json(row) for row in rows], indent=1))
        return 0
    if not rows:
        print(f"no run, study or sweep in {', '.join(map(str, folders))}")
        return 0
    columns = ("directory", "", "state", "when", "metric", "val", "test", "")
    cells = [_cells(row) for row in rows]
    console.console().print(console.listing("", columns, cells), markup=False)
    return 0


def _json(row: "ListedRun") -> dict:
    return {**dataclasses.asdict(row), "path": str(row.path)}


def _cells(row: "ListedRun") -> tuple[str, ...]:
    from jaxtl.cli import formatting

    def value(number: float | None) -> str:
        if number is None:
            return formatting.MISSING
        return formatting.metric_value(row.metric, number)

    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.time))
    title = formatting.metric_title(row.metric) if row.metric else formatting.MISSING
    remark = "; ".join(text for text in (row.progress, row.note) if text)
    return (
        str(row.path),
        row.kind,
        row.status,
        when,
        title,
        value(row.val),
        value(row.test),
        remark,
    )
