"""Time saved by running frozen stages once per data set instead of once per step.

One epoch of training a head on a frozen network, in four ways: jaxtl with and without
its cache of features, torch with the body under `no_grad`, and torch on features that
were computed by hand beforehand. Weights and data are the same. The pass that fills the
cache is timed by itself, and counted in "first epoch".

    python benchmarks/feature_cache.py [--quick] [--json FILE]
"""

import dataclasses
import sys
import time
from typing import Any

import jax
import models
import numpy as np
import timing
import torch
import torch_models
from torch import nn
from torch.nn import functional as F

import jaxtl as tl
from jaxtl.evaluation import feature_cache
from jaxtl.pretrained import convert

RATE = 1e-3
TARGET = 50  # times as many epochs per second as uncached jaxtl and torch
HEAD = {"head": 1.0, ".*": tl.FROZEN}


@dataclasses.dataclass
class Job:
    """A frozen network and the data whose head is trained.

    Attributes:
      pair: the network in jaxtl and in torch.
      x, y: all examples, as jaxtl takes them.
      batch: examples per step.
    """

    pair: torch_models.Pair
    x: Any
    y: np.ndarray
    batch: int

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return len(self.y) // self.batch


def jobs(quick: bool) -> list[Job]:
    """The networks with their data."""
    rng = np.random.default_rng(1)
    if quick:
        [bert] = torch_models.transformer(quick=True)
        x = torch_models.text(16, 16, 512)
        return [Job(bert(), x, rng.integers(0, 10, 16), 4)]
    resnet = torch_models.convolutional(quick=False)[0]
    bert = torch_models.transformer(quick=False)[1]
    images = torch_models.images(6_400, 32)
    texts = torch_models.text(1_280, 64, 30_522)
    return [
        Job(resnet(), images, rng.integers(0, 10, 6_400), 128),
        Job(bert(), texts, rng.integers(0, 10, 1_280), 32),
    ]


def setup(job: Job, cache: str) -> tl.Run:
    """Sets up jaxtl's run with the cache "off" or in "memory"."""
    weights = convert.to_weights(job.pair.tensors, job.pair.layout)
    return tl.setup(
        tl.Experiment(
            model=job.pair.ours,
            init=models.InMemory(weights),
            data=models.Batch(x=job.x, y=job.y, task="classification"),
            optim=tl.optim.AdamW(lr=RATE, groups=HEAD),
            batch=job.batch,
            steps=10**6,
            monitor=None,
            cache=cache,
        )
    )


class Torch:
    """The same job in torch: a frozen body, and a head that trains."""

    def __init__(self, job: Job):
        self.job, self.body = job, job.pair.theirs.eval()
        for name in ("linear", "classifier"):
            if hasattr(self.body, name):
                self.head = getattr(self.body, name)
                setattr(self.body, name, nn.Identity())
        self.x = job.pair.in_torch(job.x)
        self.y = torch.tensor(job.y)
        self.adam = torch.optim.AdamW(self.head.parameters(), RATE, fused=True)

    def features(self, rows):
        """Computes the frozen features of some rows."""
        with torch.no_grad():
            x = self.x
            part = (
                {k: v[rows] for k, v in x.items()} if isinstance(x, dict) else x[rows]
            )
            return self.job.pair.logits(self.body, part)

    def everything(self):
        """Computes the features of all rows, batch by batch."""
        size = self.job.batch
        rows = [range(i, i + size) for i in range(0, len(self.y), size)]
        return torch.cat([self.features(list(r)) for r in rows])

    def epoch(self, features):
        """Trains the head for one epoch on `features(rows)`."""
        order = torch.randperm(len(self.y))
        for step in range(self.job.steps):
            rows = order[step * self.job.batch : (step + 1) * self.job.batch]
            self.adam.zero_grad()
            F.cross_entropy(self.head(features(rows)), self.y[rows]).backward()
            self.adam.step()


def measure(job: Job, rounds: int) -> timing.Row:
    """Measures one network's row of the table."""
    plain, cached, theirs = setup(job, "off"), setup(job, "memory"), Torch(job)
    cached.compile()  # compiles the pass and the step
    feature_cache.clear()
    cached.cached = cached.compiled = None
    start = time.perf_counter()
    cached.compile()
    filling = time.perf_counter() - start
    stored = theirs.everything()
    epochs = 1 if job.steps < 10 else 5  # one cached epoch is too short to be timed
    works = {
        "cached": lambda: _advance(cached, epochs * job.steps),
        "by hand": lambda: [theirs.epoch(lambda r: stored[r]) for _ in range(epochs)],
        "plain": lambda: _advance(plain, job.steps),
        "no_grad": lambda: theirs.epoch(theirs.features),
    }
    clock = timing.alternate(works, rounds).clock
    for name in ("cached", "by hand"):
        clock[name] = [seconds / epochs for seconds in clock[name]]
    ours = sorted(clock["cached"])[rounds // 2]
    return {
        "network": job.pair.name.partition(", batch")[0],
        "examples": len(job.y),
        "batch": job.batch,
        "cached, ms a step": 1e3 * ours / job.steps,
        "epochs/s": 1 / ours,
        "× plain jaxtl": timing.ratio(clock, "plain", "cached"),
        "× torch no_grad": timing.ratio(clock, "no_grad", "cached"),
        "× torch on features by hand": timing.ratio(clock, "by hand", "cached"),
        "filling, s": filling,
        "first epoch × torch no_grad": timing.ratio(
            {"a": clock["no_grad"], "b": [filling + c for c in clock["cached"]]},
            "a",
            "b",
        ),
    }


def _advance(run: tl.Run, steps: int) -> None:
    run.dispatch(steps)
    jax.block_until_ready(run.state)


def main(argv=None) -> list[list[timing.Row]]:
    args = timing.options(__doc__, argv)
    rounds = 2 if args.quick else 3
    rows = [measure(job, rounds) for job in jobs(args.quick)]
    timing.report("feature_cache", [rows], args.json)
    print(f"\nTargets: {TARGET} × plain jaxtl and torch under no_grad, 1 × by hand.")
    return [rows]


if __name__ == "__main__":
    main(sys.argv[1:])
