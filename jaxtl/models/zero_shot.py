"""Classification of images by prompts: classes are texts that a pair of towers embeds.

References:
  Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
  ICML 2021, section 3.1; Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR
  2022, who train the model further.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import Network, Output, PyTree
from jaxtl.models.staged import Staged, stage_range
from jaxtl.models.two_towers import (
    HEAD,
    IMAGE_TOWER,
    TwoTowers,
    modes_of_tower,
    parts_of_tower,
    prefixed,
    unit_norm,
)

PLACE = "{}"  # of a class's name in a template
_CHUNK = 256  # texts that are embedded at once
# texts -> {"input_ids", "attention_mask"}, as a `Tokenizer`
Tokenize = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotClassifier:
    """The image tower of a pair, and a linear head on its embeddings of length 1.

    Stages are the `image_…` of the pair and `head`. With
    `init=tl.pretrained.FromPrompts(…)` the head's columns are the embeddings of the
    classes' prompts, times the pair's scale, and its bias is the pair's: the logits are
    those of zero-shot classification, which may be trained further.

    Attributes:
      pair: the pair of towers.
      outputs: number of classes; None lets the data decide.
    """

    pair: TwoTowers
    outputs: int | None = None

    predict = "class"

    @property
    def size(self) -> int | None:
        """Side of the images, where the image tower names one."""
        return self.pair.size

    def pure(self) -> Network:
        """The model as a pair of pure functions; equal models share one `Network`."""
        if self.outputs is None:
            raise UserError(
                "ZeroShotClassifier: outputs is not set; give the model a number of "
                "outputs (an experiment takes it from the data)."
            )
        return _network_of(self)

    def check_kind(self, shape: Any, owner: str) -> None:
        """Raises UserError for examples that are not images.

        Args:
          shape: of one example, or {input: shape}.
          owner: whose examples they are, "data=CSV".
        """
        if isinstance(self.pair.image, Staged):
            self.pair.image.check_kind(shape, owner)

    def check_inputs(self, x: Any, owner: str) -> None:
        """Raises UserError for inputs that the image tower can't read.

        Args:
          x: images (n, ...), or a dict of them; what is traced is passed over.
          owner: whose inputs they are, for the message.
        """
        if isinstance(self.pair.image, Staged):
            self.pair.image.check_inputs(x, owner)

    def id_sizes(self) -> dict[str, int]:
        """Integer input -> number of its values; images have none."""
        return {}


def prompts_of(class_name: str, templates: Sequence[str]) -> list[str]:
    """The prompts of a class: each template with the name in the place of {}.

    Raises:
      UserError: no template, or one without {}.
    """
    templates = [templates] if isinstance(templates, str) else list(templates)
    without = [t for t in templates if not isinstance(t, str) or PLACE not in t]
    if without or not templates:
        shown = repr(without[0]) if without else "no template"
        raise UserError(
            f"prompts: {shown} has no place for a class's name; expected texts such as "
            "'a photo of a {}.'."
        )
    return [template.replace(PLACE, class_name) for template in templates]


def class_embeddings(
    pair: TwoTowers,
    params: PyTree,
    tokenize: Tokenize,
    class_names: Sequence[str],
    templates: Sequence[str] = ("a photo of a {}.",),
    stats: PyTree = None,
) -> jax.Array:
    """The embedding of each class: that of its prompts, averaged, of length 1.

    Args:
      pair: the towers.
      params, stats: of the pair.
      tokenize: a `Tokenizer` of the text tower.
      class_names: K names.
      templates: texts with {} in the place of a name.

    Returns:
      (K, width) float32.

    Raises:
      UserError: no class, or a template without {}.
    """
    if not len(class_names):
        raise UserError("prompts need the names of classes; there is none.")
    texts = [p for name in class_names for p in prompts_of(name, templates)]
    encode = jax.jit(pair.encode_text)
    parts = []
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        # Padded by its first text, so that one compiled program serves all chunks.
        width = min(len(texts), _CHUNK)
        tokens = tokenize([*chunk, *chunk[:1] * (width - len(chunk))])
        pair.check_inputs(tokens, "prompts")
        parts.append(encode(params, tokens, stats)[: len(chunk)])
    embeddings = jnp.concatenate(parts)
    means = embeddings.reshape(len(class_names), -1, embeddings.shape[-1]).mean(1)
    return unit_norm(means)


def zero_shot_logits(
    pair: TwoTowers,
    params: PyTree,
    images: jax.Array,
    embeddings: jax.Array,
    stats: PyTree = None,
) -> jax.Array:
    """s·⟨u, v_c⟩ + b of images u and classes v: CLIP's logits, before the softmax.

    Args:
      pair: the towers.
      params, stats: of the pair, with its scale s and its bias b.
      images: (batch, height, width, channels), preprocessed.
      embeddings: (K, width) of `class_embeddings`.

    Returns:
      (batch, K) float32.
    """
    u = pair.encode_image(params, images, stats)
    return pair.logit_scale(params) * (u @ embeddings.T) + pair.logit_bias(params)


def prompt_head(pair: TwoTowers, params: PyTree, embeddings: jax.Array) -> PyTree:
    """The head of a `ZeroShotClassifier` whose logits are `zero_shot_logits`.

    Args:
      pair: the towers.
      params: of the pair, with its scale and its bias.
      embeddings: (K, width) of `class_embeddings`.
    """
    kernel = pair.logit_scale(params) * embeddings.T
    return {
        "dense": {
            "kernel": kernel,
            "bias": jnp.full(len(embeddings), pair.logit_bias(params), kernel.dtype),
        }
    }


@functools.cache
def _network_of(model: ZeroShotClassifier) -> Network:
    tower = model.pair.towers()[0]
    stages = (*prefixed(IMAGE_TOWER, dict.fromkeys(tower.stages)), HEAD)

    def init(key: jax.Array, x: Any) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key)
        params, stats = (prefixed(IMAGE_TOWER, tree) for tree in tower.init(keys[0], x))
        shape = (model.pair.width, model.outputs)
        kernel = nn.initializers.lecun_normal()(keys[1], shape)
        head = {"dense": {"kernel": kernel, "bias": jnp.zeros(model.outputs)}}
        return {**params, HEAD: head}, stats

    def apply(params, stats, x, *, start=None, stop=None, **settings) -> Output:
        run = stage_range(stages, start, stop)
        features, new = {}, dict(stats)
        if run[0] != HEAD:
            settings = {**settings, **modes_of_tower(IMAGE_TOWER, settings)}
            if start is not None:
                settings["start"] = start.removeprefix(IMAGE_TOWER)
            if run[-1] != HEAD:
                settings["stop"] = run[-1].removeprefix(IMAGE_TOWER)
            trees = parts_of_tower(IMAGE_TOWER, tower, params, stats)
            out = tower.apply(*trees, x, **settings)
            features = prefixed(IMAGE_TOWER, out.features)
            new |= prefixed(IMAGE_TOWER, out.stats)
            x = out.logits
        if run[-1] != HEAD:
            return Output(features[run[-1]], features, new)
        dense = as_float32(params[HEAD]["dense"])
        logits = unit_norm(x) @ dense["kernel"] + dense["bias"]
        return Output(logits, {**features, HEAD: logits}, new)

    return Network(
        stages, init, apply, can_start=tower.can_start, no_start=tower.no_start
    )
