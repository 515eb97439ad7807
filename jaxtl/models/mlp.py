"""The multilayer perceptron, staged by layer."""

from typing import ClassVar

import flax.linen as nn
import jax

from jaxtl.core import serialization
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.heads import TaskHeads, dense_head, dense_head_rules
from jaxtl.models.weight_layout import COUNTERS, Rule, WeightLayout, linear


class MLPLayer(nn.Module):
    """h⁽ˡ⁾ = σ(W⁽ˡ⁾ h⁽ˡ⁻¹⁾ + b⁽ˡ⁾), then dropout; inputs are flattened.

    With `norm` the affine map is batch-normalized before σ.
    """

    width: int
    activation: str
    dropout: float
    norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        x = Dense(self.width, name="dense")(x)
        if self.norm:
            x = batch_norm.BatchNorm(name="bn")(x, mode)
        x = activation(self.activation)(x)
        return staged.Dropout(self.dropout, name="dropout")(x, mode)


class MLP(staged.Staged):
    """An L-layer perceptron: stages `layer1 … layerL, head`.

    Attributes:
      widths: units of each hidden layer.
      activation: σ by name ("relu", "gelu", "tanh", "sigmoid", …).
      dropout: rate after each hidden layer.
      norm: BatchNorm of each hidden layer, before its activation, as in the bottlenecks
        of the programs for domain adaptation.
      task_heads: two-layer heads of several tasks in place of one affine map, or None.
    """

    READS: ClassVar[str] = "arrays"

    widths: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    dropout: float = 0.0
    norm: bool = serialization.later_field(False)
    task_heads: TaskHeads | None = serialization.later_field(None)

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"layer{i + 1}" for i in range(len(self.widths))), "head")

    def layouts(self) -> dict[str, WeightLayout]:
        """Linear layers in torch's form: layer1.weight (units, inputs), layer1.bias.

        The columns of layer1 are the inputs flattened in jaxtl's order, an image by
        (height, width, channel). With `norm`, layer1.bn.weight, .bias, .running_mean
        and .running_var follow.
        """
        rules: list[Rule] = []
        for name in self.stages[:-1]:
            rules += linear(name, f"{name}/dense")
            if self.norm:
                rules += weight_layout.batch_norm(f"{name}.bn", f"{name}/bn")
        rules += dense_head_rules(self.task_heads)
        counters = (COUNTERS,) if self.norm else ()
        return {"torch": WeightLayout(tuple(rules), counters)}

    def setup(self) -> None:
        for name, width in zip(self.stages, self.widths):
            layer = MLPLayer(width, self.activation, self.dropout, self.norm)
            self.add(name, layer)
        self.add("head", dense_head(self.outputs, self.task_heads))
