"""FAMO: weights that let all losses fall at one rate, from the losses alone."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.multitask.balancer import Balance, Balancer, TaskValues

_LEAST = 1e-8
_FIRST_MOMENT, _SECOND_MOMENT = 0.9, 0.999  # of Adam


def famo_weights(scores: jax.Array, losses: jax.Array) -> jax.Array:
    """z_k / (c·ℓ_k), (T,), with z = softmax(scores) and c = Σ z_k / ℓ_k.

    With these the step is that of Σ z_k log ℓ_k / c.

    Args:
      scores: (T,).
      losses: ℓ, (T,), at least 0.

    Returns:
      Factors of the losses, which add up to 1.

    References:
      Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, algorithm 1.
    """
    ratios = jax.nn.softmax(scores) / (losses + _LEAST)
    return ratios / ratios.sum()


def famo_gradient(
    scores: jax.Array, previous: jax.Array, losses: jax.Array
) -> jax.Array:
    """(diag z − zzᵀ)·(log previous − log losses), (T,), by which the scores descend.

    Args:
      scores: (T,), z is their softmax.
      previous, losses: (T,) before and after a step.

    Returns:
      The gradient for the scores, which add up to 0.
    """
    fall = jnp.log(previous + _LEAST) - jnp.log(losses + _LEAST)
    z = jax.nn.softmax(scores)
    return z * (fall - z @ fall)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAMO(Balancer):
    """`famo_weights`, whose scores take a step of Adam on `famo_gradient`.

    The loss after a step is that of the next batch, which spares a pass; the authors'
    program passes the same batch again.

    Attributes:
      rate: learning rate of the scores, 0.025 in the authors' program.
      decay: weight decay of the scores, added to their gradient, 0.001 there.
    """

    compares: ClassVar[str] = "the losses of tasks"

    rate: float = traced(0.025)
    decay: float = traced(0.001)

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        checks.number(setup, "balancer.rate", self.rate, 0.0)
        checks.number(setup, "balancer.decay", self.decay, 0.0)

    def init_state(self, tasks: tuple[str, ...]) -> PyTree:
        names = ("scores", "mean", "square", "previous")
        zeros = {name: jnp.zeros(len(tasks), jnp.float32) for name in names}
        return {**zeros, "updates": jnp.float32(0)}

    def balance(self, values: TaskValues) -> Balance:
        state, losses = values.state, values.losses
        known = values.labelled & (state["previous"] > 0)
        previous = jnp.where(known, state["previous"], losses)
        gradient = famo_gradient(state["scores"], previous, losses)
        new = _adam(state, gradient, self.rate, self.decay)
        moves = values.step > 0
        new = {name: jnp.where(moves, new[name], state[name]) for name in new}
        weights = famo_weights(new["scores"], jnp.where(values.labelled, losses, 1.0))
        kept = jnp.where(values.labelled, losses, state["previous"])
        return Balance(weights, {**new, "previous": kept})


def _adam(
    state: PyTree,
    gradient: jax.Array,
    rate: jax.Array | float,
    decay: jax.Array | float,
) -> dict[str, jax.Array]:
    """Scores and moments after a step of Adam."""
    gradient = gradient + decay * state["scores"]
    updates = state["updates"] + 1
    mean = _FIRST_MOMENT * state["mean"] + (1 - _FIRST_MOMENT) * gradient
    square = _SECOND_MOMENT * state["square"] + (1 - _SECOND_MOMENT) * gradient**2
    first = mean / (1 - _FIRST_MOMENT**updates)
    second = square / (1 - _SECOND_MOMENT**updates)
    scores = state["scores"] - rate * first / (jnp.sqrt(second) + _LEAST)
    return {"scores": scores, "mean": mean, "square": square, "updates": updates}
