"""Minima of smooth convex functions of few variables, with bounds, by Newton steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# x (T,) -> (gradient (T,), Hessian (T, T))
Derivatives = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

_STEPS = 300  # at most; most functions need about 20
_TOLERANCE = 100.0  # of a gradient of 0, in units of the dtype's epsilon
_LENGTHS = 8  # of a step, each half the one before, of which the best is taken
_CENTERING, _BACK_OFF = 0.1, 0.995
_FREE_START = 0.01  # of entries beside the sum, of which the least is small


def minimum(
    derivatives: Derivatives, lower: jax.Array, in_sum: jax.Array | None = None
) -> jax.Array:
    """argmin f(x) for x ≥ lower, and Σ x = 1 over the entries of `in_sum`, (T,).

    A primal-dual interior-point method that runs inside a compiled step.

    Args:
      derivatives: of f, convex, of a scale of about 1.
      lower: (T,) bounds; 0 where there is a sum.
      in_sum: (T,) 1 for the entries that add up to 1, 0 for others; None for no sum.

    References:
      Boyd & Vandenberghe, Convex Optimization, 2004, section 11.7.
    """
    count, epsilon = len(lower), jnp.finfo(lower.dtype).eps
    least = (10 * epsilon) ** 2
    ones, zeros = jnp.ones_like(lower), jnp.zeros_like(lower)
    total = 0.0 if in_sum is None else 1.0
    summed = zeros if in_sum is None else in_sum

    def residuals(point: _Point, center: jax.Array) -> tuple[jax.Array, ...]:
        gradient, _ = derivatives(lower + point.slack)
        stationary = gradient - point.duals + summed * point.multiplier
        missing = total - summed @ point.slack
        return stationary, point.duals * point.slack - center, missing

    def is_minimum(point: _Point) -> jax.Array:
        stationary, gap, missing = residuals(point, jnp.zeros((), ones.dtype))
        unbalanced = jnp.abs(jnp.append(stationary, missing)).max()
        scale = jnp.maximum(1, point.slack.max())
        is_balanced = unbalanced <= _TOLERANCE * epsilon * scale
        return is_balanced & (gap.max() <= epsilon * scale)

    def body(steps_and_point: tuple[jax.Array, _Point]) -> tuple[jax.Array, _Point]:
        steps, point = steps_and_point
        slack, duals, multiplier = point
        center = jnp.maximum(_CENTERING * jnp.dot(slack, duals) / count, least)
        stationary, gap, missing = residuals(point, center)
        _, hessian = derivatives(lower + slack)
        # With the sum as a row of its own: f may be flat along x, as a norm is, where
        # the other rows alone are singular.
        matrix = jnp.block(
            [
                [hessian + jnp.diag(duals / slack), summed[:, None]],
                [summed[None], jnp.full((1, 1), 1 - total, ones.dtype)],
            ]
        )
        sides = jnp.append(-stationary - gap / slack, missing)
        *_, change = solution = jnp.linalg.solve(matrix, sides)
        step = solution[:-1]
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
        return steps + 1, moved(lengths[jnp.argmin(jax.vmap(error)(lengths))])

    def goes_on(steps_and_point: tuple[jax.Array, _Point]) -> jax.Array:
        steps, point = steps_and_point
        return (steps < _STEPS) & ~is_minimum(point)

    # The point is lower + slack, where a small slack would round away.
    inside = ones
    if in_sum is not None:
        inside = jnp.where(in_sum > 0, in_sum / in_sum.sum(), _FREE_START)
    start = _Point(inside, ones, jnp.sum(zeros))
    _, point = jax.lax.while_loop(goes_on, body, (jnp.zeros((), int), start))
    return lower + point.slack


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
