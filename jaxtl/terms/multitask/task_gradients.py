"""Gradients of the tasks' losses, by the output of a stage or by shared parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.types import Output, PyTree
from jaxtl.data.task_outputs import tasks_of
from jaxtl.terms.base import feature_stage
from jaxtl.terms.context import View

Losses = Callable[[Output], jax.Array]  # a pass -> (T,) losses of the tasks

_KEY = 7  # of the heads' dropout, the same for all gradients of a step


def gram_matrix(jacobian: PyTree) -> jax.Array:
    """Inner products of the tasks' gradients, (T, T) float32 or wider.

    Args:
      jacobian: tree of (T, ...), the gradient of each task.
    """

    def products(leaf: jax.Array) -> jax.Array:
        rows = trees.as_float32(leaf.reshape(len(leaf), -1))
        return rows @ rows.T

    return jnp.sum(jnp.stack([products(x) for x in jax.tree.leaves(jacobian)]), 0)


def by_features(
    context: View, stream: str, losses: Losses, stage: str
) -> list[jax.Array]:
    """The tasks' gradients by the floating outputs of a stage: each (T, batch, ...).

    Args:
      context: of the step.
      stream: whose batch.
      losses: of a pass.
      stage: of the network, not its last.
    """
    values, run = _from_stage(context, stream, losses, stage)
    return _jacobian(run, values)


def by_parameters(context: View, stream: str, losses: Losses) -> PyTree:
    """The tasks' gradients by the shared parameters that are trained: (T, ...) each.

    Zeros (T, 1) where all of them are frozen.
    """
    program = context.program
    head = program.network.stages[-1]
    mask = {
        stage: jax.tree.map(lambda m, s=stage: m and s != head, part)
        for stage, part in program.trainable_mask.items()
    }
    params = jax.lax.stop_gradient(context.params)
    selected, rest = trees.partition(params, mask)
    if not jax.tree.leaves(selected):
        count = len(tasks_of(program.output_names))
        return jnp.zeros((count, 1), jnp.float32)
    x, start = context.entry(stream)
    key = jax.random.fold_in(context.key, _KEY)

    def run(selected: PyTree) -> jax.Array:
        merged = trees.merge(selected, rest)
        return losses(context.run(x, params=merged, key=key, start=start))

    return _jacobian(run, selected)


def weighted_value(
    context: View,
    stream: str,
    losses: Losses,
    weights: jax.Array,
    jacobian: list[jax.Array] | None,
) -> jax.Array:
    """Σ losses, whose gradient is Σ_k w_k·∂loss_k for the shared stages.

    The head has the gradient of Σ losses itself.

    Args:
      context, stream, losses: as for `by_features`.
      weights: w, (T,).
      jacobian: `by_features` of the last shared stage, None to compute what is needed.
    """
    stop_gradient, stages = jax.lax.stop_gradient, context.program.network.stages
    features = context.forward(stream).features[feature_stage(stages)]
    if jacobian is None:
        values, run = _from_stage(context, stream, losses, feature_stage(stages))
        [direction] = jax.vjp(run, values)[1](weights)
    else:
        direction = [
            jnp.tensordot(weights, trees.as_float32(j), 1).astype(j.dtype)
            for j in jacobian
        ]
    direction = stop_gradient(direction)
    pairs = zip(direction, _floats(features)[0])
    inner = sum(jnp.vdot(d, z).astype(weights.dtype) for d, z in pairs)
    key = jax.random.fold_in(context.key, _KEY)
    out = context.run(stop_gradient(features), key=key, start=stages[-1])
    return losses(out).sum() + inner - stop_gradient(inner)


def _from_stage(
    context: View, stream: str, losses: Losses, stage: str
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], jax.Array]]:
    """(Floating outputs of a stage, the function from them to the losses).

    No gradient of the step flows through either.
    """
    stop_gradient, stages = jax.lax.stop_gradient, context.program.network.stages
    following = stages[stages.index(stage) + 1]
    params = stop_gradient(context.params)
    key = jax.random.fold_in(context.key, _KEY)
    values, restored = _floats(stop_gradient(context.forward(stream).features[stage]))

    def run(values: list[jax.Array]) -> jax.Array:
        z = restored(values)
        return losses(context.run(z, params=params, key=key, start=following))

    return values, run


def _floats(features: PyTree) -> tuple[list[jax.Array], Callable[[Any], PyTree]]:
    """(Floating leaves, the function that puts others in their places)."""
    leaves, structure = jax.tree.flatten(features)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def restored(values: list[jax.Array]) -> PyTree:
        new = iter(values)
        merged = [next(new) if f else leaf for leaf, f in zip(leaves, is_float)]
        return jax.tree.unflatten(structure, merged)

    return [leaf for leaf, f in zip(leaves, is_float) if f], restored


def _jacobian(run: Callable[[PyTree], jax.Array], values: PyTree) -> PyTree:
    """Tree of (T, ...): the gradient of each of the losses."""
    losses, pull = jax.vjp(run, values)
    return jax.vmap(lambda c: pull(c)[0])(jnp.eye(len(losses), dtype=losses.dtype))
