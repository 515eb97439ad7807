"""Time to plan a sweep of 10,000 cells.

From axes to cells (each a checked experiment), and from cells to programs: 10 weights ×
20 learning rates × 10 label counts × 5 seeds, in one program; and as many cells with an
axis that is compiled in, in ten programs.

    python benchmarks/plan.py [--quick] [--json FILE]
"""

import pathlib
import time

import timing

import jaxtl as tl
from jaxtl.sweep import plan
from jaxtl.sweep.cells import build_cells
from jaxtl.sweep.grid import build_grid
from jaxtl.training import experiment_file

TARGET = 2.0  # seconds


def axes(one_program: bool) -> dict:
    """Axes of 10,000 cells."""
    steps = {} if one_program else {"steps": list(range(100, 1100, 100))}
    labels = {"data.labels_per_class": list(range(1, 11))} if one_program else {}
    return {
        **steps,
        "terms.near.weight": tl.sweep.log(1e-3, 1, 10),
        "optim.lr": tl.sweep.log(1e-4, 1e-1, 20),
        **labels,
        "seed": range(5),
    }


def measure(name: str, one_program: bool, rounds: int) -> timing.Row:
    """Measures one row of the table."""
    exp = tl.Experiment(
        model=tl.models.MLP(),
        data=tl.data.Digits(),
        terms={
            "task": tl.losses.CrossEntropy(),
            "near": tl.regularizers.L2SP(weight=0.1),
        },
    )
    file = experiment_file.File(pathlib.Path("plan.py"), {"": exp}, None, (), "")
    cell_seconds, group_seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        cells = build_cells(file, build_grid(file, axes(one_program)))
        cell_seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        groups = plan.group_by_program(cells)
        group_seconds.append(time.perf_counter() - start)
    middle = rounds // 2
    return {
        "axes": name,
        "cells": len(cells),
        "programs": len(groups),
        "cells s": sorted(cell_seconds)[middle],
        "programs s": sorted(group_seconds)[middle],
        "both s": sorted(a + b for a, b in zip(cell_seconds, group_seconds))[middle],
        "target s": TARGET,
    }


def main(argv=None) -> list[list[timing.Row]]:
    """Prints the table; returns it in a list."""
    options = timing.options(__doc__, argv)
    rounds = 1 if options.quick else 5
    rows = [
        measure("numbers, labels, seeds", True, rounds),
        measure("steps among them", False, rounds),
    ]
    timing.report("plan", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
