"""Cost of a frozen stage, which should be its forward pass and nothing else.

CIFAR ResNet-20 with its first k stages frozen, for every k: floating-point operations
and temporary memory of one step, as XLA counts them, and the optimizer's state. They
are compared with the forward pass of the whole network, and with freezing by zeroed
updates: that computes every gradient and keeps optimizer state for all parameters.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing

import jaxtl as tl
from jaxtl.core import compilation

BATCH = 32


def experiment(frozen: tuple[str, ...], depth: int, side: int) -> tl.Experiment:
    """The experiment with some stages frozen."""
    rng = np.random.default_rng(0)
    groups = {f"{stage}/.*": tl.FROZEN for stage in frozen} | {".*": 1.0}
    return tl.Experiment(
        model=tl.models.ResNet(depth=depth),
        data=tl.data.Arrays(
            x=rng.integers(0, 256, (100, side, side, 3)).astype(np.uint8),
            y=np.arange(100) % 10,
        ),
        optim=tl.optim.AdamW(groups=groups),
        batch=BATCH,
        steps=10**6,
    )


def forward(run: tl.Run):
    """Compiles the forward pass of one batch in evaluation mode."""
    x = jnp.zeros((BATCH, *run.parts.datasets["target"].example_shape))
    apply = jax.jit(lambda params, stats, x: run.network.apply(params, stats, x).logits)
    lowered = apply.lower(run.params, run.state.stats, x)
    return lowered.compile(compilation.default_options())


def zeroed(run: tl.Run):
    """Compiles a step that zeroes all updates but the head's; returns (step, state)."""
    network, params, stats = run.network, run.params, run.state.stats
    mask = {stage: stage != "head" for stage in params}
    tx = optax.chain(optax.adamw(1e-3), optax.masked(optax.set_to_zero(), mask))
    opt = tx.init(params)

    def step(params, stats, opt, x, y):
        def loss(params):
            out = network.apply(params, stats, x, train=("head",))
            return optax.softmax_cross_entropy_with_integer_labels(out.logits, y).mean()

        grads = jax.grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, optax.global_norm(grads)

    x = jnp.zeros((BATCH, *run.parts.datasets["target"].example_shape))
    y = jnp.zeros(BATCH, jnp.int32)
    lowered = jax.jit(step).lower(params, stats, opt, x, y)
    return lowered.compile(compilation.default_options()), opt


def costs(
    depth: int, side: int, counts: Sequence[int] | None = None
) -> tuple[list[timing.Row], dict[str, tl.Run]]:
    """The table of XLA's counts, and the runs by name.

    Args:
      depth: of the network.
      side: of the images, in pixels.
      counts: number of frozen stages in each row; None takes every number.
    """
    rows, runs = [], {}
    names = tl.models.ResNet(depth=depth, outputs=10).stages
    for k in range(len(names)) if counts is None else counts:
        run = tl.setup(experiment(names[:k], depth, side))
        compiled = run.compile()
        optimizer_bytes = tl.tree.nbytes(run.state.opt)
        name = ", ".join(names[:k]) or "nothing"
        rows.append(_row(name, compiled.flops, compiled.temp_bytes, optimizer_bytes))
        runs[name] = run
    built, opt = zeroed(run)
    rows.append(_counted("all but head, updates zeroed", built, tl.tree.nbytes(opt)))
    rows.append(_counted("(forward pass alone)", forward(run), 0))
    for row in rows:
        row["of the forward's"] = row["MFLOP"] / rows[-1]["MFLOP"]
    return rows, runs


def _counted(name: str, compiled, optimizer_bytes: int) -> timing.Row:
    flops = compiled.cost_analysis()["flops"]
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return _row(name, flops, temporary, optimizer_bytes)


def _row(
    name: str, flops: float, temporary: float, optimizer_bytes: float
) -> timing.Row:
    return {
        "frozen": name,
        "MFLOP": flops / 1e6,
        "temporary, MB": temporary / 1e6,
        "optimizer, kB": optimizer_bytes / 1e3,
    }


def time_steps(runs: dict[str, tl.Run], rounds: int) -> timing.Times:
    """Times one step of every run, in turn."""

    def work(run):
        def step():
            run.dispatch(1)
            jax.block_until_ready(run.state)

        return step

    return timing.alternate({name: work(run) for name, run in runs.items()}, rounds)


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    depth, side, rounds = (8, 16, 3) if options.quick else (20, 32, 15)
    rows, runs = costs(depth, side, (0, 2, 4) if options.quick else None)
    times = time_steps(runs, rounds)
    for row in rows:
        name = row["frozen"]
        row["ms/step"] = row["of nothing's"] = ""
        if name in times.clock:
            row["ms/step"] = 1e3 * float(np.median(times.clock[name]))
            row["of nothing's"] = timing.ratio(times.clock, name, "nothing")
    title = f"Freezing, stage by stage: ResNet-{depth}, {side}×{side}, batch {BATCH}"
    timing.report(title, [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
