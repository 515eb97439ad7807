"""Uncertainty weighting: a trained variance for each task."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.terms.multitask.balancer import Balance, Balancer, TaskValues

_START = -0.5  # log σ² of every task before the first step, as in LibMTL


def uncertainty_weights(log_variances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(½·exp(−s_k), (T,); Σ_k s_k / 2), with s = log σ².

    Args:
      log_variances: s, (T,).

    Returns:
      (factors of the losses, the penalty that keeps variances from growing).

    References:
      Kendall, Gal & Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses,
      CVPR 2018, eq. 7; the factor ½ of every kind of task is LibMTL's (the paper's for
      regression, for classification it has 1).
    """
    return 0.5 * jnp.exp(-log_variances), 0.5 * log_variances.sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class UncertaintyWeights(Balancer):
    """`uncertainty_weights`; the optimizer trains s with the model.

    A task without a label in the batch leaves its s where it is; with accumulation, in
    each micro-batch, so that a rare task's s follows the micro-batches with its labels.
    """

    def init(self, tasks: tuple[str, ...]) -> PyTree:
        return {"log_variances": jnp.full(len(tasks), _START, jnp.float32)}

    def balance(self, values: TaskValues) -> Balance:
        s = values.params["log_variances"]
        s = jnp.where(values.labelled, s, jax.lax.stop_gradient(s))
        weights, penalty = uncertainty_weights(s)
        return Balance(weights, values.state, penalty)
