"""Cost of the Jacobian difference, and the quality of its estimate.

Steps with JacobianDifference are compared with a plain step of the same job, and with
other ways to the same quantity: reversing the backward pass (the same estimate, as its
definition reads), and per-example Jacobians, by vmap or one after the other. Then the
projected estimate against the exact value at one point of training: the mean over many
draws, and the relative standard deviation of a single one. Last, that deviation by how
draws are made and how many there are, computed from the differences of all rows of the
Jacobian and not by drawing: 2 Σ_{p≠q} E[M_pq²] ⟨J_p, J_q⟩² is the variance.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import timing
from in_memory import InMemory

import jaxtl as tl
from jaxtl.pretrained.match import Weights
from jaxtl.terms.context import Context, View
from jaxtl.terms.regularizers import JacobianDifference, dense_layers
from jaxtl.terms.regularizers.jacobian_estimates import signs
from jaxtl.terms.regularizers.jacobian_sides import both_sides

DRAWS, BATCH = 200, 32
HALF_BATCH = "plain step, half the batch"


class Reversed(JacobianDifference):
    """The projected estimate by differentiating ‖g(θ) − g(θ₀)‖² itself."""

    def __call__(self, context):
        x = context.batches[self.stream]["x"]
        sides = both_sides(context, context.params)
        f, params, f0, source = self.functions(context, sides)
        shape = jax.eval_shape(f, params, x).shape
        # Drawn as JacobianDifference does, so that both take the same step.
        [key] = jax.random.split(context.key, 1)
        v = jax.random.rademacher(key, shape, jnp.float32)

        def projected(f, params):
            return jax.grad(lambda p: jnp.sum(v * f(p, x)))(params)

        difference = tl.tree.sub(projected(f, params), projected(f0, source))
        return tl.tree.sum_squares(difference) / shape[0]


class PerExample(JacobianDifference):
    """The exact value by vmapped Jacobians of all examples at once."""

    def __call__(self, context):
        x = context.batches[self.stream]["x"]
        sides = both_sides(context, context.params)
        f, params, f0, source = self.functions(context, sides)

        def difference(row):
            jacobian = jax.jacrev(lambda p: f(p, row[None])[0])(params)
            initial = jax.jacrev(lambda p: f0(p, row[None])[0])(source)
            return tl.tree.sub(jacobian, initial)

        return tl.tree.sum_squares(jax.vmap(difference)(x)) / x.shape[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halved(tl.Term):
    """0; the task's pass is of two halves of the batch, as by `fraction=0.5`."""

    runs_first = True

    def __call__(self, context):
        count = BATCH // 2
        # Nothing moves, so nothing is derived.
        nothing = jax.tree.map(lambda _: False, context.params)
        direction = tl.tree.nothing(context.params)
        context.forward_tangent(
            "target", lambda out: out.logits, nothing, direction, count
        )
        return jnp.float32(0.0)


def stage_groups(quick: bool) -> int:
    """As many groups as the network has stages."""
    return len(experiment(quick, None).model.stages)


def ways(quick: bool) -> dict[str, tl.Term | None]:
    """name -> the term that is added to the task's loss (None adds none)."""
    fixed = {"weight": 0.1, "estimator": "forward", "directions": 4}
    groups = {"stage_groups": stage_groups(quick)}
    return {
        "plain step": None,
        "plain step, in two halves": Halved(),
        HALF_BATCH: None,
        "projected": JacobianDifference(weight=0.1),
        "projected, a quarter of the batch": JacobianDifference(
            weight=0.1, fraction=0.25
        ),
        "projected, every fifth step": JacobianDifference(weight=0.1, every=5),
        "projected, by inputs": JacobianDifference(weight=0.1, wrt="inputs"),
        "forward": JacobianDifference(weight=0.1, estimator="forward"),
        "forward, half of the batch": JacobianDifference(
            weight=0.1, estimator="forward", fraction=0.5
        ),
        "forward, one stage a step": JacobianDifference(
            weight=0.1, estimator="forward", **groups
        ),
        "forward, fixed directions": JacobianDifference(**fixed),
        "forward, fixed directions, half": JacobianDifference(**fixed, fraction=0.5),
        "forward, fixed directions, one stage a step": JacobianDifference(
            **fixed, **groups
        ),
        "forward, fixed directions, one stage a step, half": JacobianDifference(
            **fixed, **groups, fraction=0.5
        ),
        "forward, by inputs": JacobianDifference(
            weight=0.1, wrt="inputs", estimator="forward"
        ),
        "dense layers, exact": JacobianDifference(weight=0.1, estimator="dense"),
        "dense layers, projected": JacobianDifference(
            weight=0.1, estimator="dense_projected"
        ),
        "reverse over reverse": Reversed(weight=0.1),
        "exact, vmapped": PerExample(weight=0.1),
        "exact, one by one": JacobianDifference(weight=0.1, estimator="exact"),
    }


def experiment(
    quick: bool, term: tl.Term | None, init=None, batch: int = BATCH
) -> tl.Experiment:
    """The experiment: a small network, with or without a term besides the loss."""
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
        batch=batch,
        steps=10**6,
    )


def source(quick: bool) -> InMemory:
    """θ₀: the network as it is initialized."""
    run = tl.setup(experiment(quick, None))
    return InMemory(
        Weights(jax.device_get(run.params), jax.device_get(run.state.stats))
    )


def costs(quick: bool) -> list[timing.Row]:
    """The table of the cost of a step, each way."""
    init, works, steps, runs = source(quick), {}, {}, {}
    for name, term in ways(quick).items():
        batch = BATCH // 2 if name == HALF_BATCH else BATCH
        run = tl.setup(experiment(quick, term, init, batch))
        # A slow way takes one step, to save time; the others take each fifth step, and
        # each of the stages, equally often.
        steps[name] = 1 if name.startswith("exact") else (10 if quick else 20)
        works[name], runs[name] = _work(run, steps[name]), run
    times = timing.alternate(works, 3 if quick else 15).clock
    per_step = {n: [t / steps[n] for t in values] for n, values in times.items()}
    targets = {
        "projected": 2.5,
        "projected, a quarter of the batch": 1.5,
        "forward, fixed directions": 2.3,
        "forward, fixed directions, half": 1.5,
        "forward, fixed directions, one stage a step, half": 1.5,
    }
    plain = runs["plain step"].compile()
    return [
        {
            "step": name,
            "ms": 1e3 * float(np.median(per_step[name])),
            "of a plain step's": timing.ratio(per_step, name, "plain step"),
            "quartiles": timing.spread(per_step, name, "plain step"),
            # XLA counts a loop's body once, and both sides of a condition.
            "FLOPs": run.compile().flops / plain.flops if _counts(name) else "",
            "temporary, MB": run.compile().temp_bytes / 1e6,
            "target": f"≤ {targets[name]}" if name in targets else "",
        }
        for name, run in runs.items()
    ]


def _counts(name: str) -> bool:
    return not any(part in name for part in ("one by", "every", "layers, exact"))


def _work(run: tl.Run, steps: int):
    def work():
        run.dispatch(steps)
        jax.block_until_ready(run.state)

    return work


def estimates(quick: bool) -> list[timing.Row]:
    """The table of the estimate and the exact value, after some steps."""
    run = tl.setup(experiment(quick, JacobianDifference(weight=0.0), source(quick)))
    run.advance(20 if quick else 100)
    settings = [
        {"estimator": estimator, "wrt": wrt, "probes": probes}
        for estimator in ("projected", "forward")
        for wrt, probes in (("params", 1), ("params", 4), ("inputs", 1))
    ]
    settings.append({"estimator": "forward", "stage_groups": stage_groups(quick)})
    return [_estimate(run, **fields) for fields in settings]


def _estimate(run: tl.Run, **fields) -> timing.Row:
    term = JacobianDifference(**fields)

    @jax.jit
    def draw(key, step):
        return term(View(_context(run, key, step), "jacobian", 0))

    keys = jax.random.split(jax.random.key(0), DRAWS)
    values = np.asarray([draw(key, i) for i, key in enumerate(keys)], np.float64)
    full = JacobianDifference(wrt=term.wrt, estimator="exact")
    exact = float(full(View(_context(run, keys[0]), "jacobian", 0)))
    error = values.std(ddof=1) / np.sqrt(DRAWS)
    draws = f"{term.probes} draw{'s' if term.probes > 1 else ''} a step"
    part = ", in one stage" if term.stage_groups > 1 else ""
    return {
        "estimate": f"{term.estimator}, by {term.wrt}, {draws}{part}",
        "exact": exact,
        f"mean of {DRAWS}": float(values.mean()),
        "bias, standard errors": float((values.mean() - exact) / error),
        "target": "−3 … 3",
        "relative deviation of one": float(values.std(ddof=1) / exact),
        # Four steps take each of four stages once.
        "of four": float(values.reshape(-1, 4).mean(1).std(ddof=1) / exact),
    }


def deviations(quick: bool) -> list[timing.Row]:
    """The table of one step's relative deviation, by kind and number of draws."""
    run = tl.setup(experiment(quick, JacobianDifference(weight=0.0), source(quick)))
    run.advance(20 if quick else 100)
    layers = "|".join(dense_layers.paths(run.params))
    whole, inner, inputs = (
        _differences(run, JacobianDifference(**fields))
        for fields in ({}, {"select": layers}, {"wrt": "inputs"})
    )
    few = BATCH // 8
    cases = {
        f"by params, {BATCH} examples": _gram(whole),
        f"by params, {few} examples": _gram(whole[:few]),
        f"by dense layers, {BATCH} examples": _gram(inner),
        "the same, dense_projected": _gram(inner, within_examples=True),
        "by inputs": _gram(inputs, within_examples=True),
    }
    return [
        {
            "Jacobian": name,
            "draws": probes,
            "signs": _deviation(gram, probes, "signs"),
            "orthogonal": _deviation(gram, probes, "orthogonal"),
        }
        for name, gram in cases.items()
        for probes in (1, 4, 16)
    ]


def _differences(run: tl.Run, term: JacobianDifference) -> np.ndarray:
    """∂f(xᵢ; θ) − ∂f(xᵢ; θ₀), (examples, outputs, parameters or inputs)."""
    context = _context(run, jax.random.key(0))
    sides = both_sides(context, context.params)
    f, params, f0, start = term.functions(context, sides)

    def difference(row):
        if term.wrt == "inputs":
            ours = jax.jacrev(lambda x: f(params, x[None])[0])(row)
            theirs = jax.jacrev(lambda x: f0(start, x[None])[0])(row)
        else:
            ours = jax.jacrev(lambda p: f(p, row[None])[0])(params)
            theirs = jax.jacrev(lambda p: f0(p, row[None])[0])(start)
        leaves = jax.tree.leaves(tl.tree.sub(ours, theirs))
        return jnp.concatenate([x.reshape(len(x), -1) for x in leaves], 1)

    return np.asarray(
        jax.jit(lambda x: jax.lax.map(difference, x))(context.batches["target"]["x"])
    )


def _gram(rows: np.ndarray, within_examples: bool = False) -> np.ndarray:
    """⟨J_ic, J_jd⟩, (examples, outputs, examples, outputs), in float64.

    `within_examples` sets the products of different examples to 0, for estimates in
    which they never meet.
    """
    examples, outputs, _ = rows.shape
    flat = rows.reshape(examples * outputs, -1)
    gram = (flat @ flat.T).astype(np.float64).reshape((examples, outputs) * 2)
    return gram * np.eye(examples)[:, None, :, None] if within_examples else gram


def _deviation(gram: np.ndarray, probes: int, draws: str) -> float:
    """Standard deviation / mean of the estimate by that many draws."""
    shape, size = gram.shape[:2], gram.shape[0] * gram.shape[1]
    gram = gram.reshape(size, size)
    squares = np.full_like(gram, 1 / probes)
    if draws == "orthogonal":  # M_pq² does not depend on the signs
        v = signs(jax.random.key(0), probes, shape, jnp.float32, draws)
        v = np.asarray(v, np.float64).reshape(probes, size)
        squares = (v.T @ v / probes) ** 2
    variance = 2 * np.sum((1 - np.eye(size)) * squares * gram**2)
    return float(np.sqrt(variance) / np.trace(gram))


def _context(run: tl.Run, key, step=None) -> Context:
    """The context of a step at the run's current parameters.

    Args:
      run: with the parameters.
      key: of the step.
      step: its number, None for the run's next one.
    """
    dataset = run.parts.datasets["target"]
    rows = dataset.rows["train"][:BATCH]
    x = jnp.asarray(dataset.x[rows], jnp.float32) / run.preprocess.scale
    batches: Mapping = {"target": {"x": x, "y": jnp.asarray(dataset.y[rows])}}
    return Context(
        program=run.parts.program,
        params=run.params,
        stats=run.state.stats,
        source=run.source,
        batches=batches,
        key=key,
        step=jnp.int32(run.steps_done if step is None else step),
        steps=jnp.int32(run.exp.steps),
    )


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    size = "MLP 8×8" if options.quick else "CNN 28×28"
    title = f"Jacobian difference: {size}, batch {BATCH}"
    tables = [costs(options.quick), estimates(options.quick), deviations(options.quick)]
    timing.report(title, tables, options.json)
    return tables


if __name__ == "__main__":
    main()
