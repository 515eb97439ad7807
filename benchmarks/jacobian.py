"""What does keeping the Jacobian cost, and how good is its estimate?

Steps with JacobianDifference are held against a plain step of the same job, and against
other ways to the same quantity: reversing the backward pass (the same estimate, as its
definition reads), and per-example Jacobians, by vmap or one after the other. Then the
projected estimate against the exact value at one point of training: the mean over many
draws, and the relative standard deviation of a single one.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import timing

import jaxtl as tl
from jaxtl.objective import Context, View
from jaxtl.pretrained.match import Weights
from jaxtl.regularizers import jacobian

DRAWS, BATCH = 200, 32
JacobianDifference = jacobian.JacobianDifference


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """Initial weights from memory."""

    weights: Weights

    def read(self) -> Weights:
        return self.weights


class Reversed(JacobianDifference):
    """The projected estimate by differentiating ‖g(θ) − g(θ₀)‖² itself."""

    def __call__(self, context):
        x = self._rows(context.batches[self.stream]["x"])
        params, source, f, f0, _ = self._sides(context)
        shape = jax.eval_shape(f, params, x).shape
        # The library's own draw, so that both take the very same step.
        [key] = jax.random.split(context.key, 1)
        signs = jax.random.rademacher(key, shape, jnp.float32)

        def slope(f, params):
            return jax.grad(lambda p: jnp.sum(signs * f(p, x)))(params)

        gap = tl.tree.sub(slope(f, params), slope(f0, source))
        return tl.tree.sum_squares(gap) / shape[0]


class PerExample(JacobianDifference):
    """The exact value by vmapped Jacobians of all examples at once."""

    def __call__(self, context):
        x = self._rows(context.batches[self.stream]["x"])
        params, source, f, f0, _ = self._sides(context)

        def one(row):
            found = jax.jacrev(lambda p: f(p, row[None])[0])(params)
            return tl.tree.sub(found, jax.jacrev(lambda p: f0(p, row[None])[0])(source))

        return tl.tree.sum_squares(jax.vmap(one)(x)) / x.shape[0]


def ways() -> dict[str, tl.Term | None]:
    """Returns name -> the term that is added to the task's loss (None adds none)."""
    return {
        "plain step": None,
        "projected": JacobianDifference(weight=0.1),
        "projected, a quarter of the batch": JacobianDifference(
            weight=0.1, fraction=0.25
        ),
        "projected, by inputs": JacobianDifference(weight=0.1, wrt="inputs"),
        "reverse over reverse": Reversed(weight=0.1),
        "exact, vmapped": PerExample(weight=0.1),
        "exact, one by one": JacobianDifference(weight=0.1, estimator="exact"),
    }


def experiment(quick: bool, term: tl.Term | None, init=None) -> tl.Experiment:
    """Returns the job: a small network, with or without a term beside the loss."""
    side = 8 if quick else 28
    rng = np.random.default_rng(0)
    terms = {"task": tl.losses.CrossEntropy()}
    return tl.Experiment(
        model=tl.models.MLP(widths=(16,)) if quick else tl.models.CNN(widths=(16, 32)),
        data=tl.data.Arrays(
            x=rng.integers(0, 256, (500, side, side, 1)).astype(np.uint8),
            y=np.arange(500) % 10,
        ),
        init=init,
        terms=terms if term is None else {**terms, "jacobian": term},
        batch=BATCH,
        steps=10**6,
    )


def source(quick: bool) -> Held:
    """Returns θ₀: the network as it was initialised."""
    run = tl.setup(experiment(quick, None))
    return Held(Weights(jax.device_get(run.params), jax.device_get(run.state.stats)))


def costs(quick: bool) -> list[timing.Row]:
    """Returns the table of what a step costs each way."""
    init, works, steps, runs = source(quick), {}, {}, {}
    for name, term in ways().items():
        run = tl.setup(experiment(quick, term, init))
        # A slow way takes one step for every few of the others, to be done in time.
        steps[name] = 1 if name.startswith("exact") else (2 if quick else 10)
        works[name], runs[name] = _work(run, steps[name]), run
    times = timing.alternate(works, 3 if quick else 15).clock
    per_step = {n: [t / steps[n] for t in values] for n, values in times.items()}
    targets = {"projected": 2.5, "projected, a quarter of the batch": 1.5}
    plain = runs["plain step"].compile()
    return [
        {
            "step": name,
            "ms": 1e3 * float(np.median(per_step[name])),
            "of a plain step's": timing.ratio(per_step, name, "plain step"),
            "quartiles": timing.spread(per_step, name, "plain step"),
            # XLA counts the body of a loop once.
            "FLOPs": "" if "one by" in name else run.compile().flops / plain.flops,
            "temporary, MB": run.compile().temp_bytes / 1e6,
            "target": f"≤ {targets[name]}" if name in targets else "",
        }
        for name, run in runs.items()
    ]


def _work(run: tl.Run, steps: int):
    def work():
        run.dispatch(steps)
        jax.block_until_ready(run.state)

    return work


def estimates(quick: bool) -> list[timing.Row]:
    """Returns the table of the estimate against the exact value, after some steps."""
    run = tl.setup(experiment(quick, JacobianDifference(weight=0.0), source(quick)))
    run.advance(20 if quick else 100)
    cases = (("params", 1), ("params", 4), ("inputs", 1))
    return [_estimate(run, *case) for case in cases]


def _estimate(run: tl.Run, wrt: str, probes: int) -> timing.Row:
    term = JacobianDifference(wrt=wrt, probes=probes)
    draw = jax.jit(lambda key: term(View(_context(run, key), "jacobian", 0)))
    keys = jax.random.split(jax.random.key(0), DRAWS)
    found = np.asarray([draw(key) for key in keys], np.float64)
    full = JacobianDifference(wrt=wrt, estimator="exact")
    exact = float(full(View(_context(run, keys[0]), "jacobian", 0)))
    error = found.std(ddof=1) / np.sqrt(DRAWS)
    return {
        "estimate": f"by {wrt}, {probes} draw{'s' if probes > 1 else ''} a step",
        "exact": exact,
        f"mean of {DRAWS}": float(found.mean()),
        "bias, standard errors": float((found.mean() - exact) / error),
        "target": "−3 … 3",
        "relative deviation of one": float(found.std(ddof=1) / exact),
    }


def _context(run: tl.Run, key) -> Context:
    """Returns the context of a step at the run's present parameters."""
    dataset = run.parts.datasets["target"]
    rows = dataset.rows["train"][:BATCH]
    x = jnp.asarray(dataset.x[rows], jnp.float32) / run.preprocess.scale
    batches: Mapping = {"target": {"x": x, "y": jnp.asarray(dataset.y[rows])}}
    program = run.parts.program
    return Context(
        network=run.network,
        params=run.params,
        stats=run.state.stats,
        source=run.source,
        mask=program.mask,
        batches=batches,
        train=program.train,
        still=program.still,
        key=key,
        step=jnp.int32(run.at),
        steps=jnp.int32(run.exp.steps),
        task=program.task,
        own={},
        states={},
    )


def main(argv=None) -> list[list[timing.Row]]:
    asked = timing.options(__doc__, argv)
    size = "MLP 8×8" if asked.quick else "CNN 28×28"
    title = f"Jacobian difference: {size}, batch {BATCH}"
    tables = [costs(asked.quick), estimates(asked.quick)]
    timing.report(title, tables, asked.json)
    return tables


if __name__ == "__main__":
    main()
