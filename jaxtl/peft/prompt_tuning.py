"""Trained tokens (prompt tuning) and trained keys and values (prefix tuning)."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree, Tokens
from jaxtl.peft import base


def prepend(tokens: Tokens, prompt: jax.Array) -> Tokens:
    """Puts virtual tokens in front of every text's (or image's).

    Args:
      tokens: (batch, length, width).
      prompt: (virtual, width).

    Returns:
      Tokens of virtual + length, the first ones real.

    References:
      Lester, Al-Rfou, Constant, The Power of Scale for Parameter-Efficient Prompt
      Tuning, EMNLP 2021, §2.
      Jia et al., Visual Prompt Tuning, ECCV 2022, eq. 4 (VPT-shallow).
    """
    states, mask = tokens
    shape = (states.shape[0], *prompt.shape)
    ahead = jnp.broadcast_to(prompt.astype(states.dtype), shape)
    real = jnp.ones(shape[:2], bool)
    return Tokens(jnp.concatenate([ahead, states], 1), jnp.concatenate([real, mask], 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTuning(base.Reparametrization):
    """Virtual tokens among what a transformer's layers read.

    They stand in front of the embedded tokens (positions already added) and are taken
    away again after the last layer. In between, features hold them as well.

    Attributes:
      select: the stage whose output they are put in front of.
      length: number of virtual tokens.
    """

    select: str = "embeddings"
    length: int = 10

    @property
    def deployable(self) -> bool:
        return False

    def check(self, network: Network, params: PyTree) -> None:
        if self.length < 1:
            raise UserError(f"peft.length={self.length!r}: expected 1 or more.")
        layers = [s for s in network.stages if re.fullmatch(base.LAYER, s)]
        if not layers:
            raise UserError(
                "peft: PromptTuning puts tokens before a transformer's layers "
                "(stages layer_0, layer_1, …); this model has none (stages: "
                f"{', '.join(network.stages)})."
            )
        before = network.stages[: network.stages.index(layers[-1])]
        found = [s for s in before if selections.matches(self.select, s)]
        if len(found) != 1:
            raise UserError(
                f"peft.select={self.select!r} should match one stage before the last "
                f"layer and matches {found or 'none'}{nearest(self.select, before)} "
                f"(stages: {', '.join(before)})."
            )

    def adapted_mask(self, params: PyTree) -> PyTree:
        return trees.map_with_path(lambda path, _: False, params)

    def init(self, key, params, features=None) -> PyTree:
        stage = next((s for s in params if selections.matches(self.select, s)), None)
        if stage is None:
            raise UserError(f"peft.select={self.select!r} matches no stage.")
        shape = (self.length, base.stage_width(stage, params, features))
        return {stage: {"prompt": 0.02 * jax.random.normal(key, shape)}}

    def merge(self, base_params: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        return base.add_leaves(base_params, delta)

    def network(self, network: Network) -> Network:
        return base.with_changed_features(network, _prompted)


def _prompted(params: PyTree) -> dict:
    """Returns what is done with the outputs of stages: tokens put in, and taken out."""
    changes = {}
    for stage, own in params.items():
        if "prompt" not in own:
            continue
        prompt, number = own["prompt"], len(own["prompt"])
        last = max(filter(_number, params), key=_number, default=stage)
        changes[stage] = functools.partial(prepend, prompt=prompt)
        changes[last] = functools.partial(_without, number=number)
    return changes


def _without(tokens: Tokens, number: int) -> Tokens:
    """Takes the first tokens away."""
    return Tokens(tokens.states[:, number:], tokens.mask[:, number:])


def _number(stage: str) -> int:
    """Returns the number of a layer from 1, 0 for other stages."""
    layer = re.fullmatch(base.LAYER, stage)
    return int(stage.removeprefix("layer_")) + 1 if layer else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixTuning(base.Reparametrization):
    """Trained keys and values in front of each layer's, seen by every query.

    They are the attention's own, after any rotation by position, and real tokens keep
    their positions. The network reads them itself (`blocks.Attention`), with a cache
    too, so generation works.

    Attributes:
      select: the attention modules, or stages that hold them.
      length: number of keys (and values) per layer.

    References:
      Li & Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation,
      ACL 2021, eq. 3; trained directly, without the network of §4.3.
    """

    select: str = base.LAYER
    length: int = 10

    @property
    def deployable(self) -> bool:
        return False

    def check(self, network: Network, params: PyTree) -> None:
        if self.length < 1:
            raise UserError(f"peft.length={self.length!r}: expected 1 or more.")
        self.attentions(params)

    def attentions(self, params: PyTree) -> dict[str, int]:
        """Returns {path of an attention module: width of its keys}."""
        found = {}
        for path, leaf in trees.flatten(params).items():
            module, _, part = path.removesuffix("/kernel").rpartition("/")
            chosen = path.endswith("/kernel") and selections.matches(self.select, path)
            if chosen and part in ("key", "qkv") and module.endswith("attention"):
                found[module] = leaf.shape[-1] // (3 if part == "qkv" else 1)
        if not found:
            raise UserError(
                f"peft.select={self.select!r}: PrefixTuning gives keys and values to "
                "attention, and nothing that it covers is one (stages: "
                f"{', '.join(params)})."
            )
        return found

    def adapted_mask(self, params: PyTree) -> PyTree:
        return trees.map_with_path(lambda path, _: False, params)

    def init(self, key, params, features=None) -> PyTree:
        found, fresh = self.attentions(params), {}
        keys = jax.random.split(key, (len(found), 2))
        for pair, (module, width) in zip(keys, found.items()):
            for k, name in zip(pair, ("prefix_key", "prefix_value")):
                value = 0.02 * jax.random.normal(k, (self.length, width))
                fresh[f"{module}/{name}"] = value
        return trees.nested(fresh)

    def merge(self, base_params: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        return base.add_leaves(base_params, delta)
