"""Mean and variance of every channel, precise however far the mean is from 0.

E x² − (E x)² needs one pass over x, and cancels where the mean is large against the
deviation: in float32 nothing is left at a ratio of 3,000. Around a shift near the mean
nothing cancels: Var x = E (x − s)² − (E (x − s))².
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Largest squared ratio of mean and deviation that E x² − (E x)² is used for: its
# relative error is then about 1e-5.
_LARGEST_RATIO = 100.0
_SHARE = 16  # a shift is the mean of one in so many examples


class ChannelMoments(NamedTuple):
    """Moments of x, (channels,) each.

    The mean is kept in two parts, since one float32 near 10,000 has an error of 5e-4.

    Attributes:
      shift: s, near the mean; no gradient flows through it.
      offset: E (x − s).
      variance: over n, not n − 1.
    """

    shift: jax.Array
    offset: jax.Array
    variance: jax.Array

    @property
    def mean(self) -> jax.Array:
        """E x, rounded to one number."""
        return self.shift + self.offset


def channel_moments(x: jax.Array, epsilon: float) -> ChannelMoments:
    """Moments over all axes but the last.

    On CPU, where XLA would store x − s, a second pass is made only if a channel needs
    it, which costs nothing otherwise. Accelerators take s from a part of the batch,
    since a condition would make them wait for the host.

    Args:
      x: (batch, …, channels), float32 or wider.
      epsilon: what will be added to the variance; errors far below it don't matter.
    """
    return ChannelMoments(*_moments(x, epsilon))


def shifted_affine(
    x: jax.Array, shift: jax.Array, factor: jax.Array, addend: jax.Array
) -> jax.Array:
    """(x − s) · k + c per channel, whose backward pass stores x and not x − s.

    Args:
      x: (…, channels).
      shift, factor, addend: s, k and c, (channels,).
    """
    return _affine(x, shift, factor, addend)


@jax.custom_jvp
def _affine(
    x: jax.Array, shift: jax.Array, factor: jax.Array, addend: jax.Array
) -> jax.Array:
    return (x - shift) * factor + addend


@_affine.defjvp
def _affine_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    x, shift, factor, _ = primals
    dx, d_shift, d_factor, d_addend = tangents
    # dk · (x − s) in two parts, so that x − s is no residual.
    constant = d_addend - shift * d_factor - d_shift * factor
    return _affine(*primals), dx * factor + x * d_factor + constant


def _axes(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


_Moments = tuple[jax.Array, jax.Array, jax.Array]


@jax.custom_jvp
def _moments(x: jax.Array, epsilon: float) -> _Moments:
    return jax.lax.platform_dependent(
        x, jnp.asarray(epsilon, x.dtype), cpu=_moments_on_cpu, default=moments_by_part
    )


@_moments.defjvp
def _moments_jvp(primals: tuple, tangents: tuple) -> tuple[_Moments, _Moments]:
    x, dx = primals[0], tangents[0]
    shift, offset, variance = _moments(*primals)
    d_mean = dx.mean(_axes(x))
    d_variance = 2 * ((x * dx).mean(_axes(x)) - (shift + offset) * d_mean)
    return (shift, offset, variance), (jnp.zeros_like(shift), d_mean, d_variance)


def _moments_on_cpu(x: jax.Array, epsilon: jax.Array) -> _Moments:
    mean = x.mean(_axes(x))
    # Rounding may take the difference below 0.
    variance = jnp.maximum((x * x).mean(_axes(x)) - mean**2, 0)
    cancels = jnp.any(mean**2 > _LARGEST_RATIO * (variance + epsilon))

    def as_they_are(x: jax.Array, mean: jax.Array) -> _Moments:
        return mean, jnp.zeros_like(mean), variance

    return jax.lax.cond(_in_any_run(cancels), _moments_around, as_they_are, x, mean)


def moments_by_part(x: jax.Array, epsilon: float | jax.Array = 0.0) -> _Moments:
    """The form of accelerators: one pass around the mean of a part of the batch."""
    part = x[: max(1, len(x) // _SHARE)]
    return _moments_around(x, part.mean(_axes(x)))


def _moments_around(x: jax.Array, shift: jax.Array) -> _Moments:
    gap = x - shift
    offset = gap.mean(_axes(x))
    variance = jnp.maximum((gap * gap).mean(_axes(x)) - offset**2, 0)
    return shift, offset, variance


@jax.custom_batching.custom_vmap
def _in_any_run(condition: jax.Array) -> jax.Array:
    """The condition; under vmap one for all runs, so that a cond stays one branch."""
    return condition


@_in_any_run.def_vmap
def _in_any_run_vmap(
    size: int, is_batched: list[bool], condition: jax.Array
) -> tuple[jax.Array, bool]:
    return jnp.any(condition), False
