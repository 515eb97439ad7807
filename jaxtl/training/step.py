"""The train step: one pure function, written once for every method and mesh.

`Program` holds all that is compiled in; what an ablation varies (term weights,
learning rates, seed, number of steps) is traced in `state.hypers`, so runs that differ
in numbers alone share one compiled program.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtl.core import config, lazy_leaf, sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree, Source
from jaxtl.data import device_stream, preprocess
from jaxtl.data.augment import image
from jaxtl.optim import update as optim_update
from jaxtl.peft import quantized_base
from jaxtl.terms import context as objective
from jaxtl.terms.program import Program
from jaxtl.training.accumulation import (
    Carry,
    Loss,
    LossOutputs,
    accumulated_gradients,
)


@dataclasses.dataclass(frozen=True)
class State:
    """Everything that a step changes. Donated to it; a leading axis K makes it K runs.

    Attributes:
      trainable: {"model": parameters with None at frozen leaves, "peft": the parameters
        of a reparametrization ({} without one), "terms": {name: the term's own
        parameters}}.
      stats: BatchNorm statistics of all stages.
      opt: the optimizer's state, of trainable leaves only.
      terms: {term name: the term's own state}.
      average: {"model", "peft", "stats"} averaged over steps, {} without an average.
      hypers: traced numbers: "terms", "optim", "peft", "average", "steps", "seed", and
        "first" and "span", the steps that the learning rate's schedule runs over, and
        "term_starts", as in `terms.Context`.
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
    """Everything that a step reads and never changes.

    Attributes:
      frozen: the frozen parameters, None at trainable leaves; matrices of a quantized
        base are `LazyLeaf`s, here and in θ₀.
      source: θ₀.
      term_constants: term name -> the arrays of its `Term.constants`.
      peft_constants: the constant arrays of the reparametrization.
    """

    frozen: PyTree
    source: Source
    term_constants: PyTree = dataclasses.field(default_factory=dict)
    peft_constants: PyTree = dataclasses.field(default_factory=dict)


jax.tree_util.register_dataclass(Fixed, [f.name for f in dataclasses.fields(Fixed)], [])


def step(
    program: Program, state: State, fixed: Fixed, data: Mapping[str, Any]
) -> tuple[State, dict[str, jax.Array]]:
    """Takes one optimizer step on Σ weight·term.

    Args:
      program: the static description of the step.
      state: what changes.
      fixed: frozen parameters, θ₀ and other constants.
      data: stream name -> a device-resident stream, or a batch from the host.

    Returns:
      The new state, and metrics as float32 scalars ("loss", each term's unweighted
      value, what terms report, "grad_norm" of the trainable gradient).
    """
    hypers = state.hypers
    terms = config.with_hyperparameters(dict(program.terms), hypers["terms"])
    key = jax.random.fold_in(jax.random.key(hypers["seed"]), state.step)
    batches = _batches(program, state, data, jax.random.fold_in(key, 0))
    source = lazy_leaf.realized(fixed.source)

    def loss(
        trainable: PyTree,
        carry: Carry,
        batches: Mapping[str, Any],
        key: jax.Array,
        mean_counts: Mapping[str, jax.Array],
    ) -> tuple[jax.Array, LossOutputs]:
        def packed_weights(adapters: PyTree) -> PyTree:
            parts = {**trainable, "peft": adapters}
            packed = packed_params(program.peft, hypers["peft"], parts, fixed)
            return sharding.gather(packed, program.mesh, program.tensor_rules)

        packed = packed_weights(trainable["peft"])
        context = objective.Context(
            program=program.in_compute_dtype(),
            source=source,
            constants=fixed.term_constants,
            # Where no term reads a leaf of a quantized base, XLA leaves its value out.
            params=lazy_leaf.realized(packed),
            packed_params=packed,
            adapters=program.peft
            and objective.AdapterParams(
                params=trainable["peft"],
                weights=lambda a: lazy_leaf.realized(packed_weights(a)),
            ),
            stats=carry.stats,
            term_params=trainable["terms"],
            term_states=dict(carry.term_states),
            batches=batches,
            key=key,
            step=state.step,
            steps=hypers["steps"],
            term_starts=hypers["term_starts"],
            mean_counts=mean_counts,
        )
        total, metrics = objective.loss(terms, context)
        carry = Carry(context.stats, context.term_states)
        return total, LossOutputs(metrics, carry, context.counts)

    grads, metrics, (stats, term_states) = _gradients(
        program, loss, state, batches, jax.random.fold_in(key, 1)
    )
    trainable, opt = _update(program, state, grads, source.params)
    average = _average(program, state, trainable, stats)
    new = State(trainable, stats, opt, term_states, average, hypers, state.step + 1)
    metrics["grad_norm"] = jnp.sqrt(trees.sum_squares(grads))
    new = sharding.constrain_state(new, program.mesh, program.tensor_rules)
    return new, metrics


def _batches(
    program: Program, state: State, data: Mapping[str, Any], key: jax.Array
) -> dict[str, Any]:
    """Each stream's batch of this step: gathered, preprocessed, augmented."""
    batches = {}
    for index, (name, size) in enumerate(program.batch_sizes.items()):
        if name in program.host_streams:
            raw = data[name]
        else:
            seed = stream_seed(state.hypers["seed"], index)
            raw = device_stream.batch_at_step(data[name], seed, state.step, size)
        raw = sharding.constrain_batch(raw, program.mesh)
        if "x" not in raw:  # cached features of inputs that are too large for a device
            batches[name] = raw
            continue
        plain = preprocess.apply(program.preprocess[name], raw["x"])
        x = image.apply_augmentations(
            program.augment, jax.random.fold_in(key, index), plain
        )
        batches[name] = {**raw, "x": x, "unaugmented": plain}
    return batches


def _gradients(
    program: Program,
    loss: Loss,
    state: State,
    batches: Mapping[str, Any],
    key: jax.Array,
) -> tuple[PyTree, dict[str, jax.Array], Carry]:
    """(gradients, metrics, carry), over micro-batches where asked for.

    They are those of the whole batch, but of terms that compare the examples of a batch
    (`Term.compares`), which compare those of a micro-batch.
    """
    carry = Carry(state.stats, state.terms)
    if program.accumulate == 1:
        grads, outputs = jax.grad(loss, has_aux=True)(
            state.trainable, carry, batches, key, {}
        )
        return grads, outputs.metrics, outputs.carry
    return accumulated_gradients(
        loss,
        state.trainable,
        carry,
        batches,
        key,
        parts=program.accumulate,
        once=[
            name
            for name, term in program.terms.items()
            if term.moves_once and program.minimizes(name)
        ],
        # XLA's CPU backend runs convolutions slowly inside loops, so it gets none.
        unroll=program.mesh.devices.flat[0].platform == "cpu",
    )


def _update(
    program: Program, state: State, grads: PyTree, source_params: PyTree
) -> tuple[PyTree, PyTree]:
    """(trainable parameters, optimizer state) after one update and its projections."""
    hypers = state.hypers
    optimizer = config.with_hyperparameters(program.optimizer, hypers["optim"])
    anchor = trees.like(program.base_mask, source_params)
    source = None
    if optimizer.decay_to_source is not None:
        empty = {n: trees.nothing(state.trainable[n]) for n in ("peft", "terms")}
        source = {"model": trees.restrict(anchor, program.base_mask), **empty}
    transform = optim_update.transform(
        optimizer, program.labels, source, state.step - hypers["first"], hypers["span"]
    )
    # In half precision the optimizer's numbers, float32, would not fit the gradients.
    updates, opt = transform.update(trees.as_float32(grads), state.opt, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    trainable["model"] = optim_update.project(
        optimizer, trainable["model"], state.trainable["model"], grads["model"], anchor
    )
    return trainable, opt


def _average(
    program: Program, state: State, trainable: PyTree, stats: PyTree
) -> PyTree:
    """The average of the weights after this step, {} without one."""
    if program.average is None:
        return state.average
    rule = config.with_hyperparameters(program.average, state.hypers["average"])
    weights = averaged_tree(trainable, stats)
    return rule.update(state.average, weights, state.step, state.hypers["steps"])


def packed_params(peft: Any, hypers: PyTree, trainable: PyTree, fixed: Fixed) -> PyTree:
    """All parameters as the network reads them, quantized matrices as `LazyLeaf`s.

    Args:
      peft: the reparametrization, whose traced numbers don't matter, or None.
      hypers: these numbers.
      trainable: {"model", "peft"} of `State.trainable`.
      fixed: the frozen parameters and constants.
    """
    base = trees.merge(trainable["model"], fixed.frozen)
    if peft is None:
        return base
    if lazy_leaf.has_lazy(base):
        constants = fixed.peft_constants
        return quantized_base.packed(peft, hypers, base, trainable["peft"], constants)
    method = config.with_hyperparameters(peft, hypers)
    return method.merge(base, trainable["peft"], fixed.peft_constants)


def merge_params(peft: Any, hypers: PyTree, trainable: PyTree, fixed: Fixed) -> PyTree:
    """All parameters as arrays; arguments as for `packed_params`."""
    return lazy_leaf.realized(packed_params(peft, hypers, trainable, fixed))


def averaged_tree(trainable: PyTree, stats: PyTree) -> PyTree:
    """The tree that an average of weights is taken of."""
    return {"model": trainable["model"], "peft": trainable["peft"], "stats": stats}


def stream_seed(seed: Any, index: int) -> Any:
    """A stream's own seed: streams of equal size must not draw the same rows.

    Args:
      seed: the run's, a Python int or a traced uint32.
      index: position of the stream in `program.batch_sizes`.
    """
    if isinstance(seed, int):
        return (seed + 7919 * index) % 2**32
    return seed + jnp.uint32(7919 * index)


def initial_state(
    program: Program,
    params: PyTree,
    stats: PyTree,
    peft_params: PyTree,
    term_params: PyTree,
    term_states: PyTree,
    hypers: PyTree,
) -> State:
    """The state before the first step, optimizer state included.

    Args:
      program: the static description of the step.
      params: the whole parameter tree, loaded already, before a reparametrization.
      stats: BatchNorm statistics.
      peft_params: parameters of the reparametrization, {} without one.
      term_params, term_states: {term name: its parameters}, {term name: its state}.
      hypers: numbers to be traced.
    """
    model, _ = trees.partition(params, program.base_mask)
    trainable = {"model": model, "peft": peft_params, "terms": term_params}
    average = averaged_tree(trainable, stats) if program.average is not None else {}
    state = State(
        # A copy: the step donates its state, and the caller keeps these arrays.
        trees.copy(trainable),
        trees.copy(stats),
        optimizer_state(program, trainable),
        trees.copy(term_states),
        trees.copy(average),
        hypers,
        jnp.int32(0),
    )
    return sharding.place(state, program.mesh, program.tensor_rules)


def optimizer_state(program: Program, trainable: PyTree) -> PyTree:
    """The optimizer's state before the first step on these leaves.

    That of half-precision leaves is float32, as are the optimizer's numbers.
    """
    step = jnp.int32(1)
    transform = optim_update.transform(
        program.optimizer, program.labels, None, step, step
    )
    return transform.init(trees.as_float32(trainable))
