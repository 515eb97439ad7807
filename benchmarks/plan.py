"""How long does it take to plan 10,000 cells?

From the axes to cells (each an experiment, checked), and from cells to programs:
10 weights × 20 learning rates × 10 label counts × 5 seeds, in one program; and the same
number with an axis that is compiled in, in ten.

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

TARGET = 2.0


def axes(one_program: bool) -> dict:
    """Returns axes of 10,000 cells."""
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
    """Returns one row of the table."""
    exp = tl.Experiment(
        model=tl.models.MLP(),
        data=tl.data.Digits(),
        terms={
            "task": tl.losses.CrossEntropy(),
            "near": tl.regularizers.L2SP(weight=0.1),
        },
    )
    file = experiment_file.File(pathlib.Path("plan.py"), {"": exp}, None, (), "")
    cells, programs = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        found = build_cells(file, build_grid(file, axes(one_program)))
        cells.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        grouped = plan.group_by_program(found)
        programs.append(time.perf_counter() - begin)
    middle = rounds // 2
    return {
        "axes": name,
        "cells": len(found),
        "programs": len(grouped),
        "cells s": sorted(cells)[middle],
        "programs s": sorted(programs)[middle],
        "both s": sorted(a + b for a, b in zip(cells, programs))[middle],
        "target s": TARGET,
    }


def main(argv=None) -> list[list[timing.Row]]:
    """Prints the table; returns its rows in a list."""
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
