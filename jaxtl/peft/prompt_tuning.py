"""Trained tokens (prompt tuning) and trained keys and values (prefix tuning)."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree, Tokens
from jaxtl.models.layers.dense import broadcast
from jaxtl.peft import base


def _prepend(tokens: Tokens, prompt: jax.Array) -> Tokens:
    """Puts virtual tokens in front of those of every text (or image).

    Args:
      tokens: (batch, length, width), or (batch, choices, length, width).
      prompt: (virtual, width).

    Returns:
      Tokens of virtual + length, of which the virtual ones count as real.

    References:
      Lester, Al-Rfou, Constant, The Power of Scale for Parameter-Efficient Prompt
      Tuning, EMNLP 2021, §2.
      Jia et al., Visual Prompt Tuning, ECCV 2022, eq. 4 (VPT-shallow).
    """
    states, mask = tokens
    shape = (*states.shape[:-2], *prompt.shape)
    virtual = broadcast(prompt.astype(states.dtype), shape)
    real = jnp.ones(shape[:-1], bool)
    return Tokens(
        jnp.concatenate([virtual, states], -2), jnp.concatenate([real, mask], -1)
    )


def _without_prompt(tokens: Tokens, number: int) -> Tokens:
    """Removes the first tokens."""
    return Tokens(tokens.states[..., number:, :], tokens.mask[..., number:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTuning(base.AddedLeaves):
    """Virtual tokens in the input of a transformer's layers.

    They precede the embedded tokens (whose positions are already added) and are removed
    after the last layer. In between, features contain them as well.

    Attributes:
      select: the stage whose output they precede.
      length: number of virtual tokens.
    """

    select: str = "embeddings"
    length: int = 10

    def check(self, network: Network, params: PyTree) -> None:
        if self.length < 1:
            raise UserError(f"peft.length={self.length!r}: expected 1 or more.")
        layers = [stage for stage in network.stages if _layer_number(stage)]
        if not layers:
            raise UserError(
                "peft: PromptTuning puts tokens before a transformer's layers "
                "(stages layer_0, layer_1, …); this model has none (stages: "
                f"{', '.join(network.stages)})."
            )
        before = network.stages[: network.stages.index(layers[-1])]
        selected = [stage for stage in before if selections.matches(self.select, stage)]
        if len(selected) != 1:
            raise UserError(
                f"peft.select={self.select!r} should match one stage before the last "
                f"layer and matches {selected or 'none'}"
                f"{nearest(self.select, before)} (stages: {', '.join(before)})."
            )

    def init(
        self, key: jax.Array, params: PyTree, features: Mapping[str, Any] | None = None
    ) -> PyTree:
        stage = next((s for s in params if selections.matches(self.select, s)), None)
        if stage is None:
            raise UserError(f"peft.select={self.select!r} matches no stage.")
        shape = (self.length, base.stage_width(stage, params, features))
        return {stage: {"prompt": 0.02 * jax.random.normal(key, shape)}}

    def network(self, network: Network) -> Network:
        return base.with_changed_features(network, _prompt_changes(network.stages))


@functools.cache
def _prompt_changes(stages: tuple[str, ...]) -> Callable[[PyTree], dict[str, Callable]]:
    """params -> {stage: change of its output}, the same function for equal stages.

    The prompt is put in, and removed behind the last layer, which may have no
    parameters of its own.
    """

    def changes(params: PyTree) -> dict[str, Callable[[Tokens], Tokens]]:
        change_of = {}
        for stage, stage_params in params.items():
            if "prompt" not in stage_params:
                continue
            prompt = stage_params["prompt"]
            last = max(filter(_layer_number, stages), key=_layer_number, default=stage)
            change_of[stage] = functools.partial(_prepend, prompt=prompt)
            change_of[last] = functools.partial(_without_prompt, number=len(prompt))
        return change_of

    return changes


def _layer_number(stage: str) -> int:
    """The number of a transformer's layer, counted from 1; 0 for other stages."""
    layer = re.fullmatch(base.LAYER, stage)
    return int(stage.removeprefix("layer_")) + 1 if layer else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixTuning(base.AddedLeaves):
    """Trained keys and values in front of each layer's, to which every query attends.

    They are read after any rotation by position, and real tokens keep their positions.
    The network reads them itself (`layers.attention.Attention`), with a cache too, so
    generation works.

    Attributes:
      select: the attention modules, or stages that contain them.
      length: number of keys (and values) per layer.

    References:
      Li & Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation,
      ACL 2021, eq. 3; trained directly, without the network of §4.3.
    """

    select: str = base.LAYER
    length: int = 10

    def check(self, network: Network, params: PyTree) -> None:
        if self.length < 1:
            raise UserError(f"peft.length={self.length!r}: expected 1 or more.")
        self._key_widths(params)

    def _key_widths(self, params: PyTree) -> dict[str, int]:
        """{path of a selected attention module: width of its keys}.

        Raises:
          UserError: `select` covers no attention module.
        """
        widths, leaves = {}, trees.flatten(params)
        for path, leaf in leaves.items():
            module, _, part = path.removesuffix("/kernel").rpartition("/")
            selected = path.endswith("/kernel") and selections.matches(
                self.select, path
            )
            if selected and part in ("key", "qkv") and module.endswith("attention"):
                width = leaf.shape[-1]
                if part == "qkv":  # besides as many queries as `out` has inputs
                    width = (width - leaves[f"{module}/out/kernel"].shape[0]) // 2
                widths[module] = width
        if not widths:
            raise UserError(
                f"peft.select={self.select!r}: PrefixTuning gives keys and values to "
                "attention, and nothing that it covers is attention (stages: "
                f"{', '.join(params)})."
            )
        return widths

    def init(
        self, key: jax.Array, params: PyTree, features: Mapping[str, Any] | None = None
    ) -> PyTree:
        widths, delta = self._key_widths(params), {}
        keys = jax.random.split(key, (len(widths), 2))
        for pair, (module, width) in zip(keys, widths.items()):
            for k, name in zip(pair, ("prefix_key", "prefix_value")):
                values = 0.02 * jax.random.normal(k, (self.length, width))
                delta[f"{module}/{name}"] = values
        return trees.nested(delta)
