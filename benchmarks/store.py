"""Time to write, read and summarize 10,000 results.

A sweep of 2,000 settings and five seeds, with results and curves like those of runs, is
written to a database in batches (claimed first, as a sweep does), read back, summarized
and printed as Markdown. For comparison the same results are written and read as one
JSON file each, as in directories of runs.

    python benchmarks/store.py [--quick] [--json FILE]
"""

import itertools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import timing

from jaxtl.results import records, tables, writers
from jaxtl.results.build_summary import summarize
from jaxtl.results.database import DONE, Database, Outcome

BATCH = 64  # cells that one dispatch finishes together
TARGET = 10.0  # seconds to read and build the tables
AXES = {
    "method": [f"method {i}" for i in range(20)],
    "optim.lr": np.logspace(-4, -1, 10).tolist(),
    "terms.l2sp.weight": np.logspace(-3, 0, 10).tolist(),
    "seed": list(range(5)),
}


def outcomes(quick: bool) -> list[tuple[dict, Outcome]]:
    """(labels, outcome) of every cell."""
    axes = {**AXES, "method": AXES["method"][:1]} if quick else AXES
    rng, cells = np.random.default_rng(0), []
    for index, values in enumerate(itertools.product(*axes.values())):
        labels = dict(zip(axes, values))
        val, test = rng.uniform(0.5, 0.9, 2).tolist()
        names = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")
        result = {
            "val": dict.fromkeys(names, val),
            "test": dict.fromkeys(names, test),
            "monitor": "accuracy",
            "seed": labels["seed"],
            "steps": 200,
            "drift": float(rng.uniform()),
            "seconds": 0.1,
            "trainable_parameters": 38_282,
            "examples": {"train": 100, "val": 1000, "test": 10_000},
            "versions": {"jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8"},
        }
        curve = {
            "step": list(range(0, 200, 2)),
            "loss": rng.uniform(size=100).tolist(),
            "val": [{"step": s, "accuracy": val} for s in range(0, 200, 20)],
        }
        cells.append((labels, Outcome(f"cell{index:05}", DONE, result, curve)))
    return cells


def write(folder: pathlib.Path, cells: list[tuple[dict, Outcome]]) -> None:
    """Adds, claims and finishes all cells, a batch at a time."""
    with Database(folder, create=True) as database:
        database.set_meta(doc="Ten thousand results.", axes=AXES)
        database.add((outcome.key, labels) for labels, outcome in cells)
        for start in range(0, len(cells), BATCH):
            batch = [outcome for _, outcome in cells[start : start + BATCH]]
            database.claim([outcome.key for outcome in batch], "this process")
            database.finish(batch)


def write_files(folder: pathlib.Path, cells: list[tuple[dict, Outcome]]) -> None:
    """Writes each result to a file of its own."""
    for _, outcome in cells:
        path = folder / outcome.key
        path.mkdir()
        text = json.dumps({"result": outcome.result, "curve": outcome.curve})
        (path / "result.json").write_text(text)


def read_files(folder: pathlib.Path) -> list[dict]:
    """Reads the files of `write_files`."""
    paths = sorted(folder.rglob("result.json"))
    return [json.loads(path.read_text()) for path in paths]


def timed(rows: list[timing.Row], stage: str, cells: int, work: Callable):
    """Runs work once, adds its row to the table and returns its result."""
    cpu, clock = time.process_time(), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - clock
    rows.append(
        {
            "stage": stage,
            "s": seconds,
            "CPU s": time.process_time() - cpu,
            "cells/s": round(cells / seconds),
        }
    )
    return result


def main(argv: list[str] | None = None) -> list[list[timing.Row]]:
    """Prints the time of each stage; returns the tables."""
    args = timing.options(__doc__, argv)
    cells, rows = outcomes(args.quick), []
    n = len(cells)
    with tempfile.TemporaryDirectory() as scratch:
        folder, files = (pathlib.Path(scratch) / name for name in ("sweep", "files"))
        folder.mkdir()
        files.mkdir()
        timed(rows, f"write, {BATCH} at a time", n, lambda: write(folder, cells))
        collection = timed(rows, "read", n, lambda: records.read([folder]))
        summary = timed(rows, "summary", n, lambda: summarize(collection))
        timed(
            rows,
            "Markdown",
            n,
            lambda: [*map(writers.markdown, tables.summary_tables(summary))],
        )
        timed(rows, "CSV of cells", n, lambda: writers.cells_csv(collection))
        timed(rows, "write, a file each", n, lambda: write_files(files, cells))
        timed(rows, "read, a file each", n, lambda: read_files(files))
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    assert len(collection.records) == n
    assert len(summary.settings) == n // len(AXES["seed"])
    total = sum(row["s"] for row in rows[1:4])
    whole = {
        "cells": n,
        "read to Markdown, s": total,
        "target": f"≤ {TARGET:g}",
        "database, MB": size,
    }
    timing.report(__doc__.partition("\n")[0], [rows, [whole]], args.json)
    return [rows, [whole]]


if __name__ == "__main__":
    main(sys.argv[1:])
