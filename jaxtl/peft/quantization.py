"""Quantizers of weight matrices: int8 by output, NF4 by block, and back.

A quantized matrix is a dict of small arrays, of which `dequantize` makes the weights
again. NF4's codes and values are those of bitsandbytes for the same weight in torch's
order, (outputs, inputs).
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Quantized = Mapping[str, jax.Array]

BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share one in turn

# The levels of 4-bit NormalFloat, as bitsandbytes publishes them: quantiles of the
# normal distribution, scaled to [-1, 1], with an exact 0 (QLoRA, appendix E).
NF4_LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


def quantize_int8(weight: jax.Array) -> dict[str, jax.Array]:
    """Rounds weights to multiples of max |w| / 127, the maximum over an output's.

    Args:
      weight: (…, outputs), floating.

    Returns:
      "codes", int8 of the weight's shape, and "scales", float32 (outputs,), so that
      |w − codes · scales| ≤ scales / 2.

    References:
      Dettmers et al., LLM.int8(): 8-bit Matrix Multiplication for Transformers at
      Scale, NeurIPS 2022, §2: absolute maximum quantization, by row of torch's weight.
    """
    weight = weight.astype(jnp.float32)
    scales = jnp.abs(weight).max(tuple(range(weight.ndim - 1))) / 127
    codes = jnp.round(weight / jnp.where(scales > 0, scales, 1))
    return {"codes": jnp.clip(codes, -127, 127).astype(jnp.int8), "scales": scales}


def quantize_nf4(
    weight: jax.Array, *, double_quantization: bool = False
) -> dict[str, jax.Array]:
    """Rounds weights to the 16 levels of NF4, times the maximum |w| of their block.

    Blocks are of 64 weights, along the inputs of the first output, then of the second,
    and so on; the last block is filled up with zeros.

    Args:
      weight: (…, outputs), floating.
      double_quantization: store the blocks' scales in 8 bits as well.

    Returns:
      "codes", uint8 (blocks, 32), two in a byte, of which the first is the upper half;
      and "scales", float32 (blocks,), or those of `quantize_scales`.

    References:
      Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023,
      eq. 4 and §3; bitsandbytes' `quantize_4bit`.
    """
    rows = jnp.moveaxis(weight.astype(jnp.float32), -1, 0).reshape(-1)
    blocks = jnp.pad(rows, (0, -rows.size % BLOCK)).reshape(-1, BLOCK)
    codes, scales = _nearest_levels(blocks, NF4_LEVELS)
    packed = codes[:, ::2] << 4 | codes[:, 1::2]
    if double_quantization:
        return {"codes": packed, **quantize_scales(scales)}
    return {"codes": packed, "scales": scales}


def quantize_scales(scales: jax.Array) -> dict[str, jax.Array]:
    """Rounds scales, less their mean, to 8-bit floats in blocks of 256.

    Args:
      scales: (n,), float32.

    Returns:
      "scales", uint8 (n,); "scale_scales", float32 (blocks,); "scale_offset", ().

    References:
      QLoRA, §3, double quantization; the 8-bit floats are bitsandbytes' dynamic ones
      (Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, ICLR 2016).
    """
    offset = scales.mean()
    centered = jnp.pad(scales - offset, (0, -scales.size % SCALE_BLOCK))
    codes, scale_scales = _nearest_levels(
        centered.reshape(-1, SCALE_BLOCK), dynamic_levels()
    )
    return {
        "scales": codes.reshape(-1)[: scales.size],
        "scale_scales": scale_scales,
        "scale_offset": offset,
    }


def _nearest_levels(
    blocks: jax.Array, levels: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """(Numbers of the nearest levels, uint8; the largest |x| of each block).

    Halfway between two levels the lower one is taken.
    """
    scales = jnp.abs(blocks).max(1)
    # As bitsandbytes, product with the reciprocal: a quotient may round otherwise.
    scaled = blocks * (1 / jnp.maximum(scales, 1e-38))[:, None]
    middles = (levels[:-1] + levels[1:]) / 2
    codes = jnp.searchsorted(middles, jnp.clip(scaled, -1, 1), method="scan_unrolled")
    return codes.astype(jnp.uint8), scales


@functools.cache
def dynamic_levels() -> np.ndarray:
    """The 256 levels of bitsandbytes' signed 8-bit dynamic floats, float32, rising.

    The number of leading zeros is the exponent of 10, and the other bits divide
    [0.1, 1] into equal parts, whose middles are the levels.
    """
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2**exponent + 1, dtype=np.float32)
        middles = (edges[:-1] + edges[1:]) / 2 * np.float32(10.0 ** (exponent - 6))
        levels += [*middles, *-middles]
    return np.sort(np.array(levels, np.float32))


def dequantize(quantized: Quantized, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """The weights of a quantized matrix.

    Args:
      quantized: of `quantize_int8` or `quantize_nf4`.
      shape: of the weights, (…, outputs).
      dtype: of the result; the product of level and scale is rounded to it once.
    """
    codes, scales = quantized["codes"], _scales(quantized)
    if codes.dtype == jnp.int8:
        return (codes * scales).astype(dtype)
    levels = jnp.asarray(NF4_LEVELS)
    pairs = jnp.stack([levels[codes >> 4], levels[codes & 15]], -1)
    blocks = pairs.reshape(-1, BLOCK) * scales[:, None]
    rows = blocks.reshape(-1)[: math.prod(shape)].astype(dtype)
    return jnp.moveaxis(rows.reshape(shape[-1], *shape[:-1]), 0, -1)


def _scales(quantized: Quantized) -> jax.Array:
    """The scales, float32, decoded if they are quantized as well."""
    scales = quantized["scales"]
    if "scale_scales" not in quantized:
        return scales
    spread = jnp.repeat(quantized["scale_scales"], SCALE_BLOCK)[: scales.size]
    levels = jnp.asarray(dynamic_levels())
    return levels[scales] * spread + quantized["scale_offset"]
