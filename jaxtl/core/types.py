"""The vocabulary of every room: networks, outputs, sources and the tree types."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core.tensor_rules import TensorRules
from jaxtl.core.tree import as_float32

PyTree = Any
Batch = Mapping[str, PyTree]


class _Frozen:
    """The group that never moves: parameters, BatchNorm statistics, dropout."""

    def __repr__(self):
        return "FROZEN"

    def __reduce__(self):
        return "FROZEN"


FROZEN = _Frozen()


class Tokens(NamedTuple):
    """The output of a stage of a sequence model: states together with their mask.

    Attributes:
      states: (batch, length, width).
      mask: (batch, length) bools, True for real tokens.
    """

    states: jax.Array
    mask: jax.Array


def vectors(feature: Any) -> jax.Array:
    """A stage's output as one vector per example, float32 or wider.

    (batch, width): tokens are averaged over the real ones, other arrays flattened.
    """
    if isinstance(feature, Tokens):
        states = as_float32(feature.states)
        mask = feature.mask[..., None].astype(states.dtype)
        return (states * mask).sum(1) / jnp.maximum(mask.sum(1), 1.0)
    return as_float32(feature.reshape(feature.shape[0], -1))


class Output(NamedTuple):
    """The result of a forward pass.

    Attributes:
      logits: the last stage's output, (batch, outputs) after the head, before any
        output activation; with `stop=` the output of that stage.
      features: stage name -> that stage's output (array or Tokens), for each stage
        that ran.
      stats: the model's non-learned state after the pass (BatchNorm statistics).
    """

    logits: Any
    features: dict[str, jax.Array]
    stats: PyTree


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as every other room uses it: its stages and two pure functions.

    Attributes:
      stages: stage names in order; `params[stage]` is a stage's subtree and the
        last stage is the head.
      init: `(key, x) -> (params, stats)`; `x` is one batch of inputs.
      apply: `(params, stats, x, *, train=(), frozen_stats=(), key=None, start=None,
        stop=None) -> Output`. `train` names the stages in training mode (dropout
        on, batch statistics used and updated); `frozen_stats` names modules, as paths
        `stage/.../bn`, that keep their statistics although their stage trains;
        `start`/`stop` run from the input of one stage to the output of another.
      reduce: what the head does first without parameters or randomness (averaging a
        feature map, say), as a function of its input; the head takes what has been
        reduced as well. None where there is no such part.
      taps: `(params, stats, x, nudges, *, stop=None) -> (Output, inputs)`, a pass in
        evaluation mode that shows the dense layers from within: `inputs` maps a
        layer's path to what it reads, (batch, ..., in), and `nudges` maps paths to
        what is added to its output, so that the gradient by a nudge is that by the
        output. None where the layers can't be seen. Whoever replaces `apply` by
        another function replaces `taps` too, or sets it to None.
      can_start: whether `apply` takes `start` and `stop`.
      no_start: why it does not, "" where that is not known.
      specialize: `x -> Network`, the same network with what only an example of its
        inputs tells (whether it can start at a stage); equal shapes give the same
        object. None where there is nothing to learn.
      weights: `() -> (params, stats)`, those that the module came with; None without.
      tensor_rules: how layers are split over devices; None where they can't be.
    """

    stages: tuple[str, ...]
    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., Output]
    reduce: Callable[[Any], Any] | None = None
    taps: Callable[..., tuple[Output, dict[str, jax.Array]]] | None = None
    can_start: bool = True
    no_start: str = ""
    specialize: "Callable[[PyTree], Network] | None" = None
    weights: Callable[[], tuple[PyTree, PyTree]] | None = None
    tensor_rules: TensorRules | None = None

    def for_inputs(self, x: PyTree) -> "Network":
        """Adapts the network to an example of its inputs (see `specialize`).

        Args:
          x: one batch of inputs; only shapes and dtypes are read.

        Returns:
          The specialized network; this one where there is nothing to learn from inputs.
        """
        return self.specialize(x) if self.specialize else self


@dataclasses.dataclass(frozen=True)
class Source:
    """The pre-trained model θ₀. Immutable, passed to the step as an argument.

    Attributes:
      params: the source's parameters in the shape of the model's tree, `None` where
        a leaf has no source (a re-initialized head).
      stats: its batch statistics, likewise.
      head: its own head's parameters, kept even when the model got a new one
        (None when there is none).
    """

    params: PyTree = None
    stats: PyTree = None
    head: PyTree = None


jax.tree_util.register_dataclass(Source, ["params", "stats", "head"], [])
