"""What does each way of staying near θ₀ add to a training step?

ResNet-20 on batches of 32 images, AdamW; every row is the plain step with one term,
projection or setting more. What a term computes before training is not counted.

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
    "L2 ball": {"project": (R.L2Ball(radius=10.0),)},
    "MARS": {"project": (R.MARS(radius=10.0),)},
    "selective decay": {"project": (R.SelectiveDecay(strength=1.0),)},
}


def experiments(quick: bool) -> dict[str, tl.Experiment]:
    """Returns the plain experiment and one for each row."""
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
    plain = dataclasses.replace(plain, init=models.Held(weights))
    made = {"plain": plain}
    for name, term in TERMS.items():
        terms = {**plain.terms, "term": term}
        made[name] = dataclasses.replace(plain, terms=terms)
    for name, fields in SETTINGS.items():
        optim = dataclasses.replace(plain.optim, **fields)
        made[name] = dataclasses.replace(plain, optim=optim)
    stochastic = dataclasses.replace(plain.model, stochnorm=0.5)
    made["StochNorm"] = dataclasses.replace(plain, model=stochastic)
    averaged = dataclasses.replace(plain, average=tl.optim.EMA())
    made["average of weights"] = averaged
    return made


def main(argv=None) -> list[list[timing.Row]]:
    args = timing.options(__doc__, argv)
    found = experiments(args.quick)
    if args.quick:
        kept = ("plain", "L2-SP", "Jacobian, params", "MARS", "StochNorm")
        found = {name: found[name] for name in kept}
    runs = {name: tl.setup(exp) for name, exp in found.items()}
    # Five steps at a time, so that a term of every fifth step is there once.
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
