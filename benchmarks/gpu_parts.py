"""The parts of `gpu.py`: each is a function of `quick` that returns rows of a table."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import gpu_attention
import gpu_networks
import gpu_profile
import jax
import jax.numpy as jnp
import models
import numpy as np
import timing
import torch_models

import jaxtl as tl
from jaxtl.export import bundle, write_bundle
from jaxtl.sweep import runner
from jaxtl.sweep.grid import build_grid
from jaxtl.sweep.sweep_folder import build_sweep, open_database
from jaxtl.training import checkpointing, experiment_file

# The rows of a part's table, or those of several tables by title.
Tables = list[timing.Row] | dict[str, list[timing.Row]]

# What the card reaches.


def peaks(quick: bool) -> list[timing.Row]:
    """The card, its versions, and the ceilings of arithmetic and memory."""
    size = 256 if quick else 8192
    x = jnp.zeros((16 * size * size,), jnp.float32) + 1
    add = jax.jit(lambda x: x + 1)
    copy = timing.alternate({"copy": lambda: add(x).block_until_ready()}, 20)
    rate = 2 * x.nbytes / statistics.median(copy.clock["copy"]) / 1e9
    device = jax.devices()[0]
    versions = {
        n: importlib.metadata.version(n)
        for n in ("jax", "flax", "torch", "transformers")
    }
    return [
        {
            "device": f"{device.platform}: {device.device_kind}",
            "bfloat16 product, TFLOP/s": gpu_networks.product_rate(size),
            "copy, GB/s (read + written)": rate,
            "Python": sys.version.split()[0],
            **versions,
        }
    ]


# The Jacobian difference.


def jacobian(quick: bool) -> list[timing.Row]:
    """Steps with JacobianDifference against a plain step of the same network."""
    side, batch = (8, 8) if quick else (32, 256)
    rng = np.random.default_rng(0)
    data = models.Batch(
        x=rng.normal(size=(batch, side, side, 3)).astype(np.float32),
        y=np.arange(batch) % 10,
        task="classification",
    )
    difference = tl.regularizers.JacobianDifference
    terms = {
        "plain step": None,
        "projected": difference(weight=0.1),
        "projected, a quarter of the batch": difference(weight=0.1, fraction=0.25),
        "projected, every fifth step": difference(weight=0.1, every=5),
        "projected, by inputs": difference(weight=0.1, wrt="inputs"),
        "forward": difference(weight=0.1, estimator="forward"),
        "forward, half of the batch": difference(
            weight=0.1, estimator="forward", fraction=0.5
        ),
        "forward, fixed directions": difference(
            weight=0.1, estimator="forward", directions=4
        ),
        "forward, fixed directions, half": difference(
            weight=0.1, estimator="forward", directions=4, fraction=0.5
        ),
    }
    small = "CNN 16–32", tl.models.CNN(widths=(16, 32))
    name, model = small if quick else ("ResNet-20, 32²", tl.models.ResNet(depth=20))
    first = tl.setup(tl.Experiment(model=model, data=data, batch=batch, monitor=None))
    stored = models.Weights(
        jax.device_get(first.params), jax.device_get(first.state.stats)
    )
    exp = tl.Experiment(
        model=model,
        init=models.InMemory(stored),
        data=data,
        batch=batch,
        steps=10**6,
        monitor=None,
    )
    runs = {}
    for label, term in terms.items():
        task = {"task": tl.losses.CrossEntropy()}
        loss = task if term is None else {**task, "jacobian": term}
        runs[label] = tl.setup(dataclasses.replace(exp, terms=loss))
    count = 5 if quick else 50
    ways = {
        k: functools.partial(gpu_profile.advance, run, count) for k, run in runs.items()
    }
    times = timing.alternate(ways, gpu_networks.rounds(quick)).clock
    return [
        {
            "network": f"{name}, batch {batch}, float32",
            "step": label,
            "ms": 1e3 * statistics.median(times[label]) / count,
            "of a plain step's": timing.ratio(times, label, "plain step"),
            "quartiles": timing.spread(times, label, "plain step"),
        }
        for label in ways
    ]


# Grids of runs.


def _grid_experiment(case: str, steps: int) -> tl.Experiment:
    perceptron = tl.models.MLP(widths=(64,))
    network = tl.models.CNN(widths=(16, 32), units=64)
    return tl.Experiment(
        model=perceptron if case == "perceptron" else network,
        data=tl.data.Digits(val=0.2, split_seed=0),
        steps=steps,
        batch=64,
        evaluate_every=max(1, steps // 10),
        terms={"task": tl.losses.CrossEntropy()},
        optim=tl.optim.AdamW(lr=1e-3),
    )


def _grid(case: str, seeds: int, rates: list[float], steps: int, folder: pathlib.Path):
    """(cells, seconds by way, mean accuracies of sweep and of the loop's sample)."""
    exp = _grid_experiment(case, steps)
    path = folder / "cells.py"
    path.write_text("")
    file = experiment_file.File(path, {"": exp}, None, (), "")
    axes = {"seed": range(seeds), "optim.lr": rates}
    seconds = {}
    for mode in ("vmap", "map"):
        for way in (f"{mode}, with compiling", mode):
            start = time.perf_counter()
            out = folder / f"{case}-{way}"
            sweep = build_sweep(file, build_grid(file, axes), out, mode=mode)
            with open_database(sweep) as database:
                runner.run(sweep, database)
                results = [entry.result for entry in database.entries()]
            seconds[way] = time.perf_counter() - start
    cells = [
        dataclasses.replace(exp, seed=s, optim=dataclasses.replace(exp.optim, lr=r))
        for s, r in itertools.product(range(seeds), rates)
    ]
    sample = cells[: min(8, len(cells))]
    tl.train(tl.setup(sample[0]), progress=False)  # compiles
    start = time.perf_counter()
    single = [tl.train(tl.setup(cell), progress=False) for cell in sample]
    seconds["loop"] = (time.perf_counter() - start) * len(cells) / len(sample)
    means = [
        statistics.mean(r["test"]["accuracy"] for r in group)
        for group in (results, single)
    ]
    return len(cells), seconds, means


def grids(quick: bool) -> list[timing.Row]:
    """Sweeps whose cells run in one program, against a loop of compiled runs."""
    steps = 10 if quick else 300
    sizes = {
        "perceptron": (2, 2) if quick else (16, 4),
        "CNN": (2, 1) if quick else (4, 4),
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case, (seeds, count) in sizes.items():
            rates = list(np.geomspace(1e-3, 1e-2, count).round(6).tolist())
            cells, seconds, means = _grid(case, seeds, rates, steps, pathlib.Path(name))
            rows.append(
                {
                    "grid": f"{cells} × {case}, {steps} steps on digits",
                    **{f"{way}, s": round(value, 1) for way, value in seconds.items()},
                    "loop / vmap": round(seconds["loop"] / seconds["vmap"], 1),
                    "accuracy of the sweep / of the loop's sample": " / ".join(
                        f"{100 * m:.1f}" for m in means
                    ),
                }
            )
    return rows


# Cached features.


def cache(quick: bool) -> list[timing.Row]:
    """An epoch of training a head on a frozen ViT-B/16, uncached and cached."""
    pair = gpu_networks.vit_pair(quick)
    count, batch = (8, 4) if quick else (2048, 128)
    side = pair.x.shape[1]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    y = rng.integers(0, 10, count)
    exp = gpu_networks.experiment(
        pair,
        y,
        data=models.Batch(x=x, y=y, task="classification"),
        batch=batch,
        optim=tl.optim.AdamW(
            lr=gpu_networks.RATE, groups={"head": 1.0, ".*": tl.FROZEN}
        ),
    )
    start = time.perf_counter()
    cached = tl.setup(dataclasses.replace(exp, cache="memory"))
    gpu_profile.advance(cached, 1)
    first = time.perf_counter() - start
    plain = tl.setup(dataclasses.replace(exp, cache="off"))
    steps = count // batch
    epochs = 1 if quick else 20
    ways = {
        "plain": lambda: gpu_profile.advance(plain, steps),
        "cached": lambda: gpu_profile.advance(cached, epochs * steps),
    }
    times = timing.alternate(ways, 3).clock
    times["cached"] = [t / epochs for t in times["cached"]]
    return [
        {
            "network": pair.name,
            "examples": count,
            "plain epoch, s": statistics.median(times["plain"]),
            "cached epoch, s": statistics.median(times["cached"]),
            "×": timing.ratio(times, "plain", "cached"),
            "set-up, compiling and filling, s": first,
        }
    ]


# The same bits.


def _small_experiment(case: str, steps: int, quick: bool) -> tl.Experiment:
    fields = {"steps": steps, "batch": 64}
    if case == "CNN":
        model = tl.models.CNN(widths=(16, 32))
        return tl.Experiment(model=model, data=tl.data.Digits(), **fields)
    dtype = "bfloat16" if "bfloat16" in case else "float32"
    if "BERT" in case:
        layers, width = (1, 32) if quick else (2, 128)
        x = torch_models.text(256, 64, 30_522)
        return tl.Experiment(
            model=tl.models.Bert(
                layers=layers, width=width, heads=width // 32, hidden=4 * width
            ),
            data=models.Batch(x=x, y=np.arange(256) % 10, task="classification"),
            monitor=None,
            dtype=dtype,
            **fields,
        )
    x = np.random.default_rng(0).normal(size=(512, 32, 32, 3)).astype(np.float32)
    return tl.Experiment(
        model=tl.models.ResNet(depth=20),
        data=models.Batch(x=x, y=np.arange(512) % 10, task="classification"),
        monitor=None,
        dtype=dtype,
        **fields,
    )


def _digest(run: tl.Run) -> str:
    leaves = jax.tree.leaves(jax.device_get((run.params, run.state.stats)))
    return hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in leaves)).hexdigest()


CASES = ("CNN", "ResNet-20", "ResNet-20, bfloat16", "BERT 2 × 128")
FASTEST = "--xla_gpu_exclude_nondeterministic_ops=false"


def _train(exp: tl.Experiment) -> str:
    run = tl.setup(exp)
    gpu_profile.advance(run, exp.steps)
    return _digest(run)


def _interrupted(exp: tl.Experiment, folder: str) -> str:
    run = tl.setup(exp, folder)
    gpu_profile.advance(run, exp.steps // 2)
    checkpointing.save(run)
    run = tl.resume(folder, exp)
    gpu_profile.advance(run, exp.steps - run.steps_done)
    return _digest(run)


def child(case: str, quick: bool) -> None:
    """A process of `bits`: digests, then a time for each line that it reads."""
    exp = _small_experiment(case, 6 if quick else 40, quick)
    digests = [_train(exp), _train(exp)]
    with tempfile.TemporaryDirectory() as folder:
        digests.append(_interrupted(exp, f"{folder}/run"))
    print("DIGESTS", *digests, flush=True)
    run = tl.setup(dataclasses.replace(exp, steps=10**6))
    gpu_profile.advance(run, 50)
    for _ in sys.stdin:
        start = time.perf_counter()
        gpu_profile.advance(run, 50)
        print("SECONDS", (time.perf_counter() - start) / 50, flush=True)


def _start(case: str, quick: bool, flags: str) -> subprocess.Popen:
    code = f"import gpu_parts; gpu_parts.child({case!r}, {quick})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parent,
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        },
    )


def _answer(process: subprocess.Popen, key: str) -> list[str]:
    for line in process.stdout:
        if line.startswith(key):
            return line.split()[1:]
    return []


def bits(quick: bool) -> list[timing.Row]:
    """Whether runs repeat to the bit, and what that costs.

    Every case runs in three processes: two as jaxtl sets them up, and one that may use
    kernels whose sums take another order each time.
    """
    cases = CASES[:1] if quick else CASES
    ways = {"first": "", "second": "", "fastest": FASTEST}
    jobs = {(c, w): _start(c, quick, flags) for c in cases for w, flags in ways.items()}
    digests = {key: _answer(process, "DIGESTS") for key, process in jobs.items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for _ in range(gpu_networks.rounds(quick) if all(digests.values()) else 0):
        for key, process in jobs.items():
            if key[1] != "second":
                process.stdin.write("time\n")
                process.stdin.flush()
                times[key].append(float(_answer(process, "SECONDS")[0]))
    for process in jobs.values():
        process.stdin.close()
        process.wait()
    rows = []
    for case in cases:
        first, second = digests[case, "first"], digests[case, "second"]
        clock = {way: times[case, way] for way in ways}
        rows.append(
            {
                "network": case,
                "twice in one process": _same(first[:2]),
                "in a second process": _same(first[:1] + second[:1]),
                "interrupted and resumed": _same(first[1:]),
                "with any kernels": _same(digests[case, "fastest"][:2]),
                "ms a step": 1e3 * statistics.median(clock["first"] or [0]),
                "of a step with any kernels": timing.ratio(clock, "first", "fastest")
                if clock["first"]
                else 0.0,
            }
        )
    return rows


def _same(digests: list[str]) -> str:
    if len(digests) < 2:
        return "failed"
    return "same bits" if len(set(digests)) == 1 else "different"


# Export.


def export(quick: bool) -> list[timing.Row]:
    """Exported programs on this device and, in another process, on the CPU."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case in ("perceptron", "CNN"):
            folder = pathlib.Path(name) / case
            network = tl.models.CNN(widths=(16, 32))
            exp = tl.Experiment(
                model=network if case == "CNN" else tl.models.MLP(widths=(64,)),
                data=tl.data.Digits(),
                steps=20 if quick else 200,
            )
            tl.train(tl.setup(exp, folder), progress=False)
            out = pathlib.Path(name) / f"{case}-bundle"
            write_bundle.export(folder, out)
            x = (np.random.default_rng(0).random((256, 8, 8, 1)) * 16).round()
            predictor = bundle.load(out)
            dtype = next(iter(predictor.inputs.values()))[1]
            np.save(f"{name}/x.npy", x.astype(dtype))
            here = np.asarray(predictor(x.astype(dtype)))
            code = (
                "import numpy as np, sys; from jaxtl.export import bundle;"
                f"p = bundle.load({str(out)!r});"
                f"y = np.asarray(p(np.load({name + '/x.npy'!r})));"
                f"np.save({name + '/y.npy'!r}, y)"
            )
            subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )
            there = np.load(f"{name}/y.npy")
            rows.append(
                {
                    "model": case,
                    "device": jax.devices()[0].platform,
                    "largest difference to the CPU": float(np.abs(here - there).max()),
                    "same class": float((here.argmax(-1) == there.argmax(-1)).mean()),
                }
            )
    return rows


def _alone(part: Callable[[bool], list[timing.Row]]) -> Callable:
    """A part that has nothing to prepare beside others."""

    def run(quick: bool) -> list[timing.Row]:
        gpu_networks.wait_for_turn()
        return part(quick)

    return run


PARTS: dict[str, Callable[[bool], Tables]] = {
    "peaks": _alone(peaks),
    "resnet": functools.partial(gpu_networks.train_network, gpu_networks.resnet_pair),
    "vit": functools.partial(gpu_networks.train_network, gpu_networks.vit_pair),
    "bert": functools.partial(gpu_networks.train_network, gpu_networks.bert_pair),
    "gpt2": functools.partial(gpu_networks.train_network, gpu_networks.gpt2_pair),
    "attention": _alone(gpu_attention.attention),
    "jacobian": _alone(jacobian),
    "grids": _alone(grids),
    "cache": _alone(cache),
    "bits": _alone(bits),
    "export": _alone(export),
}
