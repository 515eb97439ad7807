"""Bottleneck adapters after stages."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree, Tokens
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.dense import affine
from jaxtl.peft import base


def _bottleneck(x: jax.Array, weights: PyTree, act: Callable) -> jax.Array:
    """x + up(σ(down(x))), along the last axis; on images a pair of 1×1 convolutions.

    Args:
      x: (…, width).
      weights: {"down": {"kernel" (width, inner), "bias" (inner,)},
        "up": {"kernel" (inner, width), "bias" (width,)}}.
      act: σ.

    References:
      Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019, §2.1.
      Pfeiffer et al., AdapterFusion, EACL 2021: one adapter per layer, at its end.
    """
    weights = jax.tree.map(lambda w: w.astype(x.dtype), weights)
    inner = act(affine(x, **weights["down"]))
    return x + affine(inner, **weights["up"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters(base.AddedLeaves):
    """A bottleneck with a residual connection after each selected stage.

    The second map starts at 0, so the initial model is the one without adapters.

    Attributes:
      select: the stages, whole names ("layer_\\d+", "stage[34]").
      width: of the bottleneck.
      activation: by name.
    """

    select: str = base.LAYER
    width: int = 64
    activation: str = "relu"

    def check(self, network: Network, params: PyTree) -> None:
        activation(self.activation)
        if self.width < 1:
            raise UserError(f"peft.width={self.width!r}: expected 1 or more.")
        if not network.can_start:
            raise UserError(
                "peft=Adapters stand between stages, and this model can't start at one"
                f"{network.no_start and f': {network.no_start}'}; use peft=LoRA."
            )
        head = network.stages[-1]
        if head in self.stages(network.stages):
            raise UserError(
                f"peft.select={self.select!r} covers the stage {head!r}: an adapter "
                "needs a stage after it; train the head itself."
            )

    def stages(self, stages: tuple[str, ...]) -> list[str]:
        """The stages that get an adapter.

        Args:
          stages: the model's, the head last.

        Returns:
          Those that `select` covers by their whole names, in the model's order.

        Raises:
          UserError: `select` matches none.
        """
        selected = [stage for stage in stages if selections.matches(self.select, stage)]
        if not selected:
            raise UserError(
                f"peft.select={self.select!r} matches no stage"
                f"{nearest(self.select, stages)} (stages: {', '.join(stages)})."
            )
        return selected

    def init(
        self, key: jax.Array, params: PyTree, features: Mapping[str, Any] | None = None
    ) -> PyTree:
        # A tree has no order, and stages without parameters are in the features alone.
        stages = self.stages(tuple(features or params))
        keys = jax.random.split(key, len(stages))
        widths = [base.stage_width(stage, params, features) for stage in stages]
        return {
            stage: {"adapter": _init_bottleneck(stage_key, width, self.width)}
            for stage_key, stage, width in zip(keys, stages, widths)
        }

    def network(self, network: Network) -> Network:
        return base.with_changed_features(network, _changes(self.activation))


def _init_bottleneck(key: jax.Array, width: int, inner: int) -> dict[str, Any]:
    kernel = jax.random.normal(key, (width, inner)) / math.sqrt(width)
    return {
        "down": {"kernel": kernel, "bias": jnp.zeros(inner)},
        "up": {"kernel": jnp.zeros((inner, width)), "bias": jnp.zeros(width)},
    }


@functools.cache
def _changes(activation_name: str) -> Callable[[PyTree], dict[str, Callable]]:
    """params -> {stage: the adapter behind it}, the same function for equal names."""
    act = activation(activation_name)

    def adapter(weights: PyTree, feature: Tokens | jax.Array) -> Tokens | jax.Array:
        if isinstance(feature, Tokens):
            return Tokens(_bottleneck(feature.states, weights, act), feature.mask)
        return _bottleneck(feature, weights, act)

    def changes(params: PyTree) -> dict[str, Callable]:
        return {
            stage: functools.partial(adapter, subtree["adapter"])
            for stage, subtree in params.items()
            if "adapter" in subtree
        }

    return changes
