"""Swin Transformer and its second version, in Hugging Face's layout.

References:
  Liu et al.: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows,
  ICCV 2021.
  Liu et al.: Swin Transformer V2: Scaling Up Capacity and Resolution, CVPR 2022.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.models import config_values, staged
from jaxtl.models.layers import interpolation, norms, stochastic_depth, transformer
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.layers.stochastic_depth import StochasticDepth
from jaxtl.models.layers.windows import WindowAttention
from jaxtl.models.swin_layout import SWIN_CONFIG, SWINV2_CONFIG, hf_layout
from jaxtl.models.weight_layout import WeightLayout

_EPSILON = 1e-5  # of the norms outside of the blocks


class _SwinEmbeddings(nn.Module):
    """A vector per patch, normalized, plus position vectors if any, then dropout.

    Images are padded with zeros to whole patches.
    """

    width: int
    size: int
    patch: int
    dropout: float
    has_position: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        if x.ndim != 4 or x.shape[1:3] != (self.size, self.size):
            raise UserError(
                f"images of shape {tuple(x.shape)} came to a model of size={self.size} "
                f"(expected (batch, {self.size}, {self.size}, channels)): set the "
                "model's size to theirs."
            )
        pad = (0, -self.size % self.patch)
        x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
        kernel = (self.patch, self.patch)
        conv = Conv(
            self.width, kernel, self.patch, "VALID", kernel_init=NORMAL, name="patch"
        )
        x = norms.layer_norm(_EPSILON, "norm")(conv(x))
        if self.has_position:
            shape = (1, x.shape[1] * x.shape[2], self.width)
            position = self.param("position", NORMAL, shape)
            x += broadcast(position.reshape(1, *x.shape[1:]), x.shape)
        return staged.Dropout(self.dropout, name="dropout")(x, mode)


class _Form(NamedTuple):
    """What the blocks of a stage compute; fields as of `Swin` and `WindowAttention`."""

    heads: int
    window: int
    shift: int
    trained_window: int
    ratio: float
    activation: str
    epsilon: float
    dropout: float
    qkv_bias: bool
    is_second: bool


class _SwinBlock(nn.Module):
    """Attention within windows and a feed-forward part, with norms and the input.

    Norms come before both parts, in V2 behind them.
    """

    form: _Form
    shift: int
    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        form, is_second = self.form, self.form.is_second
        attend = WindowAttention(
            form.heads,
            form.window,
            self.shift,
            form.qkv_bias,
            is_second,
            form.trained_window,
            name="windows",
        )
        hidden = int(form.ratio * x.shape[-1])
        feed_forward = transformer.FeedForward(hidden, form.activation, name="mlp")

        def part(name: str, function: Callable, x: jax.Array, rate: float) -> jax.Array:
            norm = norms.layer_norm(form.epsilon, f"{name}_norm")
            y = function(x if is_second else norm(x))
            # transformers has none behind V2's attention, and no stochastic depth of
            # the first version's feed-forward part.
            drop = form.dropout * (name == "mlp" or not is_second)
            y = staged.Dropout(drop, name=f"{name}_dropout")(y, mode)
            y = norm(y) if is_second else y
            return x + StochasticDepth(rate, name=f"{name}_drop_path")(y, mode)

        x = part("attention", attend, x, self.rate)
        return part("mlp", feed_forward, x, self.rate * is_second)


class _SwinStage(nn.Module):
    """Blocks, and 2×2 places that become one (if `shrinks`)."""

    form: _Form
    rates: tuple[float, ...]
    shrinks: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        window, side = self.form.window, min(x.shape[1:3])
        if side < window:
            raise UserError(
                f"window={window} is larger than the {x.shape[1]}×{x.shape[2]} places "
                f"of {self.name}: set a smaller window, or larger images."
            )
        shift = self.form.shift if side > window else 0
        for i, rate in enumerate(self.rates):
            block = _SwinBlock(self.form, shift * (i % 2), rate, name=f"block{i}")
            x = block(x, mode)
        return self._smaller(x) if self.shrinks else x

    def _smaller(self, x: jax.Array) -> jax.Array:
        """Half as high and wide, with zeros at odd borders, and twice the channels."""
        width = x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = jnp.concatenate(parts, -1)
        norm = norms.layer_norm(_EPSILON, "shrink_norm")
        dense = Dense(2 * width, use_bias=False, kernel_init=NORMAL, name="shrink")
        return norm(dense(x)) if self.form.is_second else dense(norm(x))


class _SwinNorm(nn.Module):
    """The norm behind the last stage."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        return norms.layer_norm(self.epsilon, "norm")(x)


class Swin(staged.Staged):
    """Stages `embeddings, stage1, stage2, …, norm, head`.

    Attributes:
      size: side of the images.
      patch: side of a patch.
      width: of the first stage; each other has twice that of the one before.
      sizes: blocks of each stage.
      heads: of each stage.
      window: side of a window.
      ratio: width inside the feed-forward layers over that of the stage.
      activation: by name.
      epsilon: of the norms in the blocks and of the last one.
      dropout: after embeddings and each sublayer.
      drop_path: rate of stochastic depth of the last block, growing from 0.
      qkv_bias: biases of query, key and value.
      has_position: whether there are position vectors.
      is_second: whether it is Swin V2: norms behind the sublayers, cosine attention,
        and a function of distances in place of a table.
      trained_windows: sides of the windows of each stage that these functions were
        trained with, 0 for `window`; () for 0 in each.
    """

    READS: ClassVar[str] = "images"

    size: int = 224
    patch: int = 4
    width: int = 96
    sizes: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    ratio: float = 4.0
    activation: str = "gelu_exact"
    epsilon: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.1
    qkv_bias: bool = True
    has_position: bool = False
    is_second: bool = False
    trained_windows: tuple[int, ...] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        middle = (f"stage{i + 1}" for i in range(len(self.sizes)))
        return ("embeddings", *middle, "norm", "head")

    def _form(self, stage: int) -> _Form:
        """What the blocks of a stage compute.

        V2 has no window larger than the image, rests at its border left out, and no
        shift where one window is the image.
        """
        side = self.size // self.patch // 2**stage
        window = min(self.window, side) if self.is_second else self.window
        return _Form(
            self.heads[stage],
            window,
            self.window // 2 if side > window or not self.is_second else 0,
            self.trained_windows[stage] if self.trained_windows else 0,
            self.ratio,
            self.activation,
            self.epsilon,
            self.dropout,
            self.qkv_bias,
            self.is_second,
        )

    def setup(self) -> None:
        number = len(self.sizes)
        if len(self.heads) != number or len(self.trained_windows) not in (0, number):
            raise UserError(
                f"sizes={self.sizes}, heads={self.heads} and trained_windows="
                f"{self.trained_windows}: expected a number for each stage in each."
            )
        for i, heads in enumerate(self.heads):
            transformer.check_heads(self.width * 2**i, heads)
        embeddings = _SwinEmbeddings(
            self.width, self.size, self.patch, self.dropout, self.has_position
        )
        self.add("embeddings", embeddings)
        rates = iter(stochastic_depth.depth_rates(self.drop_path, sum(self.sizes)))
        for i, size in enumerate(self.sizes):
            own = tuple(next(rates) for _ in range(size))
            stage = _SwinStage(self._form(i), own, i + 1 < number)
            self.add(f"stage{i + 1}", stage)
        self.add("norm", _SwinNorm(self.epsilon))
        self.add("head", PooledHead(self.outputs))

    def reduction(self) -> Callable[[Any], Any]:
        return global_average_pool

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": hf_layout(self)}

    def adapt(self, path: str, leaf: Any) -> Any:
        """Interpolates position vectors of another image size; other leaves stay."""
        if path != "embeddings/position":
            return leaf
        return interpolation.resize_positions(leaf, -(-self.size // self.patch), 0)


def from_config(config: Mapping[str, Any], **fields: Any) -> Swin:
    """Builds the model of a config.json of type "swin" or "swinv2".

    Raises:
      UserError: a key or a value that is not supported.
    """
    is_second = config.get("model_type") == "swinv2"
    entries = (SWINV2_CONFIG if is_second else SWIN_CONFIG).fields(config)
    config_values.count("num_channels", config.get("num_channels", 3))
    if not any(entries.get("trained_windows", ())):
        entries["trained_windows"] = ()
    return Swin(**{**entries, "is_second": is_second, **fields})
