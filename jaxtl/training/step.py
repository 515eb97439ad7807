"""The train step: one pure function, written once for every method and mesh.

`Program` holds all that is compiled in; what an ablation varies (term weights,
learning rates, seed, number of steps) is traced in `state.hypers`, so runs that differ
in numbers alone share one compiled program.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtl.core import config, sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import Network, PyTree, Source
from jaxtl.data import device_stream
from jaxtl.data.augment import image
from jaxtl.data.preprocess import Preprocess, apply, normalize, restore
from jaxtl.models.precision import compute_in
from jaxtl.optim.optimizer import Optimizer, project, transform
from jaxtl.terms import context as terms_context
from jaxtl.terms.base import Term


@dataclasses.dataclass(frozen=True)
class State:
    """What a step changes. Donated to the step; a leading axis K makes it K runs.

    Attributes:
      trainable: {"model": parameters with None at frozen leaves, "peft": what a
        reparametrisation trains ({} without one), "terms": {name: the term's own
        parameters}}.
      stats: BatchNorm statistics of all stages.
      opt: the optimizer's state, of trainable leaves only.
      terms: {term name: the term's own state}.
      average: {"model", "peft", "stats"} averaged over steps, {} if nothing is.
      hypers: traced numbers: "terms", "optim", "peft", "average", "steps", "seed", and
        "first" and "span", the steps that the learning rate's schedule runs over.
      step: number of steps taken, int32.
    """

    trainable: PyTree
    stats: PyTree
    opt: PyTree
    terms: PyTree
    average: PyTree
    hypers: PyTree
    step: jax.Array


jax.tree_util.register_dataclass(State, [f.name for f in dataclasses.fields(State)], [])


@dataclasses.dataclass(frozen=True)
class Fixed:
    """What a step reads and never changes.

    Attributes:
      frozen: the frozen parameters, None at trainable leaves.
      source: θ₀.
      constants: of the reparametrisation.
      given: term name -> the arrays of its `Term.given`.
    """

    frozen: PyTree
    source: Source
    given: PyTree = dataclasses.field(default_factory=dict)
    constants: PyTree = dataclasses.field(default_factory=dict)


jax.tree_util.register_dataclass(Fixed, [f.name for f in dataclasses.fields(Fixed)], [])


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """All that is compiled in. Equal programs (by `key`) share compiled code.

    Attributes:
      network: the model.
      source_network: the model with the source's number of outputs, or None.
      bare: the model before a reparametrisation, None without one.
      terms, optimizer, peft, average: with their traced numbers set to 0; peft and
        average may be None.
      labels: tree of optimizer groups of the trainable leaves.
      mask: tree of bools over all parameters before the reparametrisation.
      moving: the same over those after it: what terms count as trainable.
      cut: the last of the stages whose output is cached, None for none.
      cut_source: whether that output is the source's as well.
      train, still: what is in training mode.
      batch: stream name -> batch size, for the streams that the terms read.
      host: the streams whose batches arrive from the host.
      preprocess: stream name -> its preprocessing.
      augment: augmentations in order.
      accumulate: micro-batches per step.
      dtype: of the forward and backward pass; parameters stay as they are.
      mesh: devices, with axes "data" and "param".
      task: what the labels are.
      statistics: the streams that update BatchNorm statistics, None for all.
    """

    network: Network
    source_network: Network | None
    bare: Network | None
    terms: Mapping[str, Term]
    optimizer: Optimizer
    peft: Any
    average: Any
    labels: PyTree
    mask: PyTree
    moving: PyTree
    cut: str | None
    cut_source: bool
    train: tuple[str, ...]
    still: tuple[str, ...]
    batch: Mapping[str, int]
    host: tuple[str, ...]
    preprocess: Mapping[str, Preprocess]
    augment: tuple
    accumulate: int
    dtype: str
    mesh: jax.sharding.Mesh
    task: str
    statistics: tuple[str, ...] | None = None

    def key(self) -> Any:
        """Returns a hashable identity: equal keys mean the same compiled step."""
        return tuple(
            config.key(getattr(self, f.name)) for f in dataclasses.fields(self)
        )


def step(
    program: Program, state: State, fixed: Fixed, data: Mapping[str, Any]
) -> tuple[State, dict[str, jax.Array]]:
    """Takes one optimizer step on Σ weight·term.

    Args:
      program: what is compiled in.
      state: what changes.
      fixed: frozen parameters and θ₀.
      data: stream name -> a device-resident stream, or a batch from the host.

    Returns:
      The new state, and metrics as float32 scalars ("loss", each term's unweighted
      value, what terms report, "grad_norm" of the trainable gradient).
    """
    hypers = state.hypers
    terms = config.with_hyperparameters(dict(program.terms), hypers["terms"])
    optimizer = config.with_hyperparameters(program.optimizer, hypers["optim"])
    peft = config.with_hyperparameters(program.peft, hypers["peft"])
    key = jax.random.fold_in(jax.random.key(hypers["seed"]), state.step)
    batches = _batches(program, state, data, jax.random.fold_in(key, 0))

    def loss(trainable, stats, term_states, batches, key):
        context = terms_context.Context(
            network=compute_in(program.network, program.dtype),
            params=merge_params(peft, trainable, fixed),
            stats=stats,
            source=fixed.source,
            mask=program.moving,
            batches=batches,
            cut=program.cut,
            cut_source=program.cut_source,
            bare=program.bare and compute_in(program.bare, program.dtype),
            plain=program.bare and program.mask,
            train=program.train,
            still=program.still,
            key=key,
            step=state.step,
            steps=hypers["steps"],
            task=program.task,
            own=trainable["terms"],
            states=dict(term_states),
            given=fixed.given,
            statistics=program.statistics,
            changed=functools.partial(_changed, program),
            source_network=program.source_network
            and compute_in(program.source_network, program.dtype),
        )
        total, metrics = terms_context.loss(terms, context)
        return total, (metrics, context.stats, context.states)

    grads, (metrics, stats, term_states) = _gradients(
        program, loss, state, batches, jax.random.fold_in(key, 1)
    )
    source = None
    if optimizer.decay_to_source is not None:
        model = trees.like(program.mask, fixed.source.params)
        model = trees.restrict(model, program.mask)
        rest = {n: trees.nothing(state.trainable[n]) for n in ("peft", "terms")}
        source = {"model": model, **rest}
    at = state.step - hypers["first"]
    tx = transform(optimizer, program.labels, source, at, hypers["span"])
    updates, opt = tx.update(grads, state.opt, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    trainable["model"] = project(
        optimizer,
        trainable["model"],
        state.trainable["model"],
        grads["model"],
        trees.like(program.mask, fixed.source.params),
    )
    average = state.average
    if program.average is not None:
        rule = config.with_hyperparameters(program.average, hypers["average"])
        now = averaged_tree(trainable, stats)
        average = rule.update(average, now, state.step, hypers["steps"])
    new = State(trainable, stats, opt, term_states, average, hypers, state.step + 1)
    metrics["grad_norm"] = jnp.sqrt(trees.sum_squares(grads))
    return sharding.constrain_state(new, program.mesh), metrics


def merge_params(peft, trainable: PyTree, fixed: Fixed) -> PyTree:
    """Returns all parameters as the network reads them."""
    base = trees.merge(trainable["model"], fixed.frozen)
    if peft is None:
        return base
    return peft.merge(base, trainable["peft"], fixed.constants)


def averaged_tree(trainable: PyTree, stats: PyTree) -> PyTree:
    """Returns the tree of what an average of weights is taken of."""
    return {"model": trainable["model"], "peft": trainable["peft"], "stats": stats}


def _batches(program, state, data, key):
    """Returns each stream's batch of this step: gathered, augmented, preprocessed."""
    batches = {}
    for index, (name, size) in enumerate(program.batch.items()):
        if name in program.host:
            raw = data[name]
        else:
            seed = stream_seed(state.hypers["seed"], index)
            raw = device_stream.batch_at_step(data[name], seed, state.step, size)
        raw = sharding.constrain_batch(raw, program.mesh)
        if "x" not in raw:  # its features are cached, and it is too large for a device
            batches[name] = raw
            continue
        plain = apply(program.preprocess[name], raw["x"])
        x = image.apply_augmentations(
            program.augment, jax.random.fold_in(key, index), plain
        )
        batches[name] = {**raw, "x": x, "unaugmented": plain}
    return batches


def _changed(program, stream, x, operations, key):
    """Returns inputs changed by operations on values in the scale of the data."""
    pre = program.preprocess[stream]
    x = image.apply_augmentations(operations, key, restore(pre, x))
    return normalize(pre, x)


def stream_seed(seed, index: int):
    """Returns a stream's own seed: streams of equal size must not move in step."""
    if isinstance(seed, int):
        return (seed + 7919 * index) % 2**32
    return seed + jnp.uint32(7919 * index)


def _gradients(program, loss, state, batches, key):
    """Returns (gradients, (metrics, stats, term states)), over micro-batches if asked.

    With accumulation, gradients and metrics are the means over the micro-batches, so
    a loss that is a mean over examples is unchanged; one that compares the examples of
    a batch (CORAL) sees the micro-batch.
    """
    grad = jax.grad(loss, has_aux=True)
    parts = program.accumulate
    if parts == 1:
        return grad(state.trainable, state.stats, state.terms, batches, key)
    micro = jax.tree.map(
        lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batches
    )

    def one(carry, item):
        stats, term_states = carry
        batch, index = item
        grads, (metrics, stats, term_states) = grad(
            state.trainable, stats, term_states, batch, jax.random.fold_in(key, index)
        )
        return (stats, term_states), (grads, metrics)

    # XLA's CPU backend runs convolutions slowly inside loops, so it gets none.
    unroll = program.mesh.devices.flat[0].platform == "cpu"
    (stats, term_states), sums = jax.lax.scan(
        one, (state.stats, state.terms), (micro, jnp.arange(parts)), unroll=unroll
    )
    grads, metrics = jax.tree.map(lambda x: x.mean(0), sums)
    return grads, (metrics, stats, term_states)


def initial_state(
    program: Program, params, stats, delta, own, term_states, hypers
) -> State:
    """Returns the state before the first step, optimizer state included.

    Args:
      program: what is compiled in.
      params: the whole parameter tree, loaded already, before a reparametrisation.
      stats: batch statistics.
      delta: what the reparametrisation trains, {} without one.
      own, term_states: {term name: its parameters} and {term name: its state}.
      hypers: numbers to be traced.
    """
    model, _ = trees.partition(params, program.mask)
    trainable = {"model": model, "peft": delta, "terms": own}
    average = averaged_tree(trainable, stats) if program.average is not None else {}
    state = State(
        # A copy: the step donates its state, and the caller keeps what it gave.
        trees.copy(trainable),
        trees.copy(stats),
        optimizer_state(program, trainable),
        trees.copy(term_states),
        trees.copy(average),
        hypers,
        jnp.int32(0),
    )
    return sharding.place(state, program.mesh)


def optimizer_state(program: Program, trainable: PyTree) -> PyTree:
    """Returns the optimizer's state before the first step on these leaves."""
    one = jnp.int32(1)
    return transform(program.optimizer, program.labels, None, one, one).init(trainable)
