"""Minima of smooth convex functions of few variables, with bounds, by Newton steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# x (T,) -> (gradient (T,), Hessian (T, T))
Derivatives = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

_STEPS = 40  # each divides the gap to the minimum by about ten
_LENGTHS = 8  # of a step, each half the one before, of which the best is taken
_CENTERING, _BACK_OFF = 0.1, 0.995


def minimum(
    derivatives: Derivatives, lower: jax.Array, *, on_simplex: bool
) -> jax.Array:
    """argmin f(x) for x ≥ lower, and Σ x = 1 on the simplex, (T,).

    A primal-dual interior-point method, of as many steps for every function, so that it
    runs inside a compiled step.

    Args:
      derivatives: of f, convex, of a scale of about 1.
      lower: (T,) bounds; 0 on the simplex.
      on_simplex: whether the entries add up to 1.

    References:
      Boyd & Vandenberghe, Convex Optimization, 2004, section 11.7.
    """
    count, least = len(lower), (10 * jnp.finfo(lower.dtype).eps) ** 2
    ones = jnp.ones_like(lower)
    is_sum = 1.0 if on_simplex else 0.0

    def residuals(point: _Point, center: jax.Array) -> tuple[jax.Array, ...]:
        gradient, _ = derivatives(lower + point.slack)
        stationary = gradient - point.duals + is_sum * point.multiplier
        missing = is_sum * (1 - (lower + point.slack).sum())
        return stationary, point.duals * point.slack - center, missing

    def body(_: Any, point: _Point) -> _Point:
        slack, duals, multiplier = point
        center = jnp.maximum(_CENTERING * jnp.dot(slack, duals) / count, least)
        stationary, gap, missing = residuals(point, center)
        _, hessian = derivatives(lower + slack)
        matrix = hessian + jnp.diag(duals / slack)
        sides = jnp.stack([-stationary - gap / slack, ones], axis=1)
        step, along_ones = jnp.linalg.solve(matrix, sides).T
        change = is_sum * (step.sum() - missing) / along_ones.sum()
        step = step - change * along_ones
        dual_step = -(gap + duals * step) / slack
        most = jnp.minimum(_length(slack, step), _length(duals, dual_step))

        def moved(length: jax.Array) -> _Point:
            return _Point(
                jnp.maximum(slack + length * step, least),
                jnp.maximum(duals + length * dual_step, least),
                multiplier + length * change,
            )

        def error(length: jax.Array) -> jax.Array:
            parts = residuals(moved(length), center)
            return sum((jnp.sum(part**2) for part in parts), jnp.zeros((), ones.dtype))

        lengths = most * 0.5 ** jnp.arange(_LENGTHS, dtype=ones.dtype)
        return moved(lengths[jnp.argmin(jax.vmap(error)(lengths))])

    # The point is lower + slack, where a small slack would round away.
    start = _Point(
        ones / count - lower if on_simplex else ones, ones, jnp.sum(0 * ones)
    )
    return lower + jax.lax.fori_loop(0, _STEPS, body, start).slack


class _Point(NamedTuple):
    """x − lower > 0, the multipliers of the bounds, > 0, and that of Σ x = 1."""

    slack: jax.Array
    duals: jax.Array
    multiplier: jax.Array


def _length(values: jax.Array, step: jax.Array) -> jax.Array:
    """The largest share of a step, at most 1, that keeps positive values positive."""
    falls = step < 0
    limits = jnp.where(falls, -values / jnp.where(falls, step, -1), jnp.inf)
    return jnp.minimum(1.0, _BACK_OFF * limits.min())


def normalized(gram: jax.Array) -> jax.Array:
    """A Gram matrix (T, T) of trace 1; zeros stay zeros."""
    trace = jnp.trace(gram)
    return gram / jnp.where(trace > 0, trace, 1)
