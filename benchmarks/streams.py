"""Time of a second stream, and of the terms that read it.

1. A step on 32 labelled and 32 unlabelled images with an adaptation term, against a
   plain step on as many labelled images (FixMatch passes 32 more, and so does its
   plain step).
2. MMD by five kernels with its gradient, against torch: by one Gram matrix as in jaxtl,
   and by all differences at once as it is often written.
3. An epoch of DANN, MNIST to USPS at 16 × 16, against the same network, weights, batch
   and optimizer in torch.

Needs digits/mnist.npz and digits/usps.npz below the folder JAXTL_DATA_DIR names, except
with --quick.

    python benchmarks/streams.py [--quick] [--json FILE]
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import streams_torch
import timing
import torch

import jaxtl as tl
from jaxtl.core import devices

STREAM_TARGET, TORCH_TARGET = 1.1, 1.0
RATE, DECAY = 1e-3, 1e-4
ADAPTED: dict[str, tl.Term] = {
    "DeepCORAL": tl.domain.DeepCORAL(),
    "DAN": tl.domain.DAN(),
    "DANN": tl.domain.DANN(reversal=tl.optim.Ramp()),
    "CDAN": tl.domain.CDAN(),
    "FixMatch": tl.semi.FixMatch(),
}


def stream_experiments(quick: bool) -> dict[str, tl.Experiment]:
    """The plain experiments by number of images, and one for each term."""
    rng = np.random.default_rng(0)
    half, side = (4, 8) if quick else (32, 32)
    model = tl.models.ResNet(depth=8 if quick else 20, width=4 if quick else 16)

    def data(images, **options):
        x = rng.integers(0, 256, (images, side, side, 3)).astype(np.uint8)
        y = np.arange(images) % 4
        return tl.data.Arrays(x=x, y=y, val=0, test=0, **options)

    plain = tl.Experiment(
        model=dataclasses.replace(model, outputs=4),
        data=data(16 * half),
        optim=tl.optim.AdamW(lr=1e-4),
        batch=2 * half,
        steps=10**6,
        monitor=None,
    )
    variants = {
        f"plain, {2 * half} images": plain,
        f"plain, {3 * half} images": dataclasses.replace(plain, batch=3 * half),
    }
    source, target = data(16 * half), data(16 * half, labels=0)
    task = tl.losses.CrossEntropy(stream="source")
    for name, term in ADAPTED.items():
        variants[name] = dataclasses.replace(
            plain,
            data=target,
            streams={"source": source},
            terms={"task": task, "term": dataclasses.replace(term, weight=0.1)},
            batch=half,
        )
    return variants


def second_stream(quick: bool) -> list[timing.Row]:
    """Measures a row for each term: its step and the plain one."""
    variants = stream_experiments(quick)
    if quick:
        names = (*list(variants)[:2], "DANN", "FixMatch")
        variants = {name: variants[name] for name in names}
    runs = {name: tl.setup(exp) for name, exp in variants.items()}
    works = {name: _steps(run, 2 if quick else 5) for name, run in runs.items()}
    clock = timing.alternate(works, 2 if quick else 7).clock
    two, three = list(runs)[:2]
    rows = []
    for name in list(runs)[2:]:
        against = three if name == "FixMatch" else two
        flops = runs[name].compiled.flops / runs[against].compiled.flops
        rows.append(
            {
                "step": name,
                "ms": 1e3 * _median(clock[name]) / (2 if quick else 5),
                "against": against,
                "of its time": timing.ratio(clock, name, against),
                "quartiles": timing.spread(clock, name, against),
                "of its FLOPs": flops,
                "target": f"≤ {STREAM_TARGET}",
            }
        )
    return rows


def _steps(run: tl.Run, count: int):
    run.compile()

    def work():
        run.dispatch(count)
        jax.block_until_ready(run.state)

    return work


def _median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


def many_kernels(quick: bool) -> list[timing.Row]:
    """Measures the row of MMD and its gradient at one batch size, and torch's."""
    batch, width = (16, 8) if quick else (512, 64)
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, batch, width)).astype(np.float32)
    t += 0.3
    ours = jax.jit(jax.value_and_grad(tl.domain.mmd, argnums=(0, 1)))
    a, b = jnp.asarray(s), jnp.asarray(t)
    works = {"jaxtl": lambda: jax.block_until_ready(ours(a, b))}
    value, grads = ours(a, b)
    for name, estimate in (
        ("one Gram matrix", streams_torch.mmd_gram),
        ("all differences", streams_torch.mmd_differences),
    ):
        theirs = streams_torch.with_gradient(estimate, s, t)
        expected, gradient = theirs()
        np.testing.assert_allclose(value, expected, rtol=1e-3)
        np.testing.assert_allclose(grads[0], gradient, atol=1e-5)
        works[name] = theirs
    clock = timing.alternate(works, 3 if quick else 15).clock
    row = {"MMD": f"batch {batch} + {batch}, {width} features, 5 kernels"}
    row["jaxtl, ms"] = 1e3 * _median(clock["jaxtl"])
    for name in list(works)[1:]:
        row[f"torch, {name}, ms"] = 1e3 * _median(clock[name])
        row[f"× {name}"] = timing.ratio(clock, name, "jaxtl")
    return [{**row, "target": f"≥ {TORCH_TARGET:g} × Gram"}]


def digits(quick: bool) -> tl.Experiment:
    """DANN from MNIST to USPS, or from noise to noise."""
    source = tl.data.Arrays("digits/mnist.npz", size=16, val=0)
    target = tl.data.Arrays("digits/usps.npz", scale=2000, val=0, labels=0)
    if quick:
        x = np.random.default_rng(0).integers(0, 256, (2, 64, 16, 16, 1))
        x, y = x.astype(np.uint8), np.arange(64) % 10
        source = tl.data.Arrays(x=x[0], y=y, val=0, test=0)
        target = tl.data.Arrays(x=x[1], y=y, val=0, test=0, labels=0)
    return tl.Experiment(
        model=tl.models.CNN(widths=(32, 64), units=128),
        data=target,
        streams={"source": source},
        terms={
            "task": tl.losses.CrossEntropy(stream="source"),
            "adversary": tl.domain.DANN(widths=(64,)),
        },
        optim=tl.optim.AdamW(lr=RATE, weight_decay=DECAY),
        batch=16 if quick else 64,
        steps=10**6,
        monitor=None,
        test=False,
    )


def epoch(quick: bool) -> list[timing.Row]:
    """Measures the row of an epoch over the source, in jaxtl and in torch."""
    exp = digits(quick)
    run = tl.setup(exp)
    count = len(run.parts.datasets["source"].rows["train"]) // exp.batch
    theirs = streams_torch.DANN(run, RATE, DECAY)
    difference = theirs.loss_difference(run)  # before the first step
    work = _steps(run, count)
    works = {"jaxtl": work, "torch": lambda: theirs.epoch(count)}
    clock = timing.alternate(works, 2 if quick else 5).clock
    return [
        {
            "epoch": "DANN, noise" if quick else "DANN, MNIST → USPS",
            "steps": count,
            "batch": f"{exp.batch} + {exp.batch}",
            "jaxtl, s": _median(clock["jaxtl"]),
            "torch, s": _median(clock["torch"]),
            "× torch": timing.ratio(clock, "torch", "jaxtl"),
            "quartiles": timing.spread(clock, "torch", "jaxtl"),
            "first losses apart": difference,
            "target": f"≥ {TORCH_TARGET:g}",
        }
    ]


def main(argv=None) -> list[list[timing.Row]]:
    args = timing.options(__doc__, argv)
    torch.set_num_threads(devices.core_count())
    tables = [part(args.quick) for part in (second_stream, many_kernels, epoch)]
    timing.report("streams", tables, args.json)
    return tables


if __name__ == "__main__":
    main(sys.argv[1:])
