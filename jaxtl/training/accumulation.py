"""Gradients of a step whose batch passes in micro-batches, as of the whole batch.

A term that is a mean over examples is the mean over equally large micro-batches. One
that divides by a count of its own (predicted tokens, confident examples) divides by
`View.mean`, whose count must be that of the whole step: a first sweep over the
micro-batches, without gradients, adds the counts up. It costs what the counts depend
on: nothing for tokens, a forward pass for a mask of predictions.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.models.layers.batch_norm_stats import moving_mask
from jaxtl.terms.base import Term
from jaxtl.terms.program import Program


class Carry(NamedTuple):
    """What a micro-batch leaves to the next one.

    Attributes:
      stats: BatchNorm statistics.
      term_states: {term name: the term's own state}.
    """

    stats: PyTree
    term_states: dict[str, PyTree]


class LossOutputs(NamedTuple):
    """What a loss returns beside its value: metrics, the new carry, and the counts."""

    metrics: dict[str, jax.Array]
    carry: Carry
    counts: dict[str, jax.Array]


# (trainable, carry, batches, key, mean counts) -> (value, LossOutputs)
Loss = Callable[..., tuple[jax.Array, LossOutputs]]


def accumulated_gradients(
    loss: Loss,
    trainable: PyTree,
    carry: Carry,
    batches: Mapping[str, Any],
    key: jax.Array,
    *,
    parts: int,
    once: Collection[str] = (),
    unroll: bool = False,
) -> tuple[PyTree, dict[str, jax.Array], Carry]:
    """Gradients, metrics and carry after all micro-batches of a step.

    Gradients and metrics are means over the micro-batches.

    Args:
      loss: of one micro-batch.
      trainable: what it is differentiated by.
      carry: before the step.
      batches: stream name -> the whole batch, whose size `parts` divides.
      key: of the step; each micro-batch gets its own.
      parts: number of micro-batches.
      once: names of the terms whose state moves once per step (`Term.moves_once`).
      unroll: whether to write the micro-batches out instead of a loop.
    """
    micro = jax.tree.map(
        lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batches
    )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(parts))
    items = micro, keys
    kept = {name: carry.term_states[name] for name in once if name in carry.term_states}

    def before_each(carry: Carry) -> Carry:
        return carry._replace(term_states={**carry.term_states, **kept})

    means = _mean_counts(loss, trainable, carry, items, before_each, unroll)
    gradient = jax.grad(loss, has_aux=True)

    def body(sums: tuple, item: tuple) -> tuple[tuple, dict[str, jax.Array]]:
        carry, total, changes = sums
        gradients, outputs = gradient(trainable, carry, *item, means)
        states = outputs.carry.term_states
        changes = {n: _add_changes(c, kept[n], states[n]) for n, c in changes.items()}
        total = jax.tree.map(jnp.add, total, gradients)
        return (before_each(outputs.carry), total, changes), outputs.metrics

    zeros = jax.tree.map(jnp.zeros_like, trainable)
    no_changes = {name: _no_changes(state) for name, state in kept.items()}
    start = (carry, zeros, no_changes)
    (last, total, changes), metrics = jax.lax.scan(body, start, items, unroll=unroll)
    states = {n: _after_changes(changes[n], state) for n, state in kept.items()}
    last = last._replace(term_states={**last.term_states, **states})
    gradients = jax.tree.map(lambda x: x / parts, total)
    return gradients, jax.tree.map(lambda x: x.mean(0), metrics), last


def _mean_counts(
    loss: Loss,
    trainable: PyTree,
    carry: Carry,
    items: tuple,
    before_each: Callable[[Carry], Carry],
    unroll: bool,
) -> dict[str, jax.Array]:
    """Each count of a micro-batch, the mean over all of the step; {} without any."""
    first = jax.tree.map(lambda x: x[0], items)
    if not jax.eval_shape(loss, trainable, carry, *first, {})[1].counts:
        return {}

    def body(carry: Carry, item: tuple) -> tuple[Carry, dict[str, jax.Array]]:
        outputs = loss(trainable, carry, *item, {})[1]
        return before_each(outputs.carry), outputs.counts

    trainable = jax.lax.stop_gradient(trainable)
    # Else XLA would share the forward passes and keep those of all micro-batches.
    items = jax.lax.optimization_barrier(items)
    _, counts = jax.lax.scan(body, carry, items, unroll=unroll)
    return jax.tree.map(lambda x: x.mean(0), counts)


def describe_comparisons(
    program: Program, terms: Mapping[str, Term], stats: PyTree
) -> str:
    """What sees a micro-batch in place of the step's batch; "" for nothing.

    Args:
      program: of the run's first phase.
      terms: of the run.
      stats: BatchNorm statistics.
    """
    if program.accumulate == 1:
        return ""
    moving = moving_mask(stats, program.train_stages, program.frozen_stats)
    names = ["BatchNorm (mean and variance)"] * any(jax.tree.leaves(moving))
    names += [f"{n} ({term.compares})" for n, term in terms.items() if term.compares]
    if not names:
        return ""
    sizes = "/".join(
        str(size // program.accumulate)
        for size in dict.fromkeys(program.batch_sizes.values())
    )
    return (
        f"compared within micro-batches of {sizes} examples, not within the batch: "
        f"{', '.join(names)}"
    )


class _Changes(NamedTuple):
    """Sums of the entries of a state that micro-batches changed, and how many did."""

    total: PyTree
    times: PyTree


def _no_changes(state: PyTree) -> _Changes:
    times = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int16), state)
    return _Changes(jax.tree.map(jnp.zeros_like, state), times)


def _add_changes(changes: _Changes, before: PyTree, after: PyTree) -> _Changes:
    """Adds the changes of one more micro-batch, which saw the state `before`."""

    def add(total: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
        # Integers, such as classes, have no mean: the last change stays.
        new = total + after if jnp.issubdtype(after.dtype, jnp.inexact) else after
        return jnp.where(after != before, new, total)

    total = jax.tree.map(add, changes.total, before, after)
    times = jax.tree.map(
        lambda t, a, b: t + (a != b).astype(t.dtype), changes.times, before, after
    )
    return _Changes(total, times)


def _after_changes(changes: _Changes, before: PyTree) -> PyTree:
    """The state after the step: each entry the mean of what it was changed to."""

    def mean(total: jax.Array, times: jax.Array, before: jax.Array) -> jax.Array:
        if jnp.issubdtype(before.dtype, jnp.inexact):
            total = total / jnp.maximum(times, 1).astype(total.dtype)
        return jnp.where(times > 0, total, before)

    return jax.tree.map(mean, changes.total, changes.times, before)
