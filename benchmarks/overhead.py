"""Overhead of jaxtl's training loop over a loop written by hand for one job.

Both loops train the same network on the same resident data with AdamW, in batches of
random order. They keep the loss and the accuracy of every step and write their means to
a file every tenth step. jaxtl's is the one that `tl.train` runs between two
evaluations; that by hand is jitted, donates its state and closes over no large array.
"""

import collections
import functools
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing

import jaxtl as tl
from jaxtl.core import compilation
from jaxtl.training.loop import take_steps
from jaxtl.training.metrics_log import Log
from jaxtl.training.progress import Progress

LR, DECAY, LOG_EVERY, TARGET = 1e-3, 1e-4, 10, 1.05
Job = collections.namedtuple("Job", "name model data batch steps")


def jobs(quick: bool) -> list[Job]:
    """The jobs: small networks, where overhead would show, and larger ones."""
    rng = np.random.default_rng(0)
    small = Job(
        "CNN 8×8, batch 64",
        tl.models.CNN(widths=(8, 16), units=32),
        tl.data.Digits(),
        64,
        20 if quick else 200,
    )
    if quick:
        return [small]
    medium = tl.data.Arrays(
        x=rng.integers(0, 256, (2000, 28, 28, 1)).astype(np.uint8),
        y=rng.integers(0, 10, 2000),
    )
    large = tl.data.Arrays(
        x=rng.integers(0, 256, (500, 32, 32, 3)).astype(np.uint8),
        y=rng.integers(0, 10, 500),
    )
    return [
        Job(
            "MLP 8×8, batch 64", tl.models.MLP(widths=(64,)), tl.data.Digits(), 64, 500
        ),
        small,
        Job("CNN 28×28, batch 128", tl.models.CNN(), medium, 128, 10),
        Job("ResNet-20 32×32, batch 32", tl.models.ResNet(), large, 32, 10),
    ]


def experiment(job: Job) -> tl.Experiment:
    """The job as an experiment."""
    return tl.Experiment(
        model=job.model,
        data=job.data,
        batch=job.batch,
        steps=10**6,
        log_every=LOG_EVERY,
        optim=tl.optim.AdamW(lr=LR, weight_decay=DECAY),
    )


def by_hand(network, pre, batch: int):
    """(init, step) of the loop written by hand.

    `step(state, data, order, t)` takes the optimizer step of the batch
    order[t·batch : (t + 1)·batch] and returns the state and {"loss", "accuracy"}.
    """
    tx = optax.adamw(
        LR,
        weight_decay=DECAY,
        mask=functools.partial(jax.tree.map, lambda p: p.ndim > 1),
    )

    def init(params, stats):
        return params, stats, tx.init(params)

    options = compilation.default_options()  # so that both run equally fast code

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
    def step(state, data, order, t):
        params, stats, opt = state
        rows = jax.lax.dynamic_slice(order, (t * batch,), (batch,))
        x, y = data[0][rows].astype(jnp.float32) / pre.scale, data[1][rows]

        def loss(params):
            out = network.apply(params, stats, x, train=network.stages)
            hits = jnp.argmax(out.logits, -1) == y
            value = optax.softmax_cross_entropy_with_integer_labels(out.logits, y)
            return value.mean(), (out.stats, hits.mean())

        (value, (stats, hits)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = tx.update(grads, opt, params)
        params = optax.apply_updates(params, updates)
        return (params, stats, opt), {"loss": value, "accuracy": hits}

    return init, step


def hand_loop(run: tl.Run, batch: int, steps: int, path: pathlib.Path):
    """A function that takes `steps` steps of the loop written by hand."""
    dataset, model = run.parts.datasets["target"], run.parts.model
    rows = jnp.asarray(dataset.rows["train"])
    data = jax.device_put((dataset.x, dataset.y))
    init, step = by_hand(run.network, run.preprocess, batch)
    state = init(*tl.tree.copy((model.base_params, model.stats)))
    shuffle = jax.jit(lambda epoch: jax.random.permutation(jax.random.key(epoch), rows))
    per_epoch, count, order = len(rows) // batch, 0, None

    def loop():
        nonlocal state, count, order
        pending = []
        with open(path, "a") as file:
            for _ in range(steps):
                if count % per_epoch == 0:
                    order = shuffle(count // per_epoch)
                state, metrics = step(state, data, order, count % per_epoch)
                pending.append(metrics)
                count += 1
                if count % LOG_EVERY == 0:
                    rows = jax.device_get(pending)
                    means = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
                    file.write(json.dumps({"step": count, **means}) + "\n")
                    pending = []

    return loop


def jaxtl_loop(run: tl.Run, steps: int):
    """A function that takes `steps` steps of `tl.train`'s loop."""
    log, bar = Log(run).__enter__(), Progress(run, False)

    def loop():
        for _ in range(steps // LOG_EVERY):
            take_steps(run, LOG_EVERY, log, bar)
            log.write()

    return loop


def measure(job: Job, rounds: int, folder: pathlib.Path) -> timing.Row:
    """Measures one job's row of the table."""
    run = tl.setup(experiment(job), folder / "run", overwrite=True)
    works = {
        "jaxtl": jaxtl_loop(run, job.steps),
        "by hand": hand_loop(run, job.batch, job.steps, folder / "hand.jsonl"),
    }
    times = timing.alternate(works, rounds)
    ms = {k: 1e3 * float(np.median(v)) / job.steps for k, v in times.clock.items()}
    return {
        "job": job.name,
        "by hand, ms/step": ms["by hand"],
        "jaxtl, ms/step": ms["jaxtl"],
        "ratio": timing.ratio(times.clock, "jaxtl", "by hand"),
        "quartiles": timing.spread(times.clock, "jaxtl", "by hand"),
        "of CPU time": timing.ratio(times.cpu, "jaxtl", "by hand"),
        "target": f"≤ {TARGET}",
    }


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    rows = []
    for job in jobs(options.quick):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(job, 3 if options.quick else 21, pathlib.Path(folder)))
    timing.report("jaxtl's loop against one written by hand", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
