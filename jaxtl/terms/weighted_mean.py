"""Weighted means, of one batch or of a step's batch that is cut into micro-batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (values, weights) -> Σ w·v / Σ w, as `weighted_mean`
WeightedMean = Callable[[jax.Array, jax.Array], jax.Array]


def ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count, 0 where the count is 0; no gradient flows through the count."""
    count = jax.lax.stop_gradient(count)
    return total / jnp.where(count > 0, count, 1)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ w·v / Σ w, 0 where Σ w is 0; no gradient flows through Σ w.

    Args:
      values: v, of any shape.
      weights: w, at least 0, the same shape.

    Returns:
      A scalar.
    """
    return ratio(jnp.sum(values * weights), jnp.sum(weights))
