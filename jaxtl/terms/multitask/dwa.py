"""Dynamic weight average: tasks whose loss falls slowly weigh more."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.multitask.balancer import Balance, Balancer, TaskValues


def dwa_weights(
    last: jax.Array, before: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """T·softmax(r_k / temperature), (T,), with the rate r_k = last_k / before_k.

    Args:
      last, before: (T,) mean losses of the last stretch of training and of that before.
      temperature: above 0; a large one gives equal weights.

    Returns:
      Factors of the losses, which add up to T.

    References:
      Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019,
      eq. 7.
    """
    rates = last / jnp.where(before > 0, before, 1)
    return len(last) * jax.nn.softmax(rates / temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DWA(Balancer):
    """`dwa_weights` of mean losses over stretches of steps; 1 in the first two.

    Attributes:
      temperature: above 0, 2 in the paper.
      every: steps of a stretch; the paper takes an epoch.
    """

    temperature: float = traced(2.0)
    every: int = 100

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        checks.positive(setup, "balancer.temperature", self.temperature)
        checks.count(setup, "balancer.every", self.every)

    def init_state(self, tasks: tuple[str, ...]) -> PyTree:
        names = ("sums", "counts", "last", "before")
        return {name: jnp.zeros(len(tasks), jnp.float32) for name in names}

    def balance(self, values: TaskValues) -> Balance:
        state = values.state
        is_new = (values.step > 0) & (values.step % self.every == 0)
        means = state["sums"] / jnp.maximum(state["counts"], 1)
        # A task without a label in the whole stretch keeps its mean.
        means = jnp.where(state["counts"] > 0, means, state["last"])
        last = jnp.where(is_new, means, state["last"])
        before = jnp.where(is_new, state["last"], state["before"])
        weights = dwa_weights(last, before, self.temperature)
        known = jnp.all((last > 0) & (before > 0))
        new = {
            "sums": jnp.where(is_new, 0, state["sums"]) + values.losses,
            "counts": jnp.where(is_new, 0, state["counts"]) + values.labelled,
            "last": last,
            "before": before,
        }
        return Balance(jnp.where(known, weights, 1.0), new)
