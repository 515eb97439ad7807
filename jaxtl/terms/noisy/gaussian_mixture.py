"""Two Gaussians on a line, fitted by EM inside jit: clean losses and wrong ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

FLOOR = 5e-4  # added to variances; of values in [0, 1]


class Mixture(NamedTuple):
    """Two normal components.

    Attributes:
      means, variances, shares: (2,) each; shares sum to 1.
    """

    means: jax.Array
    variances: jax.Array
    shares: jax.Array


def responsibilities(mixture: Mixture, values: jax.Array) -> jax.Array:
    """Returns P(component | value), (2, n)."""
    means, variances = mixture.means[:, None], mixture.variances[:, None]
    log_density = -0.5 * (jnp.square(values - means) / variances + jnp.log(variances))
    return jax.nn.softmax(jnp.log(mixture.shares)[:, None] + log_density, axis=0)


def maximised(held: jax.Array, values, weights, floor=FLOOR) -> Mixture:
    """Returns the mixture that responsibilities (2, n) give: the M step.

    Args:
      held: of each component for each value.
      values: (n,).
      weights: (n,), how often each value counts, 0 for not at all.
      floor: added to the variances.
    """
    held = held * weights
    mass = jnp.maximum(held.sum(1), 1e-6)
    means = (held @ values) / mass
    spread = jnp.sum(held * jnp.square(values - means[:, None]), axis=1)
    return Mixture(means, spread / mass + floor, mass / mass.sum())


def fit_two(values, weights=None, iterations: int = 20, floor=FLOOR) -> Mixture:
    """Fits two Gaussians by expectation-maximisation.

    It begins with every value given wholly to the nearer of the smallest and the
    largest, and takes a fixed number of iterations; a single value repeated gives two
    equal components. Pure, for jit and vmap.

    Args:
      values: (n,).
      weights: (n,), how often each counts; None for once each.
      iterations: E and M steps.
      floor: added to the variances in each M step, as scikit-learn's reg_covar.
    """
    weights = jnp.ones_like(values) if weights is None else weights
    there = weights > 0
    low = jnp.min(jnp.where(there, values, jnp.inf))
    high = jnp.max(jnp.where(there, values, -jnp.inf))
    upper = (values - low > high - values).astype(values.dtype)
    start = maximised(jnp.stack([1 - upper, upper]), values, weights, floor)

    def step(_, mixture):
        return maximised(responsibilities(mixture, values), values, weights, floor)

    return jax.lax.fori_loop(0, iterations, step, start)


def low_probability(mixture: Mixture, values: jax.Array) -> jax.Array:
    """Returns P(the component of the smaller mean | value), (n,)."""
    held = responsibilities(mixture, values)
    return jnp.where(mixture.means[0] <= mixture.means[1], held[0], held[1])
