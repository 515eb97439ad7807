"""A plain convolutional network, staged by block."""

from typing import ClassVar

import flax.linen as nn
import jax

from jaxtl.core import serialization
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.heads import TaskHeads, dense_head, dense_head_rules
from jaxtl.models.layers.pooling import max_pool_2x2
from jaxtl.models.mlp import MLPLayer
from jaxtl.models.weight_layout import COUNTERS, WeightLayout, conv, linear

# Activations that never fall: their value at the maximum is the largest of the values.
_MONOTONIC = ("relu", "tanh", "sigmoid", "elu", "identity")


class _CNNBlock(nn.Module):
    """Convolution, BatchNorm, dropout of channels, activation and 2×2 max pooling.

    All but the convolution and the activation are optional.
    """

    width: int
    kernel: int
    padding: str
    norm: bool
    pool: bool
    activation: str
    channel_dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        conv = Conv(
            self.width,
            (self.kernel, self.kernel),
            padding=self.padding,
            use_bias=not self.norm,
            name="conv",
        )
        x = conv(x)
        if self.norm:
            x = batch_norm.BatchNorm(name="bn")(x, mode)
        x = staged.Dropout(self.channel_dropout, axes=(1, 2), name="dropout")(x, mode)
        act = activation(self.activation)
        if not self.pool:
            return act(x)
        # Pooling first leaves the activation a quarter of the values.
        if self.activation in _MONOTONIC:
            return act(max_pool_2x2(x))
        return max_pool_2x2(act(x))


class CNN(staged.Staged):
    """Convolution blocks, one hidden layer and a head: `block1 …, hidden, head`.

    `CNN(widths=(20, 50), kernel=5, padding="VALID", units=500)` on 28 × 28 is the LeNet
    of Caffe's MNIST example, with a ReLU after each convolution.

    Attributes:
      widths: channels of each block.
      units: width of the hidden layer.
      kernel: side of the convolution kernels.
      padding: "SAME", or "VALID": images lose kernel − 1 rows and columns per block.
      pool: number of blocks, counted from the last, that end with 2×2 max pooling.
      norm: BatchNorm after each convolution.
      activation: by name.
      dropout: rate after the hidden layer.
      channel_dropout: rate of whole channels after the last block's convolution
        (torch's Dropout2d), which the LeNet of CDAN's and SHOT's programs has.
      hidden_norm: BatchNorm of the hidden layer, before its activation. SHOT's program
        has one, and `hidden_activation="identity"`.
      hidden_activation: that of the hidden layer, by name; None takes `activation`.
      task_heads: two-layer heads of several tasks in place of one affine map, or None.
    """

    READS: ClassVar[str] = "images"

    widths: tuple[int, ...] = (32, 64)
    units: int = 128
    kernel: int = 3
    padding: str = "SAME"
    pool: int = 2
    norm: bool = False
    activation: str = "relu"
    dropout: float = 0.0
    channel_dropout: float = serialization.later_field(0.0)
    hidden_norm: bool = serialization.later_field(False)
    hidden_activation: str | None = serialization.later_field(None)
    task_heads: TaskHeads | None = serialization.later_field(None)

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"block{i + 1}" for i in range(len(self.widths))), "hidden", "head")

    def layouts(self) -> dict[str, WeightLayout]:
        """Layers in torch's form: block1.conv.weight (out, in, height, width), ….

        The others are block1.conv.bias, or block1.bn.weight, .bias, .running_mean and
        .running_var; hidden.weight (units, inputs), whose inputs are flattened in
        torch's order; hidden.bn; head.weight (outputs, units), or of `task_heads`
        head.task1.hidden.weight, head.task1.output.weight, …; and the biases of all.
        """
        rules = []
        for i in range(len(self.widths)):
            block = f"block{i + 1}"
            rules += conv(f"{block}.conv", f"{block}/conv", bias=not self.norm)
            if self.norm:
                rules += weight_layout.batch_norm(f"{block}.bn", f"{block}/bn")
        channels = self.widths[-1] if self.widths else 1
        rules += linear("hidden", "hidden/dense", channels=channels)
        if self.hidden_norm:
            rules += weight_layout.batch_norm("hidden.bn", "hidden/bn")
        rules += dense_head_rules(self.task_heads)
        stem = "block1/conv/kernel" if self.widths else ""
        return {"torch": WeightLayout(tuple(rules), (COUNTERS,), stem=stem)}

    def setup(self) -> None:
        last = len(self.widths) - 1
        for i, width in enumerate(self.widths):
            block = _CNNBlock(
                width,
                self.kernel,
                self.padding,
                self.norm,
                pool=i >= len(self.widths) - self.pool,
                activation=self.activation,
                channel_dropout=self.channel_dropout if i == last else 0.0,
            )
            self.add(f"block{i + 1}", block)
        hidden = MLPLayer(
            self.units,
            self.hidden_activation or self.activation,
            self.dropout,
            norm=self.hidden_norm,
        )
        self.add("hidden", hidden)
        self.add("head", dense_head(self.outputs, self.task_heads))
