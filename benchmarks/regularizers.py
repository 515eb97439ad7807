"""Time that each way of staying near θ₀ adds to a training step.

ResNet-20 on batches of 32 images, AdamW; every row is the plain step with one more
term, projection or setting. Work of a term before training is not counted.

    python benchmarks/regularizers.py [--quick] [--json FILE]
"""

import dataclasses
import sys

import jax
import models
import numpy as np
import timing

import jaxtl as tl
from jaxtl.pretrained.match import Weights

R = tl.regularizers
TERMS: dict[str, tl.Term] = {
    "weight decay as a term": R.WeightDecay(weight=1e-3),
    "L1-SP": R.L1SP(weight=1e-3),
    "L2-SP": R.L2SP(weight=1e-3),
    "group lasso SP": R.GroupLassoSP(weight=1e-3),
    "cosine SP": R.CosineSP(weight=1e-3),
    "EWC": R.EWC(weight=1e-3),
    "MAS": R.MAS(weight=1e-3),
    "DELTA": R.DELTA(weight=1e-3, attention=False),
    "attention transfer": R.AttentionTransfer(weight=1e-3),
    "batch spectral shrinkage": R.SpectralShrinkage(weight=1e-3),
    "function distance": R.FunctionDistance(weight=1e-3),
    "LwF": R.LwF(weight=1e-3),
    "Co-Tuning": R.CoTuning(weight=1e-3),
    "R3F": R.R3F(weight=1e-3),
    "SMART": R.SMART(weight=1e-3),
    "Jacobian, params": R.JacobianDifference(weight=1e-3),
    "Jacobian, params, every 5": R.JacobianDifference(weight=1e-3, every=5),
    "Jacobian, params, quarter": R.JacobianDifference(weight=1e-3, fraction=0.25),
    "Jacobian, inputs": R.JacobianDifference(weight=1e-3, wrt="inputs"),
}
SETTINGS: dict[str, dict] = {
    "decay to source": {"decay_to_source": 1e-2},
    "L2 ball": {"project": (tl.optim.L2Ball(radius=10.0),)},
    "MARS": {"project": (tl.optim.MARS(radius=10.0),)},
    "selective decay": {"project": (tl.optim.SelectiveDecay(strength=1.0),)},
}


def experiments(quick: bool) -> dict[str, tl.Experiment]:
    """The plain experiment, and one for each row."""
    rng = np.random.default_rng(0)
    size, side = (4, 8) if quick else (32, 32)
    x = rng.normal(size=(size, side, side, 3)).astype(np.float32)
    model = tl.models.ResNet(depth=8 if quick else 20, width=4 if quick else 16)
    data = models.Batch(x=x, y=rng.integers(0, 10, size), task="classification")
    plain = tl.Experiment(
        model=dataclasses.replace(model, outputs=10),
        data=data,
        terms={"task": tl.losses.CrossEntropy()},
        optim=tl.optim.AdamW(lr=1e-4),
        batch=size,
        steps=10**6,
        monitor=None,
    )
    first = tl.setup(plain)
    weights = Weights(first.parts.model.base_params, first.parts.model.stats)
    plain = dataclasses.replace(plain, init=models.InMemory(weights))
    variants = {"plain": plain}
    for name, term in TERMS.items():
        terms = {**plain.terms, "term": term}
        variants[name] = dataclasses.replace(plain, terms=terms)
    for name, fields in SETTINGS.items():
        optim = dataclasses.replace(plain.optim, **fields)
        variants[name] = dataclasses.replace(plain, optim=optim)
    stochastic = dataclasses.replace(plain.model, stochnorm=0.5)
    variants["StochNorm"] = dataclasses.replace(plain, model=stochastic)
    averaged = dataclasses.replace(plain, average=tl.optim.EMA())
    variants["average of weights"] = averaged
    return variants


def main(argv=None) -> list[list[timing.Row]]:
    args = timing.options(__doc__, argv)
    variants = experiments(args.quick)
    if args.quick:
        names = ("plain", "L2-SP", "Jacobian, params", "MARS", "StochNorm")
        variants = {name: variants[name] for name in names}
    runs = {name: tl.setup(exp) for name, exp in variants.items()}
    # Five steps at a time, so that a term of every fifth step is included once.
    works = {name: _work(run) for name, run in runs.items()}
    clock = timing.alternate(works, 2 if args.quick else 7).clock
    plain = runs["plain"].compiled
    rows = [
        {
            "step": name,
            "ms": 1e3 * sorted(clock[name])[len(clock[name]) // 2] / 5,
            "of a plain step's": timing.ratio(clock, name, "plain"),
            "quartiles": timing.spread(clock, name, "plain"),
            "FLOPs": run.compiled.flops / plain.flops,
            "temporary, MB": run.compiled.temp_bytes / 1e6,
        }
        for name, run in runs.items()
    ]
    timing.report("regularizers", [rows], args.json)
    return [rows]


def _work(run: tl.Run):
    run.compile()

    def five():
        run.dispatch(5)
        jax.block_until_ready(run.state)

    return five


if __name__ == "__main__":
    main(sys.argv[1:])
