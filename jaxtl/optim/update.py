"""One step of an optimizer: optax transformations of groups, projections, phases."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.optim import schedules
from jaxtl.optim.optimizer import IDLE, SINCE, Optimizer, group


def transform(
    optimizer: Optimizer,
    label_tree: PyTree,
    source: PyTree,
    step: jax.Array,
    steps: jax.Array,
) -> optax.GradientTransformation:
    """The optax transformation of one step.

    Args:
      optimizer: numbers may be traced.
      label_tree: group label of each trainable leaf, None at frozen ones.
      source: θ₀ in the same structure, None where there is none (may be None).
      step, steps: this step and the number of steps; no count of the schedule is kept
        in the optimizer's state.

    Returns:
      The transformation of gradients to updates, which are added to the parameters; a
      clip is of the norm over all trainable leaves.
    """
    lr = schedules.value(optimizer.lr, step, steps)

    def chain(label: str):
        if label == IDLE:
            return optax.set_to_zero()
        settings = group(optimizer, label)
        decay = settings.weight_decay
        decay = optimizer.weight_decay if decay is None else decay
        parts = [
            optimizer.direction(),
            _add(lambda p, s: decay * p if p.ndim >= 2 else None),
        ]
        if optimizer.decays_gradient:
            parts.reverse()
        return optax.chain(*parts, optax.scale(-lr * settings.lr))

    used = sorted(set(jax.tree.leaves(label_tree)))
    parts = [optax.partition({label: chain(label) for label in used}, label_tree)]
    if optimizer.decay_to_source is not None:
        # Part of the chain without a source as well: `init` is called with none.
        source = trees.nothing(label_tree) if source is None else source
        parts.append(
            _pull(optimizer.decay_to_source, lr, label_tree, source, optimizer)
        )
    if optimizer.clip is not None:
        parts.insert(0, optax.clip_by_global_norm(optimizer.clip))
    return optax.chain(*parts)


def carry(old: PyTree, new: PyTree) -> PyTree:
    """A fresh optimizer state with the numbers of the leaves that went on.

    Args:
      old: the state of the phase before.
      new: that of the next, as initialized. Groups hold leaves that began together, so
        a group's own numbers (Adam's count) are those of any old group of that start.

    Returns:
      The structure of `new`; leaves that are new, or of another shape, as in `new`.
    """
    old_leaves = {_ungrouped(path): leaf for path, leaf in trees.flatten(old).items()}

    def one(path: str, leaf: Any):
        old_leaf = old_leaves.get(_ungrouped(path))
        fits = old_leaf is not None and old_leaf.shape == leaf.shape
        return old_leaf if fits else leaf

    return trees.map_with_path(one, new)


def _ungrouped(path: str) -> str:
    """A path in the optimizer's state, its group replaced by when it began."""
    before, _, suffix = path.partition("inner_states/")
    label, inner, suffix = suffix.partition("/inner_state")
    return f"{before}{label.partition(SINCE)[2]}{inner}{suffix}" if inner else path


def project(
    optimizer: Optimizer, params: PyTree, before: PyTree, grads: PyTree, source: PyTree
) -> PyTree:
    """The model's parameters after every projection in turn.

    Args:
      optimizer: numbers may be traced.
      params: trainable leaves after the update, None at frozen ones.
      before, grads: the same before the update, and the gradient there.
      source: θ₀, None where there is none.

    Returns:
      The projected leaves, in the structure of `params`.
    """
    for projection in optimizer.project:
        params = projection(params, before, grads, source)
    return params


def _add(amount: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """A stateless transformation that adds `amount(param, None)` where it has one."""

    def update(updates: PyTree, params: PyTree):
        def one(u: Any, p: Any):
            extra = amount(p, None)
            return u if extra is None else u + extra

        return jax.tree.map(one, updates, params)

    return optax.stateless(update)


def _pull(strength: Any, lr: Any, label_tree: PyTree, source: PyTree, optimizer: Any):
    """Adds −lr·factor·strength·(θ − θ₀) on leaves that have a source."""

    def update(updates: PyTree, params: PyTree):
        def one(label: str, u: Any, p: Any, s: Any):
            if u is None or s is None:
                return u
            return u - lr * group(optimizer, label).lr * strength * (p - s)

        return jax.tree.map(
            one, label_tree, updates, params, source, is_leaf=lambda x: x is None
        )

    return optax.stateless(update)
