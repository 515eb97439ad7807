"""Two models side by side, one of images and one of texts, with embeddings as outputs.

References:
  Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
  ICML 2021; Zhai et al., LiT: Zero-Shot Transfer with Locked-image Text Tuning, CVPR
  2022.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import Network, Output, PyTree
from jaxtl.models.layers.sequences import unit_length
from jaxtl.models.staged import Staged, stage_range

IMAGE_TOWER, TEXT_TOWER, HEAD = "image_", "text_", "head"
_IMAGE = "image"  # the input of the image tower; all others are the text tower's


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowers:
    """A model of images beside one of texts; their outputs are scaled to length 1.

    `TwoTowers(image=tl.models.ViT(…), text=tl.models.Bert(…), width=512)`: the heads of
    the towers map to a common space. Stages are `image_…` and `text_…`, those of the
    towers, and `head`, which holds the logarithm of the logits' scale, and their bias.
    Inputs are {"image", "input_ids", "attention_mask"}; the output is a dict of
    "image_embeddings" and "text_embeddings", (batch, width), "logit_scale" and
    "logit_bias". A locked image tower is `groups={"image_.*": FROZEN, ".*": 1.0}`.

    Attributes:
      image: a model of images, or a `Network`.
      text: a model of texts, or a `Network`.
      width: of the embeddings; a tower that names `outputs` must have as many.
      temperature: its inverse is the scale at the start.
      bias: of the logits at the start, trained with the scale; None for none, which is
        0. (SigLIP: temperature 0.1 and bias −10.)
      outputs: always None; a pair has its embeddings.
    """

    image: Any
    text: Any
    width: int = 512
    temperature: float = 0.07
    bias: float | None = None
    outputs: int | None = None

    predict = "pair"
    # How one tower alone becomes a model, for data that are no pairs; "" for no advice.
    alone = ""

    def __post_init__(self):
        object.__setattr__(self, "outputs", None)  # data of pairs have 0
        for name in ("image", "text"):
            tower = getattr(self, name)
            if not isinstance(tower, Network) and not hasattr(tower, "pure"):
                raise UserError(
                    f"TwoTowers.{name}={tower!r}: expected one of tl.models, or a "
                    "tl.Network."
                )
            outputs = getattr(tower, "outputs", None)
            if outputs not in (None, self.width):
                raise UserError(
                    f"TwoTowers.{name}.outputs={outputs}, but width={self.width}: both "
                    "towers map to embeddings of this width; leave outputs out."
                )
        if not self.temperature > 0:
            raise UserError(
                f"TwoTowers.temperature={self.temperature!r}: expected a number above "
                "0."
            )

    @property
    def pair_loss(self) -> str:
        """The loss that a task of pairs has by default: "sigmoid" with a bias."""
        return "softmax" if self.bias is None else "sigmoid"

    @property
    def size(self) -> int | None:
        """Side of the images, where the image tower names one."""
        return getattr(self.image, "size", None)

    def pure(self) -> Network:
        """The model as a pair of pure functions; equal models share one `Network`."""
        return _network_of(self)

    def towers(self) -> tuple[Network, Network]:
        """The networks of the image tower and of the text tower."""
        image, text = (_tower(tower, self.width) for tower in (self.image, self.text))
        return image, text

    def encode_image(
        self, params: PyTree, images: jax.Array, stats: PyTree = None
    ) -> jax.Array:
        """Computes the embeddings of preprocessed images.

        Args:
          params: of the whole model.
          images: (batch, height, width, channels).
          stats: of the whole model, where the tower has BatchNorm.

        Returns:
          (batch, width) float32 (or wider), each of length 1.
        """
        tower = self.towers()[0]
        out = tower.apply(
            *parts_of_tower(IMAGE_TOWER, tower, params, stats or {}), images
        )
        return unit_norm(out.logits)

    def encode_text(
        self, params: PyTree, tokens: Mapping[str, jax.Array], stats: PyTree = None
    ) -> jax.Array:
        """Computes the embeddings of texts.

        Args:
          params: of the whole model.
          tokens: {"input_ids": (batch, length), "attention_mask": (batch, length)}.
          stats: of the whole model, where the tower has BatchNorm.

        Returns:
          (batch, width) float32 (or wider), each of length 1.
        """
        tower = self.towers()[1]
        out = tower.apply(
            *parts_of_tower(TEXT_TOWER, tower, params, stats or {}), tokens
        )
        return unit_norm(out.logits)

    def logit_scale(self, params: PyTree) -> jax.Array:
        """The factor of cosine similarities, 1 / temperature.

        Args:
          params: of the whole model, which hold its logarithm.

        Returns:
          exp(log_scale), a scalar, float32 or wider.
        """
        return jnp.exp(as_float32(params[HEAD]["log_scale"]))

    def logit_bias(self, params: PyTree) -> jax.Array:
        """What is added to scaled similarities, for the sigmoid loss.

        Args:
          params: of the whole model.

        Returns:
          A scalar, float32 or wider; 0 for a model without bias.
        """
        return as_float32(params[HEAD].get("bias", 0.0))

    def check_kind(self, shape: Any, owner: str) -> None:
        """Raises UserError for examples that are not images with texts.

        Args:
          shape: {input: shape} of one example, "image" among them.
          owner: whose examples they are, "data=CSV".
        """
        if not isinstance(shape, Mapping) or _IMAGE not in shape or len(shape) < 2:
            received = ", ".join(shape) if isinstance(shape, Mapping) else f"{shape}"
            raise UserError(
                f"model={type(self).__name__} reads images with texts, but an example "
                f"of {owner} is {received}; data=tl.data.ImageText gives pairs"
                f"{self.alone and f', {self.alone}'}."
            )
        image, text = self.image, self.text
        if isinstance(image, Staged):
            image.check_kind(shape[_IMAGE], f"{owner}'s images")
        if isinstance(text, Staged):
            text.check_kind(_without_image(shape), f"{owner}'s texts")

    def check_inputs(self, x: Any, owner: str) -> None:
        """Raises UserError for token ids that the text tower has no vector for.

        Args:
          x: {input: (n, ...)}; what is traced is passed over.
          owner: whose inputs they are, for the message.
        """
        if isinstance(self.text, Staged):
            self.text.check_inputs(_without_image(x), owner)

    def id_sizes(self) -> dict[str, int]:
        """Integer input -> number of the values that the text tower has rows for."""
        return self.text.id_sizes() if isinstance(self.text, Staged) else {}


def unit_norm(x: jax.Array) -> jax.Array:
    """Scales vectors to length 1, float32 or wider; a vector of zeros stays."""
    return unit_length(as_float32(x))


def _without_image(x: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in x.items() if name != _IMAGE}


def _tower(tower: Any, width: int) -> Network:
    """The network of a tower, with `width` outputs."""
    if isinstance(tower, Network):
        return tower
    return dataclasses.replace(tower, outputs=width).pure()


def parts_of_tower(
    prefix: str, tower: Network, params: PyTree, stats: PyTree
) -> tuple[PyTree, PyTree]:
    """A tower's parameters and statistics, of those of the pair."""
    return tuple(
        {s: tree[prefix + s] for s in tower.stages if prefix + s in tree}
        for tree in (params, stats)
    )


def prefixed(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to a tower's stages, by the pair's names of them."""
    return {prefix + name: value for name, value in tree.items()}


@functools.cache
def _network_of(model: TwoTowers) -> Network:
    image, text = model.towers()
    names = [*prefixed(IMAGE_TOWER, dict.fromkeys(image.stages))]
    names += [*prefixed(TEXT_TOWER, dict.fromkeys(text.stages)), HEAD]
    stages = tuple(names)

    def init(key: jax.Array, x: Any) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key)
        of_image = image.init(keys[0], x[_IMAGE])
        of_text = text.init(keys[1], _without_image(x))
        head = {"log_scale": jnp.float32(-math.log(model.temperature))}
        if model.bias is not None:
            head["bias"] = jnp.float32(model.bias)
        params, stats = (
            {**prefixed(IMAGE_TOWER, a), **prefixed(TEXT_TOWER, b)}
            for a, b in zip(of_image, of_text)
        )
        return {**params, HEAD: head}, stats

    def apply(params, stats, x, *, key=None, start=None, stop=None, **modes) -> Output:
        run = stage_range(stages, start, stop)
        if start is not None and start != stages[0]:
            raise UserError(f"start={start!r}: {_NO_START}.")
        out, features, new = None, {}, dict(stats)
        inputs = (x[_IMAGE], _without_image(x))
        for i, (prefix, tower) in enumerate(
            zip((IMAGE_TOWER, TEXT_TOWER), (image, text))
        ):
            if not any(name.startswith(prefix) for name in run if name != HEAD):
                break
            settings = modes_of_tower(prefix, modes)
            if stop is not None and stop.startswith(prefix) and stop != HEAD:
                settings["stop"] = stop.removeprefix(prefix)
            tower_key = None if key is None else jax.random.fold_in(key, i)
            parts = parts_of_tower(prefix, tower, params, stats)
            out = tower.apply(*parts, inputs[i], key=tower_key, **settings)
            features |= prefixed(prefix, out.features)
            new |= prefixed(prefix, out.stats)
        if run[-1] != HEAD:
            return Output(out.logits, features, new)
        pair = {
            "image_embeddings": unit_norm(features[IMAGE_TOWER + image.stages[-1]]),
            "text_embeddings": unit_norm(features[TEXT_TOWER + text.stages[-1]]),
            "logit_scale": model.logit_scale(params),
            "logit_bias": model.logit_bias(params),
        }
        return Output(pair, {**features, HEAD: pair}, new)

    return Network(stages, init, apply, can_start=False, no_start=_NO_START)


_NO_START = (
    "two towers stand side by side, so no stage has the input of all that follow"
)


def modes_of_tower(prefix: str, modes: Mapping[str, Any]) -> dict[str, Any]:
    """`train` and `frozen_stats` of `Network.apply`, those of a tower.

    Args:
      prefix: of the tower's stages.
      modes: the settings that hold them, where they do.
    """
    return {
        field: tuple(
            name.removeprefix(prefix)
            for name in modes[field]
            if name.startswith(prefix)
        )
        for field in ("train", "frozen_stats")
        if field in modes
    }
