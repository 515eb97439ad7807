"""Rotary positions: pairs of features that turn with the position of their token.

References:
  Su et al.: RoFormer, arXiv:2104.09864.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryPositions:
    """Constants of rotary positions.

    Attributes:
      theta: the slowest wavelength is about 2π·theta.
      pairs: rotate neighbors (x₀, x₁), as llama2.c; else (x₀, x_{d/2}), as
        Hugging Face.
      share: share of each head's features that turn, the first ones.
      factor: frequencies are divided by it (Chen et al., arXiv:2306.15595).
      bands: (low, high, context) of Llama 3.1, which divides the frequencies of
        wavelengths above context / low alone, leaves those below context / high, and
        interpolates between them; () divides all.
      ramp: (first, last) of YaRN (Peng et al., ICLR 2024): pairs of features before
        the first keep their frequency, those after the last are divided, with a linear
        ramp between them; () for none.
      short, long: LongRoPE's divisors of each pair's frequency (Ding et al.,
        arXiv:2402.13753): `long` for texts of more than `context` tokens; () for none.
      context: length up to which texts are short.
      scale: factor of the rotated features (the attention factor of YaRN, LongRoPE).
    """

    theta: float = 10_000.0
    pairs: bool = False
    share: float = 1.0
    factor: float = 1.0
    bands: tuple[float, ...] = ()
    ramp: tuple[float, ...] = ()
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    context: int = 0
    scale: float = 1.0


def rotary_frequencies(
    rope: RotaryPositions, width: int, length: int | jax.Array = 0
) -> jax.Array:
    """Radians per position of each pair of features, (width / 2,) float32.

    Args:
      rope: constants.
      width: number of features that turn.
      length: number of tokens of the text, which LongRoPE goes by.
    """
    half = width // 2
    frequency = rope.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if rope.long:
        short, long = (jnp.array(x, jnp.float32) for x in (rope.short, rope.long))
        return frequency / jnp.where(length > rope.context, long, short)
    if rope.ramp:
        start, end = rope.ramp
        pair = jnp.arange(half, dtype=jnp.float32)
        share = 1 - jnp.clip((pair - start) / (end - start), 0.0, 1.0)
        return frequency * (share + (1 - share) / rope.factor)
    if not rope.bands:
        return frequency / rope.factor
    low, high, context = rope.bands
    turns = context * frequency / (2 * jnp.pi)  # wavelengths in the context
    share = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (share + (1 - share) / rope.factor)


def rotate(
    x: jax.Array,
    positions: jax.Array,
    rope: RotaryPositions,
    length: int | jax.Array = 0,
) -> jax.Array:
    """Rotates each pair of features by position · frequency.

    Args:
      x: (batch, length, heads, d).
      positions: (batch, length).
      rope: constants.
      length: number of tokens of the text, as of `rotary_frequencies`.

    Returns:
      Same shape and dtype; computed in float32.

    Raises:
      UserError: a share of which no pairs of features are left.
    """
    width = int(x.shape[-1] * rope.share)
    if width % 2 or not width:
        raise UserError(
            f"rope_share={rope.share:g} of a head's {x.shape[-1]} features are {width},"
            " which turn in pairs; expected an even number of at least 2. (A head has "
            "width / heads features.)"
        )
    frequency = rotary_frequencies(rope, width, length)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle) * rope.scale, jnp.sin(angle) * rope.scale
    wide, rest = x[..., :width].astype(jnp.float32), x[..., width:]
    if rope.pairs:
        a, b = wide[..., ::2], wide[..., 1::2]
    else:
        a, b = wide[..., : width // 2], wide[..., width // 2 :]
    a, b = a * cos - b * sin, b * cos + a * sin
    if rope.pairs:
        out = jnp.stack([a, b], -1).reshape(wide.shape)
    else:
        out = jnp.concatenate([a, b], -1)
    out = out.astype(x.dtype)
    return out if rest.shape[-1] == 0 else jnp.concatenate([out, rest], -1)
