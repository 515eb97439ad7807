"""The Vision Transformer, in Hugging Face's layout.

References:
  Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.tensor_rules import TensorRules
from jaxtl.core.types import Tokens
from jaxtl.models import config_values, staged, tensor_layout, vit_layout
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import (
    interpolation,
    patches,
    relative_grid,
    sequences,
    stochastic_depth,
    transformer,
)
from jaxtl.models.weight_layout import WeightLayout


class ViT(staged.Staged):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      size: side of the images.
      patch: side of a patch.
      width: of the states.
      layers, heads: their numbers.
      hidden: width inside the feed-forward layers.
      activation: by name.
      epsilon: of the norms.
      dropout: after embeddings and each sublayer.
      qkv_bias: biases of query, key and value.
      pooling: what the head reads: "first", the class token's state; "mean", the
        patches' mean; "first_mean", both beside each other.
    """

    READS: ClassVar[str] = "images"

    size: int = 224
    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: str = "gelu_exact"
    epsilon: float = 1e-12
    dropout: float = 0.0
    qkv_bias: bool = True
    pooling: str = "first"

    # Names of transformers, the name of its models' main part, and the maps of the
    # head; what a kin of the family changes.
    names: ClassVar[Mapping[str, str]] = vit_layout.HF_NAMES
    root: ClassVar[str] = "vit"
    antialias: ClassVar[bool] = False
    poolings: ClassVar[tuple[str, ...]] = ("first", "mean", "first_mean")
    has_relative = False
    drop_path = 0.0

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        return ("embeddings", *layers, "norm", "head")

    @property
    def before(self) -> int:
        """Number of tokens before the patches."""
        options = self.embedding_options()
        tokens = options.get("tokens", ("token",))
        return len(tokens) + options.get("registers", 0)

    @property
    def head_width(self) -> int | None:
        """Number of the head's outputs."""
        return self.outputs

    @property
    def head_bias(self) -> bool:
        """Whether the head's maps have biases."""
        return True

    @property
    def head_maps(self) -> tuple[str, ...]:
        """Names of the head's affine maps."""
        return ("dense",)

    def embedding_options(self) -> dict[str, Any]:
        """Further fields of `patches.PatchEmbeddings`."""
        return {}

    def embedding_leaves(self) -> tuple[str, ...]:
        """Names of the tokens and the position vectors."""
        options = self.embedding_options()
        is_there = {
            "position": options.get("has_position", True),
            "register": options.get("registers", 0) > 0,
            "mask": options.get("has_mask", False),
        }
        names = tuple(name for name, there in is_there.items() if there)
        return options.get("tokens", ("token",)) + names

    def shape_of(self, part: str) -> str:
        """Names the change of shape between a file's tensor and an embedding leaf.

        Args:
          part: one of `embedding_leaves`, "position" say.

        Returns:
          A transform of `weight_layout.Rule`: "same" where shapes are equal; subclasses
          add axes by "leading" or "vector".
        """
        return "same"

    def block(self, layer: int) -> transformer.Block:
        """Describes what a layer computes.

        Args:
          layer: its index, which decides the rate of stochastic depth.

        Returns:
          Heads, widths, activation, biases and rates, for `TransformerLayer`.
        """
        return transformer.Block(
            heads=self.heads,
            hidden=self.hidden,
            activation=self.activation,
            epsilon=self.epsilon,
            causal=False,
            input_bias=self.qkv_bias,
            dropout=self.dropout,
            drop_path=self.path_rate(layer),
        )

    def path_rate(self, layer: int) -> float:
        """Rate of stochastic depth of a layer.

        Args:
          layer: its index, from 0.

        Returns:
          `drop_path` · layer / (layers − 1): 0 for the first, `drop_path` for the last.
        """
        return stochastic_depth.depth_rates(self.drop_path, self.layers)[layer]

    def setup(self) -> None:
        transformer.check_heads(self.width, self.heads)
        staged.check_option("pooling", self.pooling, self.poolings)
        for name, module in self.stage_modules():
            self.add(name, module)

    # These are not linen's methods, so that a model of two towers can call them.
    @nn.nowrap
    def stage_modules(self) -> Iterator[tuple[str, Any]]:
        """(name, module) of each stage, which is registered before the next one."""
        yield (
            "embeddings",
            patches.PatchEmbeddings(
                self.width,
                self.size,
                self.patch,
                self.dropout,
                relative_heads=self.heads * self.has_relative,
                **self.embedding_options(),
            ),
        )
        shared = self.embeddings if self.has_relative else None
        for i in range(self.layers):
            yield f"layer_{i}", transformer.TransformerLayer(self.block(i), shared)
        yield "norm", self.final_norm()
        pool = self.reduction() or sequences.first_state
        maps, bias = self.head_maps, self.head_bias
        yield "head", patches.TokenHead(self.head_width, pool, maps, bias)

    @nn.nowrap
    def final_norm(self) -> Any:
        """The stage behind the layers."""
        return transformer.FinalNorm(self.epsilon)

    def reduction(self) -> Callable[[Tokens], jax.Array] | None:
        return _pooling(self.pooling, self.before)

    def tensor_rules(self) -> TensorRules | None:
        if self.has_relative:
            return None
        return tensor_layout.transformer_rules(map(self.block, range(self.layers)))

    def layouts(self) -> dict[str, WeightLayout]:
        layouts = {"hf": vit_layout.hf_layout(self)}
        return {**layouts, "timm": vit_layout.timm_layout(self)}

    def adapt(self, path: str, leaf: Any) -> Any:
        """Interpolates what belongs to places of another image size."""
        side = self.size // self.patch
        if path == "embeddings/position":
            extra = self.before - self.embedding_options().get("registers", 0)
            leaf = interpolation.with_rows_before(leaf, extra)
            return interpolation.resize_positions(leaf, side, extra, self.antialias)
        if path.endswith("relative/table"):
            extra = relative_grid.CLASS_ROWS
            return interpolation.resize_relative(leaf, side, extra)
        return leaf


@functools.cache
def _pooling(name: str, before: int) -> Callable[[Tokens], jax.Array]:
    """The head's pooling, the same function for equal models."""
    if name == "first":
        return sequences.first_state
    pool = patches.patch_mean if name == "mean" else patches.first_and_mean
    return functools.partial(pool, before=before)


CONFIG = ConfigTable(
    "vit",
    stem="ViT",
    predicts=(None,),
    honored={
        "image_size": Key("size", config_values.side, 224),
        "patch_size": Key("patch", config_values.side, 16),
        "hidden_size": Key("width", config_values.count),
        "num_hidden_layers": Key("layers", config_values.count),
        "num_attention_heads": Key("heads", config_values.count),
        "intermediate_size": Key("hidden", config_values.count),
        "hidden_act": Key("activation", config_values.activation, "gelu_exact"),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-12),
        "hidden_dropout_prob": Key("dropout", config_values.rate, 0.0),
        "qkv_bias": Key("qkv_bias", config_values.flag, True),
    },
    # The weights' kernel has as many.
    read_by_family=("num_channels",),
    harmless={
        "attention_probs_dropout_prob": "attention weights have no dropout here",
        "encoder_stride": "the decoder of masked image modeling is left out",
        "pooler_output_size": "the pooler is left out; the head reads the class token",
        "pooler_act": "the pooler is left out; the head reads the class token",
    },
)


_WIDE_HEADS = {1280: 16, 1408: 16, 1664: 16}  # of 80, 88 and 104 features


def timm_fields(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Fields of the model that a file of timm was written from, {} of other files.

    The number of heads is in no tensor: timm's have 64 features, but for the widest.
    """
    names = ("blocks.0.attn.qkv.weight", "pos_embed", "patch_embed.proj.weight")
    if not all(name in shapes for name in (*names, "cls_token", "norm.weight")):
        return {}
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    extra = 1 + ("dist_token" in shapes)
    places = shapes["pos_embed"][1]
    # A square number: of the patches alone (timm's no_embed_class).
    side = math.isqrt(places)
    side = side if side**2 == places else round((places - extra) ** 0.5)
    head = shapes.get("head.weight")
    return {
        "outputs": head and head[0],
        "size": patch * side,
        "patch": patch,
        "width": width,
        "layers": sum(f"blocks.{i}.norm1.weight" in shapes for i in range(200)),
        "heads": _WIDE_HEADS.get(width, max(width // 64, 1)),
        "epsilon": 1e-6,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
    }


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> ViT | None:
    """The model that a file of timm was written from, None for other files."""
    fields = timm_fields(shapes)
    others = ("dist_token", "reg_token", "blocks.0.ls1.gamma")
    if not fields or any(name in shapes for name in others):
        return None
    return ViT(**fields, hidden=shapes["blocks.0.mlp.fc1.weight"][0])


def from_config(config: Mapping[str, Any], **fields: Any) -> ViT:
    """Builds the model that a config.json of type "vit" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    config_values.count("num_channels", config.get("num_channels", 3))
    return ViT(**{**entries, **fields})
