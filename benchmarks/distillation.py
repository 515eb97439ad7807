"""Time that each loss of distillation adds to a training step.

ResNet-20 on batches of 64 images, AdamW; the teacher is ResNet-56. Every row is the
plain step with one more term, whose teacher's outputs for all 1,024 images were
computed before ("cached") or are computed at every step. The time before training is
not counted.

    python benchmarks/distillation.py [--quick] [--json FILE]
"""

import dataclasses
import statistics
import sys

import jax
import models
import numpy as np
import timing

import jaxtl as tl
from jaxtl.pretrained.match import Weights

D = tl.distillation
ALL = {stage: stage for stage in ("stage1", "stage2", "stage3")}
LAST = {"stage3": "stage3"}
TERMS: dict[str, tuple[type[tl.Term], dict]] = {
    "KD": (D.KD, {}),
    "DKD": (D.DKD, {}),
    "DIST": (D.DIST, {}),
    "FitNets": (D.FitNets, {"stages": {"stage2": "stage2"}}),
    "AT": (D.AT, {"stages": ALL}),
    "NST": (D.NST, {"stages": ALL}),
    "SP": (D.SP, {"stages": LAST}),
    "RKD": (D.RKD, {"stages": LAST}),
    "PKT": (D.PKT, {"stages": LAST}),
    "VID": (D.VID, {"stages": ALL}),
    "CRD": (D.CRD, {"stages": LAST}),
}
CACHES = {"cached": "memory", "at every step": "off"}


def experiments(quick: bool) -> dict[tuple[str, str], tl.Experiment]:
    """(method, how its teacher is read) -> experiment; ("plain", "") without a term."""
    rng = np.random.default_rng(0)
    batch, examples, side = (8, 16, 8) if quick else (64, 1024, 32)
    x = rng.normal(size=(examples, side, side, 3)).astype(np.float32)
    y = np.arange(examples) % 2 if quick else np.arange(examples) % 10
    width = 4 if quick else 16
    teacher = tl.models.ResNet(depth=14 if quick else 56, width=width)
    plain = tl.Experiment(
        model=tl.models.ResNet(depth=8 if quick else 20, width=width),
        data=tl.data.Arrays(x=x, y=y, val=0, test=0),
        terms={"task": tl.losses.CrossEntropy()},
        optim=tl.optim.AdamW(lr=1e-4),
        batch=batch,
        steps=10**6,
        monitor=None,
    )
    large = tl.setup(dataclasses.replace(plain, model=teacher)).parts.model
    source = models.InMemory(Weights(large.base_params, large.stats))
    variants = {("plain", ""): plain}
    for name, (kind, fields) in TERMS.items():
        term = kind(teacher=source, teacher_model=teacher, **fields)
        for how, cache in CACHES.items():
            variants[name, how] = dataclasses.replace(
                plain, terms={**plain.terms, "term": term}, cache=cache
            )
    return variants


def main(argv=None) -> list[list[timing.Row]]:
    args = timing.options(__doc__, argv)
    variants = experiments(args.quick)
    if args.quick:
        names = ("plain", "KD")
        variants = {key: exp for key, exp in variants.items() if key[0] in names}
    runs = {key: tl.setup(exp) for key, exp in variants.items()}
    works = {" ".join(key): _work(run) for key, run in runs.items()}
    clock = timing.alternate(works, 2 if args.quick else 7).clock
    rows = []
    for name in dict.fromkeys(name for name, _ in variants):
        row: timing.Row = {"step": name}
        for how in CACHES:
            key = (name, how) if name != "plain" else (name, "")
            row[f"ms, {how}"] = 1e3 * statistics.median(clock[" ".join(key)]) / 2
            row[f"of a plain step's, {how}"] = timing.ratio(
                clock, " ".join(key), "plain "
            )
            row[f"FLOPs, {how}"] = (
                runs[key].compiled.flops / runs["plain", ""].compiled.flops
            )
        rows.append(row)
    timing.report("distillation", [rows], args.json)
    return [rows]


def _work(run: tl.Run):
    run.compile()

    def two():
        run.dispatch(2)
        jax.block_until_ready(run.state)

    return two


if __name__ == "__main__":
    main(sys.argv[1:])
