"""The parts of `gpu.py`: each is a function of `quick` that returns rows of a table."""

import concurrent.futures
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
from typing import Any

import jax
import jax.numpy as jnp
import models
import numpy as np
import timing
import torch
import torch_models
import transformers
from torch.nn import functional as F
from torch.utils import flop_counter

import jaxtl as tl
from jaxtl.export import bundle, write_bundle
from jaxtl.models import bert, gpt2, precision, resnet, vit
from jaxtl.pretrained import convert
from jaxtl.sweep import runner
from jaxtl.sweep.grid import build_grid
from jaxtl.sweep.sweep_folder import build_sweep, open_database
from jaxtl.training import checkpointing, experiment_file

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 9
RATE = 1e-4


def wait_for_turn() -> None:
    """Waits until `gpu.py` lets this process, and no other, take times."""
    if not sys.stdin.isatty():
        print("READY", flush=True)
        sys.stdin.readline()


def _rounds(quick: bool) -> int:
    return 2 if quick else ROUNDS


def _wait_for_torch() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _peak_memory() -> float:
    """Peak memory of jax on the device so far, in GB; NaN where it is not counted."""
    counts = jax.devices()[0].memory_stats() or {}
    return counts.get("peak_bytes_in_use", float("nan")) / 1e9


# What the card reaches.


def product_rate(size: int) -> float:
    """TFLOP/s of a bfloat16 product of two (size, size) matrices, median of 20."""
    a, b = (
        jax.random.normal(jax.random.key(k), (size, size), jnp.bfloat16) for k in (0, 1)
    )
    product = jax.jit(jnp.matmul)
    seconds = timing.alternate(
        {"product": lambda: product(a, b).block_until_ready()}, 20
    )
    return 2 * size**3 / statistics.median(seconds.clock["product"]) / 1e12


def peaks(quick: bool) -> list[timing.Row]:
    """The card, its versions, and the ceilings of arithmetic and memory."""
    size = 256 if quick else 8192
    x = jnp.zeros((16 * size * size,), jnp.float32) + 1
    add = jax.jit(lambda x: x + 1)
    copy = timing.alternate({"copy": lambda: add(x).block_until_ready()}, 20)
    rate = 2 * x.nbytes / statistics.median(copy.clock["copy"]) / 1e9
    device = jax.devices()[0]
    versions = {n: importlib.metadata.version(n) for n in ("jax", "flax", "torch")}
    return [
        {
            "device": f"{device.platform}: {device.device_kind}",
            "bfloat16 product, TFLOP/s": product_rate(size),
            "copy, GB/s (read + written)": rate,
            "Python": sys.version.split()[0],
            **versions,
            "transformers": transformers.__version__,
        }
    ]


# Training steps of whole networks.


def _resnet_pair(quick: bool) -> torch_models.Pair:
    config = transformers.ResNetConfig(
        num_labels=1000, depths=(1, 1, 1, 1) if quick else (3, 4, 6, 3)
    )
    batch, side = (2, 64) if quick else (256, 224)
    return torch_models.hugging_face(
        f"ResNet-50, {side}²",
        "ResNetForImageClassification",
        resnet,
        config,
        torch_models.images(batch, side),
        outputs=1000,
    )


def _vit_pair(quick: bool) -> torch_models.Pair:
    config = transformers.ViTConfig(
        num_labels=1000,
        image_size=32 if quick else 224,
        num_hidden_layers=1 if quick else 12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    batch, side = (2, 32) if quick else (128, 224)
    return torch_models.hugging_face(
        f"ViT-B/16, {side}²",
        "ViTForImageClassification",
        vit,
        config,
        torch_models.images(batch, side),
        outputs=1000,
    )


def _bert_pair(quick: bool) -> torch_models.Pair:
    config = transformers.BertConfig(
        num_labels=10,
        num_hidden_layers=1 if quick else 12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    batch, length = (2, 16) if quick else (64, 256)
    return torch_models.hugging_face(
        f"BERT-base, length {length}",
        "BertForSequenceClassification",
        bert,
        config,
        torch_models.text(batch, length, config.vocab_size),
        outputs=10,
    )


def _gpt2_pair(quick: bool) -> torch_models.Pair:
    config = transformers.GPT2Config(
        n_layer=1 if quick else 12, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    batch, length = (2, 16) if quick else (16, 1024)
    return torch_models.hugging_face(
        f"GPT-2, length {length}",
        "GPT2LMHeadModel",
        gpt2,
        config,
        torch_models.text(batch, length, config.vocab_size),
        "language",
    )


class TorchStep:
    """A training step of torch: autocast to bfloat16, fused AdamW.

    Attributes:
      compile_seconds: time of the first step.
      peak: peak memory of three steps in GB, NaN on CPU.
      flops: floating-point operations of a step, as torch counts them; 0 if compiled.
    """

    def __init__(self, pair: torch_models.Pair, y: np.ndarray, compiled: bool):
        module = pair.theirs.train().to(DEVICE)
        x = pair.in_torch(pair.x)
        if isinstance(x, dict):
            self.x = {k: v.to(DEVICE) for k, v in x.items()}
        else:
            module = module.to(memory_format=torch.channels_last)
            self.x = x.to(DEVICE, memory_format=torch.channels_last)
        self.y, self.pair, self.module = torch.tensor(y).to(DEVICE), pair, module
        self.adam = torch.optim.AdamW(
            module.parameters(), RATE, weight_decay=0.01, fused=True
        )
        self.loss = torch.compile(self._loss) if compiled else self._loss
        start = time.perf_counter()
        self.take(1)
        self.compile_seconds = time.perf_counter() - start
        self.peak = self._peak()
        self.flops = 0 if compiled else self._flops()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()

    def _loss(self):
        x = self.x
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = self.pair.logits(self.module, x)
        if self.pair.task == "classification":
            return F.cross_entropy(logits.float(), self.y)
        # The next token of every token that has one; -100 leaves padding out.
        is_token = x["attention_mask"][:, 1:] > 0
        targets = torch.where(is_token, x["input_ids"][:, 1:], -100)
        return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten())

    def take(self, count: int) -> None:
        for _ in range(count):
            self.adam.zero_grad()
            self.loss().backward()
            self.adam.step()
        _wait_for_torch()

    def _flops(self) -> int:
        with flop_counter.FlopCounterMode(display=False) as counter:
            self.take(1)
        return counter.get_total_flops()

    def _peak(self) -> float:
        if DEVICE == "cpu":
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        self.take(3)
        return torch.cuda.max_memory_allocated() / 1e9


def _experiment(pair: torch_models.Pair, y: np.ndarray, **fields: Any) -> tl.Experiment:
    language = pair.task == "language"
    task = tl.losses.NextToken() if language else tl.losses.CrossEntropy()
    return tl.Experiment(
        **{
            "model": pair.ours,
            "init": models.InMemory(convert.to_weights(pair.tensors, pair.layout)),
            "data": models.Batch(x=pair.x, y=y, task=pair.task),
            "terms": {"task": task},
            "optim": tl.optim.AdamW(lr=RATE, weight_decay=0.01),
            "batch": len(y),
            "steps": 10**6,
            "monitor": None,
            "dtype": "bfloat16",
            **fields,
        }
    )


def advance(run: tl.Run, steps: int) -> None:
    """Takes steps and waits until they are done."""
    run.dispatch(steps)
    jax.block_until_ready(run.state)


def _logits_apart(pair: torch_models.Pair, run: tl.Run) -> tuple[float, float]:
    """max |difference| / max |logit| of two examples to torch's in float32 on the CPU.

    Returns:
      That of jaxtl in float32, and that of jaxtl in bfloat16 as it trains.
    """
    few = jax.tree.map(lambda a: a[:2], pair.x)
    with torch.inference_mode():
        expected = np.asarray(pair.logits(pair.theirs.eval(), pair.in_torch(few)))
    apart = []
    for network in (run.network, precision.compute_in(run.network, "bfloat16")):
        with jax.default_matmul_precision("highest"):
            apply = jax.jit(lambda *a, network=network: network.apply(*a).logits)
            actual = np.asarray(apply(run.params, run.state.stats, few))
        if pair.task == "language":
            is_token = few["attention_mask"].astype(bool)
            actual, reference = actual[is_token], expected[is_token]
        else:
            reference = expected
        apart.append(float(np.abs(actual - reference).max() / np.abs(reference).max()))
    return apart[0], apart[1]


def train_network(
    make: Callable[[bool], torch_models.Pair], quick: bool
) -> list[timing.Row]:
    """The row of one network: jaxtl, torch eager and torch.compile in turn."""
    torch.set_float32_matmul_precision("high")
    pair = make(quick)
    size = len(jax.tree.leaves(pair.x)[0])
    is_text = isinstance(pair.x, dict)
    y = np.arange(size) % 10 if pair.task == "classification" else np.zeros(size, int)
    run = tl.setup(_experiment(pair, y))
    apart, apart_half = _logits_apart(pair, run)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiled = pool.submit(TorchStep, pair, y, True)
        start = time.perf_counter()
        advance(run, 1)
        compile_seconds = time.perf_counter() - start
        advance(run, 3)
        ours_peak = _peak_memory()
        theirs = {"eager": TorchStep(pair, y, False)}
        try:
            theirs["compiled"] = compiled.result()
        except Exception as error:  # no compiler for inductor on this machine
            print(f"torch.compile: {type(error).__name__}: {error}", file=sys.stderr)
    wait_for_turn()
    ways = {}
    count = 1 if quick else 5
    ways["jaxtl"] = lambda: advance(run, count)
    ways |= {k: functools.partial(v.take, count) for k, v in theirs.items()}
    times = timing.alternate(ways, _rounds(quick)).clock
    per_step = {k: statistics.median(v) / count for k, v in times.items()}
    units = size * (pair.x["input_ids"].shape[1] if is_text else 1)
    peak = product_rate(256 if quick else 8192)
    flops = theirs["eager"].flops
    row = {
        "network": pair.name,
        "batch": size,
        "logits apart": apart,
        "in bfloat16": apart_half,
        "unit": "tokens/s" if is_text else "images/s",
    }
    for name, seconds in per_step.items():
        row[name] = round(units / seconds)
    for name in theirs:
        row[f"× {name}"] = round(timing.ratio(times, name, "jaxtl"), 2)
        row[f"quartiles, {name}"] = timing.spread(times, name, "jaxtl")
    row |= {
        "GFLOP a step": round(flops / 1e9, 1),
        "share of the product's rate": round(
            flops / per_step["jaxtl"] / 1e12 / peak, 3
        ),
        "compiling, s": round(compile_seconds, 1),
        "torch.compile, s": round(
            theirs["compiled"].compile_seconds if "compiled" in theirs else 0, 1
        ),
        "peak, GB": round(ours_peak, 2),
        "eager's peak, GB": round(theirs["eager"].peak, 2),
    }
    return [row]


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
    ways = {k: functools.partial(advance, run, count) for k, run in runs.items()}
    times = timing.alternate(ways, _rounds(quick)).clock
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
    pair = _vit_pair(quick)
    count, batch = (8, 4) if quick else (2048, 128)
    side = pair.x.shape[1]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    y = rng.integers(0, 10, count)
    exp = _experiment(
        pair,
        y,
        data=models.Batch(x=x, y=y, task="classification"),
        batch=batch,
        optim=tl.optim.AdamW(lr=RATE, groups={"head": 1.0, ".*": tl.FROZEN}),
    )
    start = time.perf_counter()
    cached = tl.setup(dataclasses.replace(exp, cache="memory"))
    advance(cached, 1)
    first = time.perf_counter() - start
    plain = tl.setup(dataclasses.replace(exp, cache="off"))
    steps = count // batch
    epochs = 1 if quick else 20
    ways = {
        "plain": lambda: advance(plain, steps),
        "cached": lambda: advance(cached, epochs * steps),
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
        layers, width = (1, 32) if quick else (6, 384)
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


CASES = ("CNN", "ResNet-20, bfloat16", "BERT 6 × 384, bfloat16")
FASTEST = "--xla_gpu_exclude_nondeterministic_ops=false"


def _train(exp: tl.Experiment) -> str:
    run = tl.setup(exp)
    advance(run, exp.steps)
    return _digest(run)


def _interrupted(exp: tl.Experiment, folder: str) -> str:
    run = tl.setup(exp, folder)
    advance(run, exp.steps // 2)
    checkpointing.save(run)
    run = tl.resume(folder, exp)
    advance(run, exp.steps - run.steps_done)
    return _digest(run)


def child(case: str, quick: bool) -> None:
    """A process of `bits`: digests, then a time for each line that it reads."""
    exp = _small_experiment(case, 6 if quick else 40, quick)
    digests = [_train(exp), _train(exp)]
    with tempfile.TemporaryDirectory() as folder:
        digests.append(_interrupted(exp, f"{folder}/run"))
    print("DIGESTS", *digests, flush=True)
    run = tl.setup(dataclasses.replace(exp, steps=10**6))
    advance(run, 50)
    for _ in sys.stdin:
        start = time.perf_counter()
        advance(run, 50)
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
    for _ in range(_rounds(quick) if all(digests.values()) else 0):
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
        wait_for_turn()
        return part(quick)

    return run


PARTS: dict[str, Callable[[bool], list[timing.Row]]] = {
    "peaks": _alone(peaks),
    "resnet": functools.partial(train_network, _resnet_pair),
    "vit": functools.partial(train_network, _vit_pair),
    "bert": functools.partial(train_network, _bert_pair),
    "gpt2": functools.partial(train_network, _gpt2_pair),
    "jacobian": _alone(jacobian),
    "grids": _alone(grids),
    "cache": _alone(cache),
    "bits": _alone(bits),
    "export": _alone(export),
}
