"""Bottleneck adapters after stages."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree, Tokens
from jaxtl.models.staged import activation
from jaxtl.peft import base


def bottleneck(x: jax.Array, own: PyTree, act: Callable) -> jax.Array:
    """x + up(σ(down(x))), along the last axis; of images a pair of 1×1 convolutions.

    Args:
      x: (…, width).
      own: {"down": {"kernel" (width, inner), "bias" (inner,)},
        "up": {"kernel" (inner, width), "bias" (width,)}}.
      act: σ.

    References:
      Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019, §2.1.
      Pfeiffer et al., AdapterFusion, EACL 2021: one adapter per layer, at its end.
    """
    own = jax.tree.map(lambda w: w.astype(x.dtype), own)
    inner = act(x @ own["down"]["kernel"] + own["down"]["bias"])
    return x + inner @ own["up"]["kernel"] + own["up"]["bias"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters(base.Reparametrization):
    """A bottleneck with a residual connection after each selected stage.

    The second map starts at 0, so the model starts as it is without adapters.

    Attributes:
      select: the stages, whole names ("layer_\\d+", "stage[34]").
      width: of the bottleneck.
      activation: by name.
    """

    select: str = base.LAYER
    width: int = 64
    activation: str = "relu"

    @property
    def deployable(self) -> bool:
        return False

    def check(self, network: Network, params: PyTree) -> None:
        activation(self.activation)
        if self.width < 1:
            raise UserError(f"peft.width={self.width!r}: expected 1 or more.")
        head = network.stages[-1]
        stages = self.stages(network.stages)
        if head in stages:
            raise UserError(
                f"peft.select={self.select!r} covers the stage {head!r}: an adapter "
                "stands after a stage that another one reads; train the head itself."
            )

    def stages(self, known: tuple[str, ...]) -> list[str]:
        """Returns the selected ones of these stages."""
        found = [s for s in known if selections.matches(self.select, s)]
        if not found:
            raise UserError(
                f"peft.select={self.select!r} matches no stage"
                f"{nearest(self.select, known)} (stages: {', '.join(known)})."
            )
        return found

    def adapted_mask(self, params: PyTree) -> PyTree:
        return trees.map_with_path(lambda path, _: False, params)

    def init(self, key, params, features=None) -> PyTree:
        # A tree knows no order; stages without parameters are in the features alone.
        stages = self.stages(tuple(features or params))
        keys = jax.random.split(key, len(stages))
        return {
            stage: {
                "adapter": _fresh(k, base.stage_width(stage, params, features), self)
            }
            for k, stage in zip(keys, stages)
        }

    def merge(self, base_params: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        return base.add_leaves(base_params, delta)

    def network(self, network: Network) -> Network:
        return base.with_changed_features(network, _changes(self.activation))


def _fresh(key, width: int, adapters: Adapters) -> dict[str, Any]:
    inner = adapters.width
    kernel = jax.random.normal(key, (width, inner)) / math.sqrt(width)
    return {
        "down": {"kernel": kernel, "bias": jnp.zeros(inner)},
        "up": {"kernel": jnp.zeros((inner, width)), "bias": jnp.zeros(width)},
    }


@functools.cache
def _changes(name: str) -> Callable:
    act = activation(name)

    def changes(params):
        def of(own):
            def change(x):
                if isinstance(x, Tokens):
                    return Tokens(bottleneck(x.states, own, act), x.mask)
                return bottleneck(x, own, act)

            return change

        return {s: of(own["adapter"]) for s, own in params.items() if "adapter" in own}

    return changes
