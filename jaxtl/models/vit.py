"""The Vision Transformer, in Hugging Face's layout.

References:
  Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import config_values, staged, weight_layout
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import sequences, transformer
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.weight_layout import Rule, WeightLayout


def _patch_grid(x: jax.Array, size: int, patch: int) -> tuple[int, int]:
    """(rows, columns) of patches of an image batch.

    Raises:
      UserError: images that don't divide into patches, or of another size.
    """
    if x.ndim != 4 or x.shape[1] % patch or x.shape[2] % patch:
        raise UserError(
            f"images of shape {tuple(x.shape)} don't divide into patches of {patch}×"
            f"{patch} (expected (batch, {size}, {size}, channels))."
        )
    if x.shape[1:3] != (size, size):
        raise UserError(
            f"images of {x.shape[1]}×{x.shape[2]} came to a model of size={size}: set "
            "the model's size to theirs; position vectors of pre-trained weights are "
            "then interpolated."
        )
    return x.shape[1] // patch, x.shape[2] // patch


class _ViTEmbeddings(nn.Module):
    """A class token and a vector per patch, plus position vectors, then dropout."""

    width: int
    size: int
    patch: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> Tokens:
        rows, columns = _patch_grid(x, self.size, self.patch)
        patches = Conv(
            self.width,
            (self.patch, self.patch),
            self.patch,
            "VALID",
            kernel_init=NORMAL,
            name="patch",
        )
        x = patches(x).reshape(x.shape[0], rows * columns, self.width)
        token = self.param("token", NORMAL, (1, 1, self.width))
        shape = (1, 1 + rows * columns, self.width)
        position = self.param("position", NORMAL, shape)
        tokens = broadcast(token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([tokens, x], 1)
        x += broadcast(position, x.shape)
        x = staged.Dropout(self.dropout, name="dropout")(x, mode)
        return Tokens(x, jnp.ones(x.shape[:2], bool))


class _ClassTokenHead(nn.Module):
    """An affine map of the class token."""

    outputs: int

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: staged.Mode) -> jax.Array:
        dense = Dense(self.outputs, kernel_init=NORMAL, name="dense")
        return dense(sequences.first_state(x) if isinstance(x, Tokens) else x)


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

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        return ("embeddings", *layers, "norm", "head")

    def setup(self) -> None:
        transformer.check_heads(self.width, self.heads)
        embeddings = _ViTEmbeddings(self.width, self.size, self.patch, self.dropout)
        self.add("embeddings", embeddings)
        block = transformer.Block(
            heads=self.heads,
            hidden=self.hidden,
            activation=self.activation,
            epsilon=self.epsilon,
            causal=False,
            input_bias=self.qkv_bias,
            dropout=self.dropout,
        )
        for i in range(self.layers):
            self.add(f"layer_{i}", transformer.TransformerLayer(block))
        self.add("norm", transformer.FinalNorm(self.epsilon))
        self.add("head", _ClassTokenHead(self.outputs))

    def reduction(self) -> Callable[[Any], Any]:
        return sequences.first_state

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": _hf_layout(self)}

    def adapt(self, path: str, leaf: Any) -> Any:
        """Interpolates position vectors of another image size; other leaves stay."""
        if path != "embeddings/position":
            return leaf
        return _interpolate_positions(leaf, self.size // self.patch)


def _interpolate_positions(position: Any, side: int) -> np.ndarray:
    """Resizes position vectors, bicubically, to another grid of patches.

    Args:
      position: (1, 1 + rows · columns, width) of a square grid, class token first.
      side: rows and columns of the new grid.

    Returns:
      (1, 1 + side², width); the input itself where the grid is the same.
    """
    position = np.asarray(position)
    old = round((position.shape[1] - 1) ** 0.5)
    if old == side:
        return position
    if old**2 != position.shape[1] - 1:
        raise UserError(
            f"the position vectors of {position.shape[1] - 1} patches are of no square "
            "grid, so they can't be interpolated to another image size."
        )
    class_token, patches = position[:, :1], position[:, 1:]
    patches = patches.reshape(old, old, -1)
    matrix = _cubic_matrix(old, side)
    patches = np.einsum("ij,kl,jlc->ikc", matrix, matrix, patches)
    patches = patches.reshape(1, side**2, -1).astype(position.dtype)
    return np.concatenate([class_token, patches], 1)


def _cubic_matrix(old: int, new: int) -> np.ndarray:
    """The (new, old) matrix of cubic convolution with a = −0.75.

    Keys, IEEE TASSP 29 (1981); pixel centers at halves, borders repeated: the same as
    torch's interpolate(mode="bicubic", align_corners=False).
    """
    a, matrix = -0.75, np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * old / new - 0.5
        start = int(np.floor(center)) - 1
        for tap in range(start, start + 4):
            t = abs(center - tap)
            inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
            outer = a * (t**3 - 5 * t**2 + 8 * t - 4)
            matrix[i, np.clip(tap, 0, old - 1)] += inner if t <= 1 else outer
    return matrix


# Paths of modules within a layer -> their names in transformers.
_LINEAR_NAMES = {
    "attention/query": "attention.attention.query",
    "attention/key": "attention.attention.key",
    "attention/value": "attention.attention.value",
    "attention/out": "attention.output.dense",
    "mlp/in": "intermediate.dense",
    "mlp/out": "output.dense",
}
_ALWAYS_BIASED = ("attention/out", "mlp/in", "mlp/out")
_NORM_NAMES = {"attention_norm": "layernorm_before", "mlp_norm": "layernorm_after"}


def _hf_layout(model: ViT) -> WeightLayout:
    """The naming of transformers' ViT."""
    source = "vit.embeddings"
    rules = [
        Rule(f"{source}.cls_token", "embeddings/token"),
        Rule(f"{source}.position_embeddings", "embeddings/position"),
        *weight_layout.conv(
            f"{source}.patch_embeddings.projection", "embeddings/patch", bias=True
        ),
    ]
    for i in range(model.layers):
        source, path = f"vit.encoder.layer.{i}", f"layer_{i}"
        for part, name in _LINEAR_NAMES.items():
            bias = model.qkv_bias or part in _ALWAYS_BIASED
            rules += weight_layout.linear(f"{source}.{name}", f"{path}/{part}", bias)
        for part, name in _NORM_NAMES.items():
            rules += weight_layout.norm(f"{source}.{name}", f"{path}/{part}")
    rules += weight_layout.norm("vit.layernorm", "norm/norm")
    rules += weight_layout.linear("classifier", "head/dense")
    return WeightLayout(
        tuple(rules),
        # The classifier reads the class token: ViTModel's pooler, and the token and the
        # decoder of masked image modeling stay unused.
        unused=(
            r"(vit\.)?pooler\.dense\.(weight|bias)",
            r"(vit\.)?embeddings\.mask_token",
            r"decoder\.0\.(weight|bias)",
        ),
        prefixes=("module.", "vit."),
        renames=_NEW_NAMES,
        stem="embeddings/patch/kernel",
        **weight_layout.HALVES,
    )


# Names within the models of transformers 5, whose files keep the older ones.
_NEW_NAMES = (
    (r"^((?:module\.)?(?:vit\.)?)layers\.", r"\1encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)

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


def from_config(config: Mapping[str, Any], **fields: Any) -> ViT:
    """Builds the model that a config.json of type "vit" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    config_values.count("num_channels", config.get("num_channels", 3))
    return ViT(**{**entries, **fields})
