"""BERT and related encoders: MiniLM and other sentence encoders, RoBERTa.

References:
  Devlin et al.: BERT, NAACL 2019. Liu et al.: RoBERTa, arXiv:1907.11692.
  Reimers & Gurevych: Sentence-BERT, EMNLP 2019 (mean pooling).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.types import Tokens
from jaxtl.models import bert_layout, config_values, staged
from jaxtl.models.bert_config import BERT_CONFIG, ROBERTA_CONFIGS
from jaxtl.models.bert_layout import BERT_NAMES
from jaxtl.models.layers import sequences, transformer
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.bert_embeddings import BertEmbeddings
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.weight_layout import WeightLayout

ROBERTA_CONFIG, XLM_ROBERTA_CONFIG, CAMEMBERT_CONFIG = ROBERTA_CONFIGS.values()
PREDICTS = ("class", "token")
_REDUCTIONS = {
    "mean": sequences.mean_state,
    "first": sequences.first_state,
    "max": sequences.max_state,
    "mean_sqrt_len": sequences.mean_sqrt_len_state,
    "weighted_mean": sequences.weighted_mean_state,
    "last": sequences.last_state,
}
POOLINGS = ("pooler", *_REDUCTIONS)


def _reduction(
    pooling: str | None, normalize: bool
) -> Callable[[Tokens], jax.Array] | None:
    """Tokens to one state per text, None where the head reads something else."""
    reduce = _REDUCTIONS.get(pooling or "")
    if reduce is None or not normalize:
        return reduce
    return lambda tokens: sequences.unit_length(reduce(tokens))


class _BertPooler(nn.Module):
    """tanh of an affine map of the first token's state, (batch, width)."""

    @nn.compact
    def __call__(self, tokens: Tokens, mode: staged.Mode) -> jax.Array:
        first = tokens.states[:, 0]
        dense = Dense(first.shape[-1], kernel_init=NORMAL, name="dense")
        return jnp.tanh(dense(first))


class _BertHead(nn.Module):
    """Dropout and an affine map: of the pooled text, or of each token's state.

    Attributes:
      outputs: width.
      pooling: a key of `_REDUCTIONS` for an input of Tokens; None maps each token.
      dropout: rate.
      inner: activation of a layer that precedes ("tanh" in RoBERTa's classifier), ""
        for no such layer.
      early_dropout: whether dropout precedes that layer too.
      normalize: whether the pooled state is scaled to unit length.
    """

    outputs: int
    pooling: str | None
    dropout: float
    inner: str = ""
    normalize: bool = False
    early_dropout: bool = True

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: staged.Mode) -> jax.Array:
        if isinstance(x, Tokens):
            reduce = _reduction(self.pooling, self.normalize)
            x = reduce(x) if reduce else x.states
        if self.inner:
            rate = self.dropout if self.early_dropout else 0.0
            x = staged.Dropout(rate, name="dropout1")(x, mode)
            inner = Dense(x.shape[-1], kernel_init=NORMAL, name="inner")
            x = activation(self.inner)(inner(x))
        x = staged.Dropout(self.dropout, name="dropout")(x, mode)
        return Dense(self.outputs, kernel_init=NORMAL, name="dense")(x)


class Bert(staged.Staged):
    """Stages `embeddings, layer_0 … layer_{n−1}, [pooler,] head`.

    Padding goes to the right for "pooler" and "first", which read the first place.
    Positions count all places from 0 (BERT), or with an `offset` the tokens whose id is
    not that of padding, offset − 1 (RoBERTa).

    Attributes:
      vocab: number of token ids.
      width: of the states.
      layers, heads: their numbers.
      hidden: width inside the feed-forward layers.
      context: largest number of tokens of a text.
      segments: number of token types (two for pairs of texts).
      predict: "class" for one output (or regression value) per text, (batch, outputs);
        "token" for one per token, (batch, length, outputs).
      pooling: input of the head of "class": BERT's "pooler", the "mean" of the real
        tokens or another reduction of sentence encoders ("max", "mean_sqrt_len",
        "weighted_mean", "last"), or the "first" token.
      activation: by name.
      epsilon: of the norms.
      dropout: of embeddings, sublayers and head. (Attention weights have none.)
      head_dropout: of the head; None takes `dropout`.
      offset: number of the first position (RoBERTa: 2).
      inner: whether the head has a tanh layer more (RoBERTa's classifier).
      causal: whether a token attends to itself and earlier tokens alone.
      normalize: whether that input is scaled to unit length (sentence encoders).
    """

    READS: ClassVar[str] = "texts"

    vocab: int = 30_522
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    context: int = 512
    segments: int = 2
    predict: str = "class"
    pooling: str = "pooler"
    activation: str = "gelu_exact"
    epsilon: float = 1e-12
    dropout: float = 0.1
    offset: int = 0
    inner: bool = False
    causal: bool = False
    head_dropout: float | None = None
    normalize: bool = False

    # Names of the weights in transformers, see `encoder_layout`.
    names: ClassVar[Mapping[str, str]] = BERT_NAMES
    # Activation of the further layer of the head, and whether dropout precedes it.
    inner_activation: ClassVar[str] = "tanh"
    early_dropout: ClassVar[bool] = True

    @property
    def root(self) -> str:
        """The name of the model without its head in transformers."""
        return "roberta" if self.offset else "bert"

    @property
    def inner_width(self) -> int | None:
        """Width of the embeddings before a projection, None for no projection."""
        return None

    @property
    def has_relative(self) -> bool:
        """Whether attention goes by relative positions too."""
        return False

    def source_layer(self, layer: int) -> int:
        """Index of the layer whose weights a layer has: its own, unless shared."""
        return layer

    def layer_name(self, layer: int) -> str:
        """The name of a layer in transformers."""
        return self.names["layer"].format(layer)

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        pooler = ("pooler",) * self.has_pooler
        return ("embeddings", *layers, *pooler, "head")

    @property
    def has_pooler(self) -> bool:
        """Whether there is a stage `pooler` in front of the head."""
        return self.predict == "class" and self.pooling == "pooler"

    def block(self) -> transformer.Block:
        """What each layer computes."""
        return transformer.Block(
            heads=self.heads,
            hidden=self.hidden,
            activation=self.activation,
            order="post",
            epsilon=self.epsilon,
            causal=self.causal,
            dropout=self.dropout,
        )

    def setup(self) -> None:
        staged.check_option("predict", self.predict, PREDICTS)
        staged.check_option("pooling", self.pooling, POOLINGS)
        transformer.check_heads(self.width, self.heads)
        self.add("embeddings", self._embeddings())
        relative = self.embeddings if self.has_relative else None
        for i in range(self.layers):
            source = self.source_layer(i)
            if source == i:
                layer = transformer.TransformerLayer(self.block(), relative)
            else:
                layer = getattr(self, f"layer_{source}")
            self.add(f"layer_{i}", layer)
        if self.has_pooler:
            self.add("pooler", _BertPooler())
        pooling = None if self.predict == "token" else self.pooling
        dropout = self.dropout if self.head_dropout is None else self.head_dropout
        head = _BertHead(
            self.outputs,
            pooling,
            dropout,
            self.inner_activation if self.inner else "",
            self.normalize,
            self.early_dropout,
        )
        self.add("head", head)

    def _embeddings(self) -> BertEmbeddings:
        return BertEmbeddings(
            self.vocab,
            self.width,
            self.context,
            self.segments,
            self.epsilon,
            self.dropout,
            self.offset,
            self.inner_width,
            self.heads if self.has_relative else 0,
        )

    def reduction(self) -> Callable[[Any], Any] | None:
        pooling = self.pooling if self.predict == "class" else None
        return _reduction(pooling, self.normalize)

    def id_sizes(self) -> dict[str, int]:
        return sequences.id_sizes(self.vocab, self.segments or None)

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": bert_layout.encoder_layout(self)}


def from_config(config: Mapping[str, Any], **fields: Any) -> Bert:
    """Builds the model that a config.json of BERT or RoBERTa describes.

    RoBERTa's positions begin behind the id of padding, 1 where the file has none.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    kind = config.get("model_type")
    if kind == "bert":
        return Bert(**{**BERT_CONFIG.fields(config), **fields})
    entries = ROBERTA_CONFIGS[kind].fields(config)
    pad = config.get("pad_token_id")
    offset = 2 if pad is None else config_values.index("pad_token_id", pad) + 1
    entries |= {"pooling": "first", "inner": fields.get("predict", "class") == "class"}
    entries |= {"offset": offset, "context": entries["context"] - offset}
    return Bert(**{**entries, **fields})
