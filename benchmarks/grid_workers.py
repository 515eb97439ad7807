"""Time of a grid of small convolutional networks: in one process, and one a core.

Seeds × 3 learning rates × 4 weights of a decay, 300 steps each, of the quickstart's
convolutional network on the digits. Each figure is the wall time of the whole command
`jaxtl sweep FILE --workers N`, imports and compiling included, without a compilation
cache from before.

    python benchmarks/grid_workers.py [--quick] [--json FILE]
"""

import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import timing

from jaxtl.core import devices

FILE = '''
"""A grid of small convolutional networks."""
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.CNN(widths=(16, 32), units=64),
        data=tl.data.Digits(val=0.2, split_seed=0),
        terms={{
            "task": tl.losses.CrossEntropy(),
            "decay": tl.regularizers.WeightDecay(weight=0.0),
        }},
        optim=tl.optim.AdamW(lr=1e-3),
        steps={steps},
        batch=64,
    )

SWEEP = {{
    "seed": range({seeds}),
    "optim.lr": [1e-3, 3e-3, 1e-2],
    "terms.decay.weight": [0.0, 1e-3, 1e-2, 1e-1],
}}
'''


def seconds(file: pathlib.Path, out: pathlib.Path, processes: int) -> float:
    """Wall time of one sweep, which must have finished all its cells."""
    command = [sys.executable, "-m", "jaxtl", "sweep", str(file), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--workers", str(processes)], check=True, capture_output=True
    )
    return time.perf_counter() - start


def accuracy(out: pathlib.Path) -> float:
    """Mean test accuracy of a sweep's cells in percent."""
    query = "SELECT AVG(json_extract(result, '$.test.accuracy')) FROM cells"
    return 100 * sqlite3.connect(out / "sweep.sqlite").execute(query).fetchone()[0]


def main(argv=None):
    """Prints the table; returns its rows in a list."""
    options = timing.options(__doc__, argv)
    sizes, steps, rounds = ((5, 20), 300, 2)
    if options.quick:
        sizes, steps, rounds = (1,), 5, 1
    cores, rows = devices.core_count(), []
    for seeds in sizes:
        times: dict[int, list[float]] = {1: [], cores: []}
        means = {}
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            file = folder / "cells.py"
            file.write_text(FILE.format(seeds=seeds, steps=steps))
            for number in range(rounds):
                for processes in list(times)[:: -1 if number % 2 else 1]:
                    out = folder / f"{number}-{processes}"
                    times[processes].append(seconds(file, out, processes))
                    means[processes] = accuracy(out)
        rows.append(
            {
                "cells": 12 * seeds,
                "one process, s": round(statistics.median(times[1]), 1),
                f"{cores} processes, s": round(statistics.median(times[cores]), 1),
                "×": round(timing.ratio(times, 1, cores), 2),
                "accuracy": " / ".join(f"{means[n]:.1f}" for n in times),
                "target": "≥ 1.6",
            }
        )
    timing.report("grid in processes", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
