"""The multilayer perceptron, staged by layer."""

import flax.linen as nn

from jaxtl.models import staged


class MLPLayer(nn.Module):
    """h⁽ˡ⁾ = σ(W⁽ˡ⁾ h⁽ˡ⁻¹⁾ + b⁽ˡ⁾), then dropout."""

    width: int
    activation: str
    dropout: float

    @nn.compact
    def __call__(self, x, mode):
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(self.width, name="dense")(x)
        x = staged.activation(self.activation)(x)
        return staged.Dropout(self.dropout, name="dropout")(x, mode)


class DenseHead(nn.Module):
    """An affine map to the outputs; the task's loss applies the output activation."""

    outputs: int

    @nn.compact
    def __call__(self, x, mode):
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.outputs, name="dense")(x)


class MLP(staged.Staged):
    """An L-layer perceptron: stages `layer1 … layerL, head`.

    Attributes:
      widths: units of each hidden layer.
      activation: σ by name ("relu", "gelu", "tanh", "sigmoid", …).
      dropout: rate after each hidden layer.
    """

    widths: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    dropout: float = 0.0

    @property
    def stages(self):
        return (*(f"layer{i + 1}" for i in range(len(self.widths))), "head")

    def setup(self):
        for name, width in zip(self.stages, self.widths):
            self.add(name, MLPLayer(width, self.activation, self.dropout))
        self.add("head", DenseHead(self.outputs))
