"""Test-time adaptation: fits a trained model to target data without labels.

`adabn` replaces the BatchNorm statistics by those of the target; `tent` trains the
scales and biases of the norms on the very batches that it predicts.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.core import compilation, config, progress
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data import lazy_array, preprocess, streams
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import batch_norm
from jaxtl.evaluation.evaluate import example_weights
from jaxtl.evaluation.metrics import compute
from jaxtl.models import precision
from jaxtl.optim import optimizer as optimizers
from jaxtl.optim import update as optim_update
from jaxtl.optim.groups import NormOnly
from jaxtl.terms.domain.entropy import entropy
from jaxtl.training.run import Run

TENT_OPTIMIZER = optimizers.AdamW(lr=1e-3)  # the paper's for CIFAR-C


def adabn(
    run: Run,
    *,
    stream: str | None = None,
    batch: int | None = None,
    which: str = "best",
) -> Run:
    """Estimates BatchNorm statistics on a stream; returns a copy of the run with them.

    `tl.evaluate(tl.adabn(run), "test")`. The parameters are those of the run, which
    itself does not change. In an experiment file `domain.AdaBN` does the same.

    Args:
      run: from `tl.setup` or `tl.resume`; an experiment with init= and steps=0 is the
        source's model on the target's data.
      stream: stream whose train rows are used: "unlabelled", "source", …; None takes
        the target's, the unlabelled ones where none has a label.
      batch: maximum number of examples per forward pass; None takes that of an
        evaluation. Layers above the first see inputs that were normalized by their own
        batch, so a larger one is better; with all rows in one batch every layer is
        exact.
      which: weights to take, "best" or "current".

    Returns:
      A copy of the run.

    Raises:
      UserError: a model without BatchNorm, or a stream that has no rows.

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
    stats = batch_norm.refresh_statistics(
        run, params, stats, batch=batch, stream=stream, pooled=True
    )
    return _with_weights(run, params, stats)


def _with_weights(run: Run, params: PyTree, stats: PyTree) -> Run:
    """Copies a run; the copy is evaluated with these weights."""
    adapted = copy.copy(run)
    adapted.loaded, adapted.cached = (params, stats), None
    return adapted


@dataclasses.dataclass(frozen=True)
class TentResult:
    """Predictions made during adaptation, and the adapted model.

    Attributes:
      metrics: of the predictions of each batch at its turn.
      logits: (n, K), of those predictions, in the order of the split's rows.
      labels: (n,), the split's labels, which adaptation does not read.
      entropy: (batches,), mean entropy of each batch's predictions in nats, in the
        order of the batches.
      run: a run with the parameters after the last batch, to evaluate.
    """

    metrics: dict[str, float]
    logits: np.ndarray
    labels: np.ndarray
    entropy: np.ndarray
    run: Run


def tent(
    run: Run,
    split: str = "test",
    *,
    optimizer: optimizers.Optimizer = TENT_OPTIMIZER,
    batch: int = 64,
    steps: int = 1,
    episodic: bool = False,
    which: str = "best",
    seed: int | None = 0,
) -> TentResult:
    """Predicts a split in batches, and lowers the entropy of each batch's predictions.

    BatchNorm uses each batch's own statistics, and only the norms' scales and biases
    are trained. A batch is predicted by the pass whose gradient updates the model, so
    with steps=1 the first batch is predicted by the unadapted model. Stages with norms
    are in training mode as a whole, their dropout included.

    Offline, over many passes of target data, it is the experiment

      Experiment(init=FromRun("<source>"), data=<target, labels=0>,
                 terms={"entropy": tl.domain.EntropyMinimization()},
                 optim=AdamW(groups=tl.optim.NormOnly(head=False)))

    Args:
      run: the run whose weights, data and preprocessing are used; it does not change.
      split: split of the target, whose labels are used for the metrics alone.
      optimizer: rule, learning rate, clip and decay; its groups are replaced by the
        norms. A schedule runs over all updates of the split.
      batch: examples per update; statistics of small batches are noisy. The last batch
        may be smaller.
      steps: updates per batch.
      episodic: whether each batch starts from the run's weights again.
      which: weights to start from, "best" or "current".
      seed: of the random order of examples (data are often sorted by class); None keeps
        their order.

    Returns:
      The predictions and their metrics, beside those of the unadapted model.

    Raises:
      UserError: no norms, another task, an empty split, or a number below 1.

    References:
      Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021;
      there Adam with lr 1e-3 (batch 200) on CIFAR-C.
    """
    _check(run, split, batch, steps)
    dataset, (params, stats) = run.parts.datasets["target"], run.weights(which)
    rows = streams.split_rows(dataset, split)
    update, initial, fixed = _prepare(run, optimizer, params, stats)
    chunks = _chunks(len(rows), batch, seed)
    batches = [rows[chunk] for chunk in chunks]
    state, outputs, means = _adapt(update, initial, dataset, batches, steps, episodic)
    logits = _in_order(outputs, chunks)
    labels = (dataset.y if split == "train" else dataset.y_clean)[rows]
    return TentResult(
        metrics=compute(
            run.parts.program.task, logits, labels, example_weights(run, split)
        ),
        logits=logits,
        labels=labels,
        entropy=np.asarray(means),
        run=_with_weights(run, trees.merge(state.norms, fixed), stats),
    )


class _State(NamedTuple):
    """What an update changes: the norms' parameters, and the optimizer's state."""

    norms: PyTree
    optimizer: PyTree


def _adapt(
    update: Callable[..., Any],
    initial: _State,
    dataset: Dataset,
    batches: Sequence[np.ndarray],
    steps: int,
    episodic: bool,
) -> tuple[_State, list[np.ndarray], list[float]]:
    """Predicts and adapts batch by batch.

    Args:
      update: from `_prepare`.
      initial: the state to start from.
      dataset: whose inputs are read.
      batches: rows of each batch.
      steps: updates per batch.
      episodic: whether each batch starts from the initial state.

    Returns:
      The last state, each batch's logits, and their mean entropies.
    """
    state, outputs, entropies = initial, [], []
    for index, rows in enumerate(progress.track(batches, "adapting, in batches")):
        x = lazy_array.gather(dataset.x, rows)
        state = initial if episodic else state
        for step in range(index * steps, (index + 1) * steps):
            state, (logits, mean) = update(state, x, step, len(batches) * steps)
        outputs.append(np.asarray(logits, np.float32))
        entropies.append(float(mean))
    return state, outputs, entropies


def _check(run: Run, split: str, batch: int, steps: int) -> None:
    """Raises UserError where `tent` can't adapt this run."""
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


def _chunks(count: int, batch: int, seed: int | None) -> list[np.ndarray]:
    """Splits 0 … count − 1 into batches, in random order unless the seed is None."""
    order = np.arange(count)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    return [order[start : start + batch] for start in range(0, count, batch)]


def _in_order(
    outputs: Sequence[np.ndarray], chunks: Sequence[np.ndarray]
) -> np.ndarray:
    """Puts outputs of batches in the order of the indices in `chunks`, in float64."""
    result = np.zeros((sum(map(len, chunks)), outputs[0].shape[1]))
    for chunk, output in zip(chunks, outputs):
        result[chunk] = output
    return result


class _Program(NamedTuple):
    """What the compiled update is specialized to.

    Attributes:
      network: the model.
      dtype: that it computes in.
      optimizer: without its hyperparameters, which are traced.
      labels: group of each parameter of a norm, None at others.
      preprocess: of the inputs.
      train_stages: stages in training mode.
      frozen_stats: modules whose statistics do not change.
    """

    network: Network
    dtype: str
    optimizer: optimizers.Optimizer
    labels: PyTree
    preprocess: preprocess.Preprocess
    train_stages: tuple[str, ...]
    frozen_stats: tuple[str, ...]


def _prepare(
    run: Run, optimizer: optimizers.Optimizer, params: PyTree, stats: PyTree
) -> tuple[Callable[..., Any], _State, PyTree]:
    """Compiles the update of the norms' parameters.

    Returns:
      A function of (state, x, step, steps), the initial state, and the parameters that
      are not trained.
    """
    optimizer = dataclasses.replace(optimizer, groups=NormOnly(head=False))
    optimizer = optimizers.resolve(optimizer, run.network.stages, params)
    labels = optimizers.labels(optimizer, params)
    mask = optimizers.trainable(optimizer, labels)
    train_stages, frozen_stats = optimizers.modes(
        optimizer, run.network.stages, mask, stats
    )
    labels = trees.restrict(labels, mask)
    norms, fixed = trees.partition(params, mask)
    program = _Program(
        run.parts.program.network,
        run.parts.program.dtype,
        config.without_hyperparameters(optimizer),
        labels,
        run.preprocess,
        train_stages,
        frozen_stats,
    )
    compiled = compilation.cached_jit(_update, program)
    constants = (config.hyperparameters(optimizer), fixed, stats)

    def update(state: _State, x: PyTree, step: int, steps: int) -> tuple:
        return compiled(*constants, state, x, jnp.int32(step), jnp.int32(steps))

    step = jnp.int32(1)  # any one: the initial state does not depend on it
    rule = optim_update.transform(optimizer, labels, None, step, step)
    return update, _State(norms, rule.init(norms)), fixed


def _update(
    program: _Program,
    hyperparameters: PyTree,
    fixed: PyTree,
    stats: PyTree,
    state: _State,
    x: PyTree,
    step: jax.Array,
    steps: jax.Array,
) -> tuple[_State, tuple[jax.Array, jax.Array]]:
    """Takes one step that lowers the mean entropy of a batch's predictions.

    Returns:
      The new state, and (logits (batch, K), mean entropy ()) before the step.
    """
    network = precision.compute_in(program.network, program.dtype)
    x = preprocess.apply(program.preprocess, x)
    key = jax.random.fold_in(jax.random.key(0), step)

    def loss(norms: PyTree) -> tuple[jax.Array, jax.Array]:
        logits = network.apply(
            trees.merge(norms, fixed),
            stats,
            x,
            train=program.train_stages,
            frozen_stats=program.frozen_stats,
            key=key,
        ).logits
        return jnp.mean(entropy(logits)), logits

    gradient = jax.value_and_grad(loss, has_aux=True)
    (mean_entropy, logits), grads = gradient(state.norms)
    optimizer = config.with_hyperparameters(program.optimizer, hyperparameters)
    rule = optim_update.transform(optimizer, program.labels, None, step, steps)
    updates, opt_state = rule.update(grads, state.optimizer, state.norms)
    norms = optax.apply_updates(state.norms, updates)
    return _State(norms, opt_state), (logits, mean_entropy)
