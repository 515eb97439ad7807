"""CLIP's text tower: the map to the space shared with images, or a classifier.

References:
  Radford et al.: Learning Transferable Visual Models From Natural Language Supervision,
  ICML 2021.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

from jaxtl.core import token_ids
from jaxtl.core.types import Tokens
from jaxtl.models import clip_layout, config_values, staged
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import pair_embeddings, patches, sequences, transformer
from jaxtl.models.layers.embeddings import DecoderEmbeddings, EmbeddingOptions
from jaxtl.models.weight_layout import WeightLayout


class CLIPText(staged.Staged):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    The state of the end-of-text token stands for a text; a token attends to itself and
    earlier ones.

    Attributes:
      vocab: number of token ids.
      width: of the states.
      layers, heads: their numbers.
      hidden: width inside the feed-forward layers.
      context: largest number of tokens of a text.
      predict: "embedding" for a map of that state to `embedding` features, without a
        bias; "class" for a classifier of it.
      embedding: width of the space that texts share with images.
      end: id of the end-of-text token, whose first place counts; None for the highest
        id of each text, as older files have it.
      activation: by name.
      epsilon: of the norms.
    """

    READS: ClassVar[str] = "texts"
    PREDICTS: ClassVar[tuple[str, ...]] = clip_layout.PREDICTS

    vocab: int = 49_408
    width: int = 512
    layers: int = 12
    heads: int = 8
    hidden: int = 2048
    context: int = 77
    predict: str = "class"
    embedding: int | None = 512
    end: int | None = 49_407
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    root: ClassVar[str] = "text_model"
    # Name of the map to the space of images, and whether it has a bias.
    projection: ClassVar[str] = "text_projection"
    projection_bias: ClassVar[bool] = False
    # Entry of a configuration of both towers that describes this one.
    config_entry: ClassVar[str] = "text_config"
    causal: ClassVar[bool] = True

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        return ("embeddings", *layers, "norm", "head")

    def block(self, layer: int) -> transformer.Block:
        """Describes what a layer computes.

        Args:
          layer: its index; all layers are the same.

        Returns:
          Heads, widths, activation and the order of norms, for `TransformerLayer`.
        """
        return transformer.Block(
            heads=self.heads,
            hidden=self.hidden,
            activation=self.activation,
            epsilon=self.epsilon,
            causal=self.causal,
        )

    def embeddings_module(self, options: EmbeddingOptions) -> DecoderEmbeddings:
        """Builds the stage `embeddings`.

        Args:
          options: vocabulary, width, context and kind of positions.

        Returns:
          The module, which marks the token that ends a text, whose state is the text's.
        """
        return pair_embeddings.EndedEmbeddings(options, self.end)

    def setup(self) -> None:
        clip_layout.check_predict(self)
        transformer.check_heads(self.width, self.heads)
        options = EmbeddingOptions(
            vocab=self.vocab, width=self.width, context=self.context, positions="places"
        )
        self.add("embeddings", self.embeddings_module(options))
        for i in range(self.layers):
            self.add(f"layer_{i}", transformer.TransformerLayer(self.block(i)))
        self.add("norm", transformer.FinalNorm(self.epsilon))
        is_class = self.predict == "class"
        head = patches.TokenHead(
            self.outputs if is_class else self.embedding or self.width,
            sequences.last_state,
            bias=is_class or self.projection_bias,
        )
        self.add("head", head)

    def reduction(self) -> Callable[[Tokens], jax.Array]:
        return sequences.last_state

    def id_sizes(self) -> dict[str, int]:
        return sequences.id_sizes(self.vocab)

    def check_inputs(self, x: Any, owner: str) -> None:
        super().check_inputs(x, owner)
        if self.causal and self.end is not None:
            token_ids.check_holds(x, self.end, owner)

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": clip_layout.text_layout(self)}


def _end(key: str, value: Any) -> int | None:
    """The id of the end-of-text token; 2 stands for the highest id, as in transformers.

    Files from before 2023 have 2, which is the id of another token.
    """
    number = config_values.index(key, value)
    return None if number == 2 else number


CONFIG = ConfigTable(
    "clip_text_model",
    predicts=("embedding",),
    classes={"embedding": "CLIPTextModelWithProjection"},
    honored={
        "vocab_size": Key("vocab", config_values.count, 49_408),
        "hidden_size": Key("width", config_values.count, 512),
        "num_hidden_layers": Key("layers", config_values.count, 12),
        "num_attention_heads": Key("heads", config_values.count, 8),
        "intermediate_size": Key("hidden", config_values.count, 2048),
        "max_position_embeddings": Key("context", config_values.count, 77),
        "hidden_act": Key("activation", config_values.activation, "quick_gelu"),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-5),
        "projection_dim": Key("embedding", config_values.count, 512),
        "eos_token_id": Key("end", _end, 49_407),
    },
    harmless=clip_layout.HARMLESS,
)


def from_config(config: Mapping[str, Any], **fields: Any) -> CLIPText:
    """Builds the model that a config.json of type "clip_text_model" describes.

    Raises:
      UserError: a key or a value that is not supported.
    """
    return CLIPText(**{**CONFIG.fields(config), **fields})
