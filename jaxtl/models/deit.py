"""DeiT: a Vision Transformer with a distillation token, in Hugging Face's layout.

References:
  Touvron et al.: Training data-efficient image transformers & distillation through
  attention, ICML 2021.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxtl.core.types import Tokens
from jaxtl.models import config_values, vit, vit_layout, weight_layout
from jaxtl.models.layers import patches
from jaxtl.models.weight_layout import WeightLayout


class DeiT(vit.ViT):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`; see `ViT`.

    Attributes:
      distilled: whether the head averages a map of the class token with one of the
        distillation token; else it reads the class token alone.
    """

    distilled: bool = False

    names = vit_layout.HF_NAMES | {"head/distilled": "distillation_classifier"}
    root = "deit"

    def embedding_options(self) -> dict[str, Any]:
        return {"tokens": ("token", "distillation")}

    @property
    def reference_class(self) -> str | None:
        """Class of transformers with this head, None for the type's usual one."""
        return _TEACHER if self.distilled else None

    @property
    def head_maps(self) -> tuple[str, ...]:
        return ("dense", "distilled") if self.distilled else ("dense",)

    def reduction(self) -> Callable[[Tokens], jax.Array]:
        return patches.first_two_states if self.distilled else super().reduction()

    def layouts(self) -> dict[str, WeightLayout]:
        names = {"head/dense": "cls_classifier"} if self.distilled else {}
        hf = vit_layout.hf_layout(self, names)
        timm = vit_layout.timm_layout(self, **weight_layout.IMAGENET)
        return {"hf": hf, "timm": timm}


CONFIG = dataclasses.replace(
    vit.CONFIG,
    family="deit",
    stem="DeiT",
    harmless={
        **vit.CONFIG.harmless,
        "classifier_dropout": "transformers reads it nowhere",
    },
)
_TEACHER = "DeiTForImageClassificationWithTeacher"


def from_config(config: Mapping[str, Any], **fields: Any) -> DeiT:
    """Builds the model that a config.json of type "deit" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    config_values.count("num_channels", config.get("num_channels", 3))
    distilled = _TEACHER in (config.get("architectures") or ())
    return DeiT(**{**entries, "distilled": distilled, **fields})


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> DeiT | None:
    """The model that a file of timm was written from, None for other files."""
    fields = vit.timm_fields(shapes)
    if not fields or "dist_token" not in shapes:
        return None
    distilled = "head_dist.weight" in shapes
    hidden = shapes["blocks.0.mlp.fc1.weight"][0]
    return DeiT(**fields, hidden=hidden, distilled=distilled)
