"""Adaptation of a trained model to target data, without training it as before.

`adabn` takes the target's BatchNorm statistics; `tent` goes on learning the norms'
scales and biases on the very batches that it predicts.
"""

import copy
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.core import compilation, config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import lazy_array, preprocess, streams
from jaxtl.evaluation import batch_norm
from jaxtl.evaluation.metrics import compute
from jaxtl.models import precision
from jaxtl.optim import optimizer as optim_optimizer
from jaxtl.optim.groups import NormOnly
from jaxtl.terms.domain.entropy import entropy

PAPER = optim_optimizer.AdamW(lr=1e-3)


def adabn(
    run, *, stream: str | None = None, batch: int | None = None, which: str = "best"
):
    """Returns the run with BatchNorm statistics estimated anew, as a run to evaluate.

    `tl.evaluate(tl.adabn(run), "test")`. The parameters are the run's; `run` itself
    stays as it is. In an experiment file `domain.AdaBN` does the same.

    Args:
      run: from `tl.setup` or `tl.resume`; an experiment with init= and steps=0 is the
        source's model on the target's data.
      stream: whose train rows: "unlabelled", "source", …; None takes the target's,
        the unlabelled ones where none has a label.
      batch: examples per forward pass at most, None as many as an evaluation. Layers
        above the first see inputs that their own batch normalised, so the larger the
        better; with all rows in one batch every layer is exact.
      which: weights to take, "best" or "current".

    Raises:
      UserError: for a model without BatchNorm, and a stream that has no rows.

    References:
      Li et al., Adaptive Batch Normalization for Practical Domain Adaptation, Pattern
      Recognition 80 (2018), Algorithm 1.
    """
    params, stats = run.weights(which)
    if not jax.tree.leaves(stats):
        raise UserError(
            "adabn: this model has no BatchNorm, so there are no statistics to adapt "
            "(tl.models.CNN has some with norm=True, and ResNet does)."
        )
    settings = {"batch": batch, "stream": stream, "pooled": True}
    found = batch_norm.refresh_statistics(run, params, stats, **settings)
    return _standing(run, params, found)


def _standing(run, params: PyTree, stats: PyTree):
    """Returns a copy of the run for which these weights stand in."""
    other = copy.copy(run)
    other.loaded, other.cached = (params, stats), None
    return other


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What adaptation during a test gave.

    Attributes:
      metrics: of the predictions, each made as its batch came.
      logits: those predictions' logits, in the order of the split's rows.
      labels: the split's labels, which adaptation did not see.
      entropy: mean of each batch's predictions, in nats, in the order of batches.
      run: with the parameters after the last batch, to evaluate.
    """

    metrics: dict[str, float]
    logits: np.ndarray
    labels: np.ndarray
    entropy: np.ndarray
    run: Any


def tent(
    run,
    split: str = "test",
    *,
    optimizer: optim_optimizer.Optimizer = PAPER,
    batch: int = 64,
    steps: int = 1,
    episodic: bool = False,
    which: str = "best",
    seed: int | None = 0,
) -> Adapted:
    """Predicts a split batch by batch, after each lowering its predictions' entropy.

    BatchNorm uses each batch's own statistics, and only the norms' scales and biases
    learn. A batch's predictions are those of the pass whose gradient updates the model,
    so with steps=1 the first batch is predicted before anything has learned. Stages
    with such norms are in training mode as a whole, their dropout included.

    Offline, over many passes of target data, it is the experiment

      Experiment(init=Run("<source>"), data=<target, labels=0>,
                 terms={"entropy": tl.domain.EntropyMinimization()},
                 optim=AdamW(groups=tl.optim.NormOnly(head=False)))

    Args:
      run: whose weights, data and preprocessing are taken; it stays as it is.
      split: of the target, whose labels serve the metrics alone.
      optimizer: its rule, lr, clip and decay; its groups are replaced by the norms'. A
        schedule runs over the split's batches.
      batch: examples per update; batch statistics of a few are poor. The last batch
        holds what is left over.
      steps: updates per batch.
      episodic: begin each batch from the run's own weights again.
      which: weights to begin from, "best" or "current".
      seed: of the batches' order, as sets are often sorted by class; None keeps it.

    Raises:
      UserError: for a model without norms, another task, an empty split, or numbers
        below 1.

    References:
      Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021;
      there Adam with lr 1e-3 (batch 200) on CIFAR-C.
    """
    _check(run, split, batch, steps)
    dataset, start = run.parts.datasets["target"], run.weights(which)
    rows = streams.split_rows(dataset, split)
    groups = NormOnly(head=False)
    optimizer = dataclasses.replace(optimizer, groups=groups)
    optimizer = optim_optimizer.resolve(optimizer, run.network.stages, start[0])
    order = np.arange(len(rows))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    chunks = [order[at : at + batch] for at in range(0, len(order), batch)]
    update, fresh = _prepared(run, optimizer, *start)
    state, total, logits, means = fresh(), jnp.int32(len(chunks) * steps), None, []
    for number, chunk in enumerate(chunks):
        x = lazy_array.gather(dataset.x, rows[chunk])
        state = fresh() if episodic else state
        for turn in range(steps):
            at = jnp.int32(number * steps + turn)
            state, (found, mean) = update(state, x, at, total)
        found = np.asarray(found, np.float32)
        logits = np.zeros((len(rows), found.shape[1])) if logits is None else logits
        logits[chunk] = found
        means.append(float(mean))
    labels = (dataset.y if split == "train" else dataset.y_clean)[rows]
    params = trees.merge(
        state[0], trees.partition(start[0], _mask(optimizer, start))[1]
    )
    found = compute(run.parts.program.task, logits, labels)
    adapted = _standing(run, params, start[1])
    return Adapted(found, logits, labels, np.asarray(means), adapted)


def _check(run, split: str, batch: int, steps: int) -> None:
    task, dataset = run.parts.program.task, run.parts.datasets["target"]
    if task != "classification":
        raise UserError(
            f"tent lowers the entropy of predicted classes, and the task of this "
            f"experiment is {task!r}."
        )
    for name, value in (("batch", batch), ("steps", steps)):
        if value < 1:
            raise UserError(f"tent: {name}={value!r}: expected at least 1.")
    if not len(streams.split_rows(dataset, split)):
        raise UserError(f"tent: the split {split!r} of {dataset.name} is empty.")


def _mask(optimizer: optim_optimizer.Optimizer, weights) -> PyTree:
    return optim_optimizer.trainable(
        optimizer, optim_optimizer.labels(optimizer, weights[0])
    )


def _prepared(run, optimizer: optim_optimizer.Optimizer, params: PyTree, stats: PyTree):
    """Returns (compiled update, a function that gives the state to begin from)."""
    mask = _mask(optimizer, (params, stats))
    labels = optim_optimizer.labels(optimizer, params)
    train, still = optim_optimizer.modes(optimizer, run.network.stages, mask, stats)
    labels = trees.restrict(labels, mask)
    moving, fixed = trees.partition(params, mask)
    program, pre = run.parts.program, run.preprocess
    static = (program.network, program.dtype, config.without_hyperparameters(optimizer))
    update = compilation.cached_jit(_update, *static, labels, pre, train, still)
    given = (config.hyperparameters(optimizer), fixed, stats)
    one = jnp.int32(1)
    opt = optim_optimizer.transform(optimizer, labels, None, one, one).init(moving)
    return functools.partial(update, *given), lambda: (moving, opt)


def _update(
    network,
    dtype,
    shell,
    labels,
    pre,
    train,
    still,
    numbers,
    fixed,
    stats,
    state,
    x,
    at,
    total,
):
    """Returns (state after one step, (logits before it, their mean entropy))."""
    network = precision.compute_in(network, dtype)
    x, (moving, opt) = preprocess.apply(pre, x), state
    key = jax.random.fold_in(jax.random.key(0), at)

    def loss(moving):
        params = trees.merge(moving, fixed)
        settings = {"train": train, "frozen_stats": still, "key": key}
        logits = network.apply(params, stats, x, **settings).logits
        return jnp.mean(entropy(logits)), logits

    (mean, logits), grads = jax.value_and_grad(loss, has_aux=True)(moving)
    optimizer = config.with_hyperparameters(shell, numbers)
    tx = optim_optimizer.transform(optimizer, labels, None, at, total)
    updates, opt = tx.update(grads, opt, moving)
    return (optax.apply_updates(moving, updates), opt), (logits, mean)
