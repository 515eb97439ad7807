"""Heads that several model families share: maps to the outputs."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.models import weight_layout
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.staged import Dropout, Mode


class DenseHead(nn.Module):
    """An affine map of the flattened input; the loss applies the output activation.

    Attributes:
      outputs: width.
      kernel_init: initializer of the kernel.
    """

    outputs: int
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        return Dense(self.outputs, kernel_init=self.kernel_init, name="dense")(x)


class PooledHead(nn.Module):
    """Global pooling, dropout and an affine map.

    Attributes:
      outputs: width.
      dropout: rate after the pooling.
      pool: (batch, height, width, channels) to (batch, channels).
    """

    outputs: int
    dropout: float = 0.0
    pool: Callable[[jax.Array], jax.Array] = global_average_pool

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        x = Dropout(self.dropout, name="dropout")(self.pool(x), mode)
        return Dense(self.outputs, name="dense")(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskHeads:
    """A head of two layers for each of several tasks, in place of an affine map.

    W₂ᵏ·dropout(σ(W₁ᵏ·h + b₁ᵏ)) + b₂ᵏ for task k, where h are the flattened outputs of
    the stage before; the results of all tasks stand side by side.

    Attributes:
      outputs: number of outputs of each task, in the order of the data's tasks.
      units: width of the hidden layer of each head.
      activation: σ by name.
      dropout: rate after the hidden layer.

    References:
      Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018:
      on MultiMNIST (50 units, dropout 0.5 in the program of the authors).
    """

    outputs: tuple[int, ...]
    units: int
    activation: str = "relu"
    dropout: float = 0.0

    def module(self, outputs: int | None) -> nn.Module:
        """Builds the stage `head`.

        Args:
          outputs: width of all tasks together, as the data have it.

        Returns:
          The module, (batch, ...) to (batch, outputs).

        Raises:
          UserError: `self.outputs` do not add up to `outputs`.
        """
        if sum(self.outputs) != outputs:
            raise UserError(
                f"model.task_heads.outputs={self.outputs} add up to "
                f"{sum(self.outputs)}, but the model has {outputs} outputs; give "
                "the number of outputs of each task."
            )
        return _TaskHeadsModule(self)


class _TaskHeadsModule(nn.Module):
    """`task1/hidden, task1/output, task2/hidden, …` of `TaskHeads`."""

    config: TaskHeads

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        parts = [
            _TaskHead(self.config, outputs, name=f"task{i + 1}")(x, mode)
            for i, outputs in enumerate(self.config.outputs)
        ]
        return jnp.concatenate(parts, axis=-1)


class _TaskHead(nn.Module):
    """The two layers of one task."""

    config: TaskHeads
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        x = Dense(self.config.units, name="hidden")(x)
        x = activation(self.config.activation)(x)
        x = Dropout(self.config.dropout, name="dropout")(x, mode)
        return Dense(self.outputs, name="output")(x)


def dense_head(outputs: int | None, heads: TaskHeads | None) -> nn.Module:
    """The last stage: one affine map, or the heads of the tasks where given."""
    return DenseHead(outputs) if heads is None else heads.module(outputs)


def dense_head_rules(heads: TaskHeads | None) -> list[weight_layout.Rule]:
    """The rules of a layout for `dense_head`."""
    if heads is None:
        return weight_layout.linear("head", "head/dense")
    return [
        rule
        for i in range(len(heads.outputs))
        for layer in ("hidden", "output")
        for rule in weight_layout.linear(
            f"head.task{i + 1}.{layer}", f"head/task{i + 1}/{layer}"
        )
    ]
