"""GradNorm: weights that make all tasks learn at one rate."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.multitask.balancer import (
    GRADIENTS,
    Balance,
    Balancer,
    TaskValues,
)


def gradnorm_loss(
    weights: jax.Array, norms: jax.Array, ratios: jax.Array, alpha: jax.Array | float
) -> jax.Array:
    """Σ_k |w_k n_k − G̅·r_k^α|, a scalar whose gradient trains the weights.

    G̅ is the mean of w_k n_k and r_k the ratio of task k over the mean of all; neither
    is differentiated.

    Args:
      weights: w, (T,).
      norms: n, (T,), of the tasks' gradients.
      ratios: (T,), loss over the loss at the start.
      alpha: α ≥ 0, how strongly tasks that lag are favored.

    Returns:
      The sum over tasks, not the mean; in units of the gradients' norm.

    References:
      Chen et al., GradNorm, ICML 2018, eq. 2.
    """
    lengths = weights * norms
    rates = ratios / ratios.mean()
    targets = jax.lax.stop_gradient(lengths.mean() * rates**alpha)
    return jnp.sum(jnp.abs(lengths - targets))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorm(Balancer):
    """Weights T·softmax(s), whose s the optimizer trains on `gradnorm_loss`.

    The loss at the start is that of the first batch with a label of the task. The
    softmax keeps the sum of the weights at T, as in LibMTL (the paper divides).

    Attributes:
      alpha: α, 1.5 in most of the paper.
    """

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS

    alpha: float = traced(1.5)

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        checks.number(setup, "balancer.alpha", self.alpha, 0.0)

    def init(self, tasks: tuple[str, ...]) -> PyTree:
        return {"scales": jnp.zeros(len(tasks), jnp.float32)}

    def init_state(self, tasks: tuple[str, ...]) -> PyTree:
        return {"first": jnp.zeros(len(tasks), jnp.float32)}

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        weights = len(values.tasks) * jax.nn.softmax(values.params["scales"])
        first = values.state["first"]
        first = jnp.where((first == 0) & values.labelled, values.losses, first)
        known = values.labelled & (first > 0)
        ratios = jnp.where(known, values.losses / jnp.where(first > 0, first, 1), 1.0)
        norms = jnp.sqrt(jnp.clip(jnp.diagonal(values.gram), 0))
        penalty = gradnorm_loss(weights, norms, jnp.maximum(ratios, 1e-8), self.alpha)
        return Balance(jax.lax.stop_gradient(weights), {"first": first}, penalty)
