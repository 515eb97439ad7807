"""Time of a grid of 60 small runs: as one sweep, in a loop, in processes, in torch.

5 seeds × 3 learning rates × 4 weights of L2-SP, 300 steps each, of (a) a perceptron on
the digits, (b) the quickstart's convolutional network, (c) heads on cached features of
a ResNet-20. The alternatives: (i) a process per cell, (ii) a Python loop in one process
that compiles once, (iii) the same loop in torch. Every cell trains, is evaluated ten
times on val, keeps its best weights and is tested once. Each figure is the wall time
of fresh processes without a compilation cache, without their imports except for (i).
The features of (c) are computed beforehand, for jaxtl as for torch.

    python benchmarks/grid.py [--quick] [--json FILE]
"""

import argparse
import dataclasses
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

RATES, WEIGHTS = (1e-3, 3e-3, 1e-2), (0.0, 1e-3, 1e-2, 1e-1)
SEEDS = range(int(os.environ.get("GRID_SEEDS", 5)))  # one in the quick mode
STEPS, BATCH, EVALUATIONS = 300, 64, 10
TARGETS = {
    "process": dict.fromkeys(("small", "mlp", "cnn", "heads"), 30),
    "loop": {"small": 3, "mlp": 3, "heads": 3},
    "torch": {"small": 5, "mlp": 5, "heads": 5},
}
CASES = {
    "small": "(a) perceptron, 64 hidden units, on digits",
    "mlp": "(a) perceptron, 2 × 256, on digits",
    "cnn": "(b) quickstart's CNN on digits",
    "heads": "(c) heads on ResNet-20 features",
}
UNITS = {"small": (64,), "mlp": (256, 256)}
SAMPLE = 3  # of the 60 processes of (i) that are timed


def experiment(case: str, folder: pathlib.Path, steps: int):
    """The experiment of a cell with seed 0."""
    import jaxtl as tl

    shared = dict(
        steps=steps,
        batch=128 if case == "heads" else BATCH,
        evaluate_every=max(1, steps // EVALUATIONS),
        terms={
            "task": tl.losses.CrossEntropy(),
            "near": tl.regularizers.L2SP(weight=0.0),
        },
        optim=tl.optim.AdamW(lr=RATES[0]),
    )
    if case == "heads":
        return tl.Experiment(
            model=tl.models.ResNet(depth=20),
            data=tl.data.Arrays(str(folder / "images.npz"), val=1000, split_seed=0),
            init=tl.pretrained.FromRun(str(folder / "source")),
            cache="disk",
            cache_dir=str(folder / "features"),
            **{
                **shared,
                "optim": dataclasses.replace(
                    shared["optim"], groups=tl.optim.HeadOnly()
                ),
            },
        )
    return tl.Experiment(
        model=_model(case),
        data=tl.data.Digits(val=0.2, split_seed=0),
        init=tl.pretrained.FromRun(str(folder / "source")),
        **shared,
    )


def _model(case: str):
    import jaxtl as tl

    if case in UNITS:
        return tl.models.MLP(widths=UNITS[case])
    return tl.models.CNN(widths=(16, 32), units=64)


def prepare(case: str, folder: pathlib.Path, steps: int) -> None:
    """Trains the source, and writes the images and features of (c)."""
    import numpy as np

    import jaxtl as tl

    if case != "heads":
        source = tl.Experiment(
            model=_model(case), data=tl.data.RenderedDigits(), steps=100
        )
        tl.train(tl.setup(source, folder / "source"), progress=False)
        return
    rng = np.random.default_rng(0)
    counts = {"train": 7_400, "test": 1_000}
    if steps < STEPS:
        counts = {"train": 1_100, "test": 50}
    y = {k: rng.integers(0, 10, n) for k, n in counts.items()}
    means = rng.normal(128, 40, (10, 32, 32, 3))
    x = {
        k: np.clip(means[v] + rng.normal(0, 40, (len(v), 32, 32, 3)), 0, 255)
        for k, v in y.items()
    }
    np.savez(
        folder / "images.npz",
        **{f"x_{k}": v.astype(np.uint8) for k, v in x.items()},
        **{f"y_{k}": v for k, v in y.items()},
    )
    data = tl.data.Arrays(str(folder / "images.npz"), val=1000, split_seed=0)
    source = tl.Experiment(model=tl.models.ResNet(depth=20), data=data, steps=1)
    tl.train(tl.setup(source, folder / "source"), progress=False)
    exp = dataclasses.replace(experiment(case, folder, 1), cache="disk", steps=60)
    tl.train(tl.setup(exp), progress=False)
    work("sweep", case, folder, 1)  # caches the features of all replicas' rows
    work("torch", case, folder, 1)


def cells(case: str, folder: pathlib.Path, steps: int):
    """Yields the experiment of every cell."""
    base = experiment(case, folder, steps)
    for seed, rate, weight in itertools.product(SEEDS, RATES, WEIGHTS):
        near = dataclasses.replace(base.terms["near"], weight=weight)
        yield dataclasses.replace(
            base,
            seed=seed,
            optim=dataclasses.replace(base.optim, lr=rate),
            terms={**base.terms, "near": near},
        )


def work(way: str, case: str, folder: pathlib.Path, steps: int) -> float:
    """Runs all cells, one of them by "process"; returns the mean test accuracy."""
    if way == "torch":
        import grid_torch

        return grid_torch.run(case, folder, steps)
    import jaxtl as tl

    if way == "sweep":
        return _sweep(case, folder, steps)
    exps = list(cells(case, folder, steps))
    if way == "process":
        exps = exps[:1]
    results = [tl.train(tl.setup(exp), progress=False) for exp in exps]
    return statistics.mean(r["test"]["accuracy"] for r in results)


def _sweep(case: str, folder: pathlib.Path, steps: int) -> float:
    from jaxtl.sweep import runner
    from jaxtl.sweep.grid import build_grid
    from jaxtl.sweep.sweep_folder import build_sweep, open_database
    from jaxtl.training import experiment_file

    axes = {"seed": SEEDS, "optim.lr": RATES, "terms.near.weight": WEIGHTS}
    path = folder / "cells.py"
    path.write_text("")
    exp = experiment(case, folder, steps)
    file = experiment_file.File(path, {"": exp}, None, (), "")
    out = folder / f"sweep{time.time_ns()}"
    sweep = build_sweep(file, build_grid(file, axes), out)
    with open_database(sweep) as database:
        runner.run(sweep, database)
        results = [entry.result for entry in database.entries()]
    assert len(results) == 12 * len(SEEDS)
    return statistics.mean(result["test"]["accuracy"] for result in results)


def timed(
    way: str, case: str, folder: pathlib.Path, steps: int
) -> tuple[float, float, float]:
    """Runs a process; (seconds of its work, of the whole process, mean accuracy)."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--work", way, case, str(folder), str(steps)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr)
    seconds, accuracy = map(float, process.stdout.split()[-2:])
    return seconds, time.perf_counter() - start, accuracy


def measure(case: str, steps: int, rounds: int) -> dict:
    """Measures the row of one case."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        timed("prepare", case, folder, steps)
        times: dict[str, list[float]] = {}
        accuracy = {}
        for number in range(rounds):
            ways = ["sweep", "loop", "torch"]
            for way in ways[:: -1 if number % 2 else 1]:
                seconds, _, accuracy[way] = timed(way, case, folder, steps)
                times.setdefault(way, []).append(seconds)
        single = [timed("process", case, folder, steps)[1] for _ in range(SAMPLE)]
        times["process"] = [60 * statistics.median(single)]
    medians = {way: statistics.median(values) for way, values in times.items()}
    row = {"60 cells of": CASES[case], "sweep s": round(medians["sweep"], 1)}
    heads = {"process": "60 processes", "loop": "loop", "torch": "torch"}
    for way, head in heads.items():
        row[f"{head} s"] = round(medians[way], 1)
        row[f"{head}: ×"] = round(medians[way] / medians["sweep"], 1)
        row[f"{head}: target"] = TARGETS[way].get(case, "–")
    row["accuracy sweep / loop / torch"] = " / ".join(
        f"{100 * accuracy[way]:.1f}" for way in ("sweep", "loop", "torch")
    )
    return row


def main(argv=None):
    """Prints the table; returns its rows in a list."""
    import timing

    options = timing.options(__doc__, argv)
    steps, rounds = (10, 1) if options.quick else (STEPS, 2)
    if options.quick:
        os.environ["GRID_SEEDS"] = "1"  # for the processes that do the work
    names = ["small"] if options.quick else list(CASES)
    rows = [measure(name, steps, rounds) for name in names]
    timing.report("grid", [rows], options.json)
    return [rows]


def _worker() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", nargs=4)
    way, case, folder, steps = parser.parse_args().work
    if way == "torch":
        import sklearn.datasets
        import torch  # noqa: F401
    else:
        # Imports that are not part of the timed work.
        import orbax.checkpoint  # noqa: F401
        import sklearn.datasets  # noqa: F401

        import jaxtl as tl
        from jaxtl.sweep import runner

        assert all((tl.Experiment, tl.train, tl.losses.CrossEntropy, runner))
    start = time.perf_counter()
    if way == "prepare":
        prepare(case, pathlib.Path(folder), int(steps))
        print(0, 0)
        return
    accuracy = work(way, case, pathlib.Path(folder), int(steps))
    print(time.perf_counter() - start, accuracy)


if __name__ == "__main__":
    if "--work" in sys.argv:
        _worker()
    else:
        main()
