"""A plain convolutional network, staged by block."""

import flax.linen as nn

from jaxtl.models import mlp, staged
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.conv import Conv

_RISING = ("relu", "tanh", "sigmoid", "elu", "identity")


class _CNNBlock(nn.Module):
    """3×3 convolution, optional BatchNorm, activation, optional pooling, dropout."""

    width: int
    kernel: int
    padding: str
    norm: bool
    pool: bool
    activation: str
    dropout: float

    @nn.compact
    def __call__(self, x, mode):
        kernel = (self.kernel, self.kernel)
        bias, padding = not self.norm, self.padding
        x = Conv(self.width, kernel, padding=padding, use_bias=bias, name="conv")(x)
        if self.norm:
            x = batch_norm.BatchNorm(name="bn")(x, mode)
        act = staged.activation(self.activation)
        # A rising activation of the maximum is the maximum of the activations.
        if self.pool and self.activation in _RISING:
            x = act(staged.max_pool(x))
        else:
            x = staged.max_pool(act(x)) if self.pool else act(x)
        return staged.Dropout(self.dropout, name="dropout")(x, mode)


class CNN(staged.Staged):
    """Convolution blocks, one hidden layer and a head: `block1 …, hidden, head`.

    `CNN(widths=(20, 50), kernel=5, padding="VALID", units=500)` on 28 × 28 is the LeNet
    of Caffe's MNIST example, with a ReLU after each convolution.

    Attributes:
      widths: channels of each block.
      units: width of the hidden layer.
      kernel: side of the convolution kernels.
      padding: "SAME", or "VALID": images lose kernel − 1 rows and columns per block.
      pool: how many blocks, counted from the last, end with 2×2 max pooling.
      norm: BatchNorm after each convolution.
      activation: by name.
      dropout: rate after the hidden layer.
    """

    widths: tuple[int, ...] = (32, 64)
    units: int = 128
    kernel: int = 3
    padding: str = "SAME"
    pool: int = 2
    norm: bool = False
    activation: str = "relu"
    dropout: float = 0.0

    @property
    def stages(self):
        return (*(f"block{i + 1}" for i in range(len(self.widths))), "hidden", "head")

    def setup(self):
        for i, width in enumerate(self.widths):
            pooled = i >= len(self.widths) - self.pool
            shape = (width, self.kernel, self.padding)
            block = _CNNBlock(*shape, self.norm, pooled, self.activation, 0.0)
            self.add(f"block{i + 1}", block)
        self.add("hidden", mlp.MLPLayer(self.units, self.activation, self.dropout))
        self.add("head", mlp.DenseHead(self.outputs))
