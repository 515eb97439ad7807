"""What does a grid of 60 small runs cost, as one sweep and otherwise?

5 seeds × 3 learning rates × 4 weights of L2-SP, 300 steps each, of (a) a perceptron on
the digits, (b) the quickstart's convolutional network, (c) heads on cached features of
a ResNet-20. The alternatives: (i) a process per cell, (ii) a Python loop in one process
that compiles once, (iii) the same loop in torch. Every cell trains, is evaluated ten
times on val, keeps its best weights and is tested once. Each figure is the wall time
of fresh processes without a compilation cache, what they import left out but for (i).
(c)'s features are there already, on our side as on torch's.

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
SEEDS = range(int(os.environ.get("GRID_SEEDS", 5)))  # the quick mode has one
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
SAMPLE = 3  # processes that are timed of (i)'s 60


def experiment(case: str, folder: pathlib.Path, steps: int):
    """Returns one cell's experiment, of seed 0."""
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
    """Trains the source, and writes (c)'s images and features."""
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
    one = experiment(case, folder, 1)
    tl.train(tl.setup(dataclasses.replace(one, cache="disk", steps=60)), progress=False)
    work("sweep", case, folder, 1)  # its features are those of all lanes' rows
    work("torch", case, folder, 1)


def cells(case, folder, steps):
    """Yields every cell's experiment."""
    base = experiment(case, folder, steps)
    for seed, rate, weight in itertools.product(SEEDS, RATES, WEIGHTS):
        near = dataclasses.replace(base.terms["near"], weight=weight)
        yield dataclasses.replace(
            base,
            seed=seed,
            optim=dataclasses.replace(base.optim, lr=rate),
            terms={**base.terms, "near": near},
        )


def work(how: str, case: str, folder: pathlib.Path, steps: int) -> float:
    """Runs all cells in one way (of "process" one); returns the mean test accuracy."""
    if how == "torch":
        import grid_torch

        return grid_torch.run(case, folder, steps)
    import jaxtl as tl

    if how == "sweep":
        return _sweep(case, folder, steps)
    wanted = list(cells(case, folder, steps))
    if how == "process":
        wanted = wanted[:1]
    found = [tl.train(tl.setup(exp), progress=False) for exp in wanted]
    return statistics.mean(r["test"]["accuracy"] for r in found)


def _sweep(case, folder, steps) -> float:
    from jaxtl.sweep import runner
    from jaxtl.sweep.grid import build_grid
    from jaxtl.sweep.sweep_folder import build_sweep, open_database
    from jaxtl.training import experiment_file

    axes = {"seed": SEEDS, "optim.lr": RATES, "terms.near.weight": WEIGHTS}
    path = folder / "cells.py"
    path.write_text("")
    exp = experiment(case, folder, steps)
    file = experiment_file.File(path, {"": exp}, None, (), "")
    made = build_sweep(file, build_grid(file, axes), folder / f"sweep{time.time_ns()}")
    with open_database(made) as database:
        runner.run(made, database)
        found = [entry.result["test"]["accuracy"] for entry in database.entries()]
    assert len(found) == 12 * len(SEEDS)
    return statistics.mean(found)


def timed(how, case, folder, steps) -> tuple[float, float, float]:
    """Returns (seconds of the work, of the whole process, mean accuracy)."""
    begin = time.perf_counter()
    given = [sys.executable, __file__, "--work", how, case, str(folder), str(steps)]
    done = subprocess.run(given, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, accuracy = map(float, done.stdout.split()[-2:])
    return seconds, time.perf_counter() - begin, accuracy


def measure(case: str, steps: int, rounds: int) -> dict:
    """Returns one case's row."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        timed("prepare", case, folder, steps)
        times: dict[str, list[float]] = {}
        accuracy = {}
        for turn in range(rounds):
            ways = ["sweep", "loop", "torch"]
            for how in ways[:: -1 if turn % 2 else 1]:
                seconds, _, accuracy[how] = timed(how, case, folder, steps)
                times.setdefault(how, []).append(seconds)
        one = [timed("process", case, folder, steps)[1] for _ in range(SAMPLE)]
        times["process"] = [60 * statistics.median(one)]
    found = {how: statistics.median(values) for how, values in times.items()}
    row = {"60 cells of": CASES[case], "sweep s": round(found["sweep"], 1)}
    heads = {"process": "60 processes", "loop": "loop", "torch": "torch"}
    for how, head in heads.items():
        row[f"{head} s"] = round(found[how], 1)
        row[f"{head}: ×"] = round(found[how] / found["sweep"], 1)
        row[f"{head}: target"] = TARGETS[how].get(case, "–")
    row["accuracy sweep / loop / torch"] = " / ".join(
        f"{100 * accuracy[how]:.1f}" for how in ("sweep", "loop", "torch")
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
    how, case, folder, steps = parser.parse_args().work
    if how == "torch":
        import sklearn.datasets
        import torch  # noqa: F401
    else:
        # What the clock leaves out is imported where it is first needed.
        import orbax.checkpoint  # noqa: F401
        import sklearn.datasets  # noqa: F401

        import jaxtl as tl
        from jaxtl.sweep import runner
        from jaxtl.sweep import vectorized_runs as lanes

        assert all((tl.Experiment, tl.train, tl.losses.CrossEntropy, lanes, runner))
    begin = time.perf_counter()
    if how == "prepare":
        prepare(case, pathlib.Path(folder), int(steps))
        print(0, 0)
        return
    accuracy = work(how, case, pathlib.Path(folder), int(steps))
    print(time.perf_counter() - begin, accuracy)


if __name__ == "__main__":
    if "--work" in sys.argv:
        _worker()
    else:
        main()
