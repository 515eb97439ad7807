"""ConvNeXt and ConvNeXt V2: convolutional networks in the form of transformers.

References:
  Liu et al.: A ConvNet for the 2020s, CVPR 2022.
  Woo et al.: ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders,
  CVPR 2023.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.models import config_values, staged
from jaxtl.models.convnext_layout import (
    CONVNEXT_CONFIG,
    CONVNEXTV2_CONFIG,
    hf_layout,
    timm_layout,
)
from jaxtl.models.layers import norms, stochastic_depth
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.heads import DenseHead
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.layers.stochastic_depth import StochasticDepth
from jaxtl.models.weight_layout import WeightLayout

_EPSILON = 1e-6  # of all norms but the last


class _ResponseNorm(nn.Module):
    """scale · x · n + bias + x, n = ‖x‖ over positions over its channels' mean."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        wide = as_float32(x)
        squares = jnp.square(wide).sum((1, 2), keepdims=True)
        # The gradient of the root at 0 is infinite; a channel of zeros has none.
        is_zero = squares == 0
        lengths = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))
        lengths = lengths / (lengths.mean(-1, keepdims=True) + _EPSILON)
        wide = as_float32(scale) * (wide * lengths) + as_float32(bias) + wide
        return wide.astype(x.dtype)


class _ConvNeXtBlock(nn.Module):
    """7×7 depthwise convolution, norm, two affine maps per position, and the input.

    Attributes:
      activation: between the maps.
      layer_scale: initial factor of each channel; None for no factors.
      response_norm: whether responses are normalized between the maps (V2).
      drop: rate of stochastic depth.
    """

    activation: str
    layer_scale: float | None
    response_norm: bool
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        width = x.shape[-1]
        conv = Conv(
            width,
            (7, 7),
            padding=3,
            groups=width,
            kernel_init=NORMAL,
            name="depthwise",
        )
        y = norms.layer_norm(_EPSILON, "norm")(conv(x))
        y = Dense(4 * width, kernel_init=NORMAL, name="expand")(y)
        y = activation(self.activation)(y)
        if self.response_norm:
            y = _ResponseNorm(name="response_norm")(y)
        y = Dense(width, kernel_init=NORMAL, name="project")(y)
        if self.layer_scale is not None:
            constant = nn.initializers.constant(self.layer_scale)
            scale = self.param("layer_scale", constant, (width,))
            y = y * broadcast(scale.astype(y.dtype), y.shape)
        return x + StochasticDepth(self.drop, name="drop")(y, mode)


class _ConvNeXtStem(nn.Module):
    """Patches as vectors, and a norm."""

    width: int
    patch: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        kernel = (self.patch, self.patch)
        conv = Conv(
            self.width, kernel, self.patch, "VALID", kernel_init=NORMAL, name="patch"
        )
        return norms.layer_norm(_EPSILON, "norm")(conv(x))


class _ConvNeXtStage(nn.Module):
    """A norm and a 2×2 convolution of stride 2 (if `shrinks`), and blocks."""

    width: int
    shrinks: bool
    drops: tuple[float, ...]
    activation: str
    layer_scale: float | None
    response_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        if self.shrinks:
            x = norms.layer_norm(_EPSILON, "shrink_norm")(x)
            x = Conv(
                self.width, (2, 2), 2, "VALID", kernel_init=NORMAL, name="shrink_conv"
            )(x)
        shared = (self.activation, self.layer_scale, self.response_norm)
        for i, drop in enumerate(self.drops):
            x = _ConvNeXtBlock(*shared, drop, name=f"block{i}")(x, mode)
        return x


class _PooledNorm(nn.Module):
    """The average over all positions, normalized."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        return norms.layer_norm(self.epsilon, "norm")(global_average_pool(x))


class ConvNeXt(staged.Staged):
    """ConvNeXt: stages `stem, stage1, stage2, …, norm, head`; `norm` pools.

    Attributes:
      patch: side of the stem's patches.
      widths: channels of each stage.
      sizes: blocks of each stage.
      activation: by name.
      layer_scale: initial factor of each channel of a block; None for no factors.
      response_norm: whether blocks normalize responses (V2, without `layer_scale`).
      drop_path: rate of stochastic depth of the last block, growing from 0.
      epsilon: of the last norm.
    """

    READS: ClassVar[str] = "images"

    patch: int = 4
    widths: tuple[int, ...] = (96, 192, 384, 768)
    sizes: tuple[int, ...] = (3, 3, 9, 3)
    activation: str = "gelu_exact"
    layer_scale: float | None = 1e-6
    response_norm: bool = False
    drop_path: float = 0.0
    epsilon: float = 1e-12

    @property
    def stages(self) -> tuple[str, ...]:
        middle = (f"stage{i + 1}" for i in range(len(self.sizes)))
        return ("stem", *middle, "norm", "head")

    def setup(self) -> None:
        if len(self.widths) != len(self.sizes):
            raise UserError(
                f"widths={self.widths}: expected one number for each of the "
                f"{len(self.sizes)} stages of sizes."
            )
        rates = iter(stochastic_depth.depth_rates(self.drop_path, sum(self.sizes)))
        shared = (self.activation, self.layer_scale, self.response_norm)
        self.add("stem", _ConvNeXtStem(self.widths[0], self.patch))
        for i, (width, size) in enumerate(zip(self.widths, self.sizes)):
            drops = tuple(next(rates) for _ in range(size))
            self.add(f"stage{i + 1}", _ConvNeXtStage(width, i > 0, drops, *shared))
        self.add("norm", _PooledNorm(self.epsilon))
        self.add("head", DenseHead(self.outputs))

    def layouts(self) -> dict[str, WeightLayout]:
        fields = (self.sizes, self.layer_scale is not None, self.response_norm)
        return {"hf": hf_layout(*fields), "timm": timm_layout(*fields)}


def from_config(config: Mapping[str, Any], **fields: Any) -> ConvNeXt:
    """Builds the model of a config.json of type "convnext" or "convnextv2".

    Raises:
      UserError: a key or a value that is not supported.
    """
    is_second = config.get("model_type") == "convnextv2"
    entries = (CONVNEXTV2_CONFIG if is_second else CONVNEXT_CONFIG).fields(config)
    config_values.count("num_channels", config.get("num_channels", 3))
    number = config_values.count("num_stages", config.get("num_stages", 4))
    for key, field in (("depths", "sizes"), ("hidden_sizes", "widths")):
        config_values.counts(key, entries[field], number)
    if is_second:
        entries |= {"layer_scale": None, "response_norm": True}
    return ConvNeXt(**{**entries, **fields})


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> ConvNeXt | None:
    """The model that a file of timm was written from, None for other files."""
    names = ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "head.fc.weight")
    if not all(name in shapes for name in names):
        return None
    widths, sizes = [], []
    while (first := f"stages.{len(widths)}.blocks.0.conv_dw.bias") in shapes:
        widths.append(shapes[first][0])
        blocks = f"stages.{len(sizes)}.blocks"
        sizes.append(sum(f"{blocks}.{b}.conv_dw.bias" in shapes for b in range(200)))
    block = "stages.0.blocks.0"
    return ConvNeXt(
        outputs=shapes["head.fc.weight"][0],
        patch=shapes["stem.0.weight"][2],
        widths=tuple(widths),
        sizes=tuple(sizes),
        layer_scale=1e-6 if f"{block}.gamma" in shapes else None,
        response_norm=f"{block}.mlp.grn.weight" in shapes,
        epsilon=1e-6,
    )
