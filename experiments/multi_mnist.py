"""MultiMNIST: two overlapping digits, one network with two heads, and its balancers.

The data and the network are those of Sener & Koltun (NeurIPS 2018) and of the program
of the authors: a LeNet of 10 and 20 channels and 50 shared units, two layers for each
digit, dropout of channels and units. The learning rate of each method (and the weights
of "fixed weights") are chosen on 5,000 validation images with a seed of its own; then
three other seeds are trained and tested once.

Needs:     digits/mnist.npz below the folder that JAXTL_DATA_DIR names.
Run:       jaxtl run experiments/multi_mnist.py       # equal weights, one seed
           python experiments/multi_mnist.py FOLDER   # the table; stops and continues
           python experiments/multi_mnist.py FOLDER 215 MGDA PCGrad   # 215 steps each
Expected:  of the 20 epochs that the file trains: not measured yet. After 215 steps, one
           epoch, test accuracy in % and Δm against single tasks, with 95 % intervals
           over 3 seeds, on 2 cores (`… FOLDER 215 "left alone" "right alone" …`):

                           left           right          Δm, %
           single tasks    90.73 ± 1.14   87.72 ± 2.78
           equal weights   87.25 ± 3.06   82.53 ± 5.18   -4.88 ± 2.81
           MGDA            84.82 ± 7.90   82.46 ± 5.99   -6.26 ± 6.54
           PCGrad          86.11 ± 6.41   81.67 ± 6.82   -5.99 ± 4.15
           CAGrad          84.31 ± 11.53  81.13 ± 9.07   -7.31 ± 9.67
           Nash-MTL        85.71 ± 7.58   82.70 ± 6.38   -5.64 ± 5.89
           FAMO            86.57 ± 4.37   83.24 ± 4.13   -4.85 ± 1.66

After one epoch two tasks are behind one task each, and no balancer is told apart from
equal weights. That is no verdict on trained networks: the paper trains 100 epochs, and
its figures (97.23 / 95.90 for single tasks, 97.26 / 95.90 for MGDA, as they are quoted;
not checked in the paper) are not compared with here.
"""

import dataclasses
import json
import pathlib
import sys

import numpy as np

import jaxtl as tl
from jaxtl.results import statistics

EPOCHS, BATCH, TRAIN = 20, 256, 55_000
STEPS = EPOCHS * TRAIN // BATCH
RATES = (0.03, 0.1, 0.2)
TUNING_SEED, SEEDS = 100, (0, 1, 2)
TASKS = ("left", "right")
_multitask = tl.multitask


def fixed(left: float) -> _multitask.FixedWeights:
    """Weights of both tasks that add up to 2."""
    return _multitask.FixedWeights(weights={"left": left, "right": 2.0 - left})


EQUAL = _multitask.EqualWeights()
# Method -> its balancers; of several, validation chooses one. A task of weight 0 trains
# nothing, so the first two are runs of a single task.
METHODS = {
    "left alone": {"": fixed(2.0)},
    "right alone": {"": fixed(0.0)},
    "equal weights": {"": EQUAL},
    "MGDA": {"": _multitask.MGDA()},
    "PCGrad": {"": _multitask.PCGrad()},
    "CAGrad": {"": _multitask.CAGrad()},
    "Nash-MTL": {"": _multitask.NashMTL()},
    "FAMO": {"": _multitask.FAMO()},
    "fixed weights": {f"left {w}": fixed(w) for w in (0.7, 1.3)},
    "uncertainty": {"": _multitask.UncertaintyWeights()},
    "IMTL-G": {"": _multitask.IMTLG()},
    "Aligned-MTL": {"": _multitask.AlignedMTL()},
    "UPGrad": {"": _multitask.UPGrad()},
    "DWA": {"": _multitask.DWA(every=TRAIN // BATCH)},
}
MONITORS = {"left alone": "accuracy[left]", "right alone": "accuracy[right]"}


def experiment(balancer=None, monitor: str = "mean_score"):
    return tl.Experiment(
        model=tl.models.CNN(
            widths=(10, 20),
            kernel=5,
            padding="VALID",
            units=50,
            channel_dropout=0.5,
            task_heads=tl.models.TaskHeads(outputs=(10, 10), units=50, dropout=0.5),
        ),
        data=tl.data.MultiMNIST("digits/mnist.npz", val=60_000 - TRAIN, split_seed=0),
        terms={"tasks": _multitask.MultiTask(balancer=balancer or EQUAL)},
        optim=tl.optim.SGD(lr=tl.optim.Cosine(peak=0.1), momentum=0.9),
        batch=BATCH,
        steps=STEPS,
        monitor=monitor,
        evaluate_every=max(STEPS // 10, 1),
        evaluate_batch=5000,
    )


def run_method(method: str, folder: pathlib.Path, **settings) -> None:
    """Chooses a method's learning rate and balancer, then trains and tests its seeds.

    Writes FOLDER/METHOD.json after each run; runs that it holds are not repeated.

    Args:
      method: of METHODS.
      folder: for the results.
      **settings: of the experiment, in place of its own.
    """
    path, monitor = folder / f"{method}.json", MONITORS.get(method, "mean_score")
    done = json.loads(path.read_text()) if path.exists() else {}

    def run(name: str, rate: float, seed: int, is_tested: bool) -> dict:
        key = f"{name} rate {rate} seed {seed}".strip()
        if key not in done:
            exp = experiment(METHODS[method][name], monitor)
            optim = dataclasses.replace(exp.optim, lr=tl.optim.Cosine(peak=rate))
            options = {"optim": optim, "seed": seed, "test": is_tested, **settings}
            result = tl.train(tl.setup(dataclasses.replace(exp, **options)))
            scores = (*(f"accuracy[{task}]" for task in TASKS), "mean_score")
            done[key] = {
                split: {score: result[split][score] for score in scores}
                for split in ("val", "test")
                if result.get(split)
            } | {"seconds": result["train_seconds"], "device": result["device"]}
            path.write_text(json.dumps(done, indent=1))
        return done[key]

    tuning = {
        (name, rate): run(name, rate, TUNING_SEED, False)["val"][monitor]
        for name in METHODS[method]
        for rate in RATES
    }
    name, rate = max(tuning, key=tuning.get)
    for seed in SEEDS:
        run(name, rate, seed, True)


def scores(method: str, folder: pathlib.Path) -> np.ndarray | None:
    """Test accuracy in %, (seeds, tasks), of a method's chosen setting."""
    path = folder / f"{method}.json"
    done = json.loads(path.read_text()) if path.exists() else {}
    tests = [
        [run["test"] for key, run in done.items() if key.endswith(f"seed {seed}")]
        for seed in SEEDS
    ]
    if not all(tests):
        return None
    return np.array([[100 * t[f"accuracy[{k}]"] for k in TASKS] for [t] in tests])


def table(folder: pathlib.Path) -> list[str]:
    """Lines: per method both accuracies and Δm with intervals, and what was chosen."""

    def shown(values) -> str:
        found = statistics.estimate(list(values))
        return f"{found.mean:6.2f} ± {found.half:4.2f}"

    alone = [scores(f"{task} alone", folder)[:, i] for i, task in enumerate(TASKS)]
    single = np.stack(alone, axis=1)
    lines = [f"{'':<16}{'left':<15}{'right':<15}{'Δm, %':<15}"]
    for method in ("single tasks", *list(METHODS)[2:]):
        rows = single if method == "single tasks" else scores(method, folder)
        if rows is None:
            continue
        changes = 100 * ((rows - single) / single).mean(1)
        cells = [shown(column) for column in rows.T]
        cells += [shown(changes)] * (method != "single tasks")
        lines.append(f"{method:<15}" + "".join(f"{cell:<15}" for cell in cells))
    return lines


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1])
    FOLDER.mkdir(parents=True, exist_ok=True)
    NAMES = sys.argv[2:]
    if NAMES and NAMES[0].isdigit():
        STEPS = int(NAMES.pop(0))
    for METHOD in NAMES or METHODS:
        run_method(METHOD, FOLDER)
    print("\n".join(table(FOLDER)))
