"""BERT and related encoders: MiniLM and other sentence encoders, RoBERTa.

References:
  Devlin et al.: BERT, NAACL 2019. Liu et al.: RoBERTa, arXiv:1907.11692.
  Reimers & Gurevych: Sentence-BERT, EMNLP 2019 (mean pooling).
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import sequences, transformer
from jaxtl.models.weight_layout import Rule, WeightLayout

PREDICTS = ("class", "token")
POOLINGS = ("pooler", "mean", "first")
_REDUCTIONS = {"mean": sequences.mean_state, "first": sequences.first_state}


class _BertEmbeddings(nn.Module):
    """Token, position and segment vectors, normalized, then dropout."""

    vocab: int
    width: int
    context: int
    segments: int
    epsilon: float
    dropout: float
    offset: int

    @nn.compact
    def __call__(self, x: Mapping[str, Any], mode: staged.Mode) -> Tokens:
        ids, mask = sequences.token_inputs(x)
        sequences.check_length(ids.shape[1], self.context)

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(
                rows, self.width, embedding_init=transformer.INIT, name=name
            )

        segment = jnp.asarray(x.get("token_type_ids", jnp.zeros_like(ids)))
        positions = sequences.token_positions(mask) + self.offset
        states = table(self.vocab, "token")(ids)
        states += table(self.segments, "segment")(segment.astype(jnp.int32))
        states += table(self.context + self.offset, "position")(positions)
        states = transformer.layer_norm(self.epsilon, "norm")(states)
        return Tokens(staged.Dropout(self.dropout, name="dropout")(states, mode), mask)


class _BertLayer(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    heads: int
    hidden: int
    epsilon: float
    activation: str
    dropout: float

    @nn.compact
    def __call__(self, tokens: Tokens, mode: staged.Mode) -> Tokens:
        x, mask = tokens
        y, _ = transformer.Attention(self.heads, name="attention")(x, mask)
        y = staged.Dropout(self.dropout, name="dropout1")(y, mode)
        x = transformer.layer_norm(self.epsilon, "attention_norm")(x + y)
        y = transformer.FeedForward(self.hidden, self.activation, name="mlp")(x)
        y = staged.Dropout(self.dropout, name="dropout2")(y, mode)
        return Tokens(transformer.layer_norm(self.epsilon, "mlp_norm")(x + y), mask)


class _BertPooler(nn.Module):
    """tanh of an affine map of the first token's state, (batch, width)."""

    @nn.compact
    def __call__(self, tokens: Tokens, mode: staged.Mode) -> jax.Array:
        first = tokens.states[:, 0]
        dense = nn.Dense(first.shape[-1], kernel_init=transformer.INIT, name="dense")
        return jnp.tanh(dense(first))


class _BertHead(nn.Module):
    """Dropout and an affine map: of the pooled text, or of each token's state.

    Attributes:
      outputs: width.
      pooling: "mean" or "first" of an input of Tokens; None maps each token.
      dropout: rate.
      inner: whether a tanh layer precedes (RoBERTa's classifier).
    """

    outputs: int
    pooling: str | None
    dropout: float
    inner: bool = False

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: staged.Mode) -> jax.Array:
        if isinstance(x, Tokens):
            x = _REDUCTIONS[self.pooling](x) if self.pooling else x.states
        if self.inner:
            x = staged.Dropout(self.dropout, name="dropout1")(x, mode)
            inner = nn.Dense(x.shape[-1], kernel_init=transformer.INIT, name="inner")
            x = jnp.tanh(inner(x))
        x = staged.Dropout(self.dropout, name="dropout")(x, mode)
        return nn.Dense(self.outputs, kernel_init=transformer.INIT, name="dense")(x)


class Bert(staged.Staged):
    """Stages `embeddings, layer_0 … layer_{n−1}, [pooler,] head`.

    Padding goes to the right for "pooler" and "first", which read the first place.

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
        tokens (sentence encoders), or the "first" token.
      activation: by name.
      epsilon: of the norms.
      dropout: of embeddings, sublayers and head. (Attention weights have none.)
      offset: number of the first position (RoBERTa: 2).
      inner: whether the head has a tanh layer more (RoBERTa's classifier).
    """

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

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        pooler = ("pooler",) * self.has_pooler
        return ("embeddings", *layers, *pooler, "head")

    @property
    def has_pooler(self) -> bool:
        """Whether there is a stage `pooler` in front of the head."""
        return self.predict == "class" and self.pooling == "pooler"

    def setup(self) -> None:
        staged.check_option("predict", self.predict, PREDICTS)
        staged.check_option("pooling", self.pooling, POOLINGS)
        transformer.check_heads(self.width, self.heads)
        embeddings = _BertEmbeddings(
            self.vocab,
            self.width,
            self.context,
            self.segments,
            self.epsilon,
            self.dropout,
            self.offset,
        )
        self.add("embeddings", embeddings)
        for i in range(self.layers):
            layer = _BertLayer(
                self.heads, self.hidden, self.epsilon, self.activation, self.dropout
            )
            self.add(f"layer_{i}", layer)
        if self.has_pooler:
            self.add("pooler", _BertPooler())
        pooling = None if self.predict == "token" else self.pooling
        self.add("head", _BertHead(self.outputs, pooling, self.dropout, self.inner))

    def reduction(self) -> Callable[[Any], Any] | None:
        return _REDUCTIONS.get(self.pooling) if self.predict == "class" else None

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": _hf_layout(self)}


# Paths of modules within a layer -> their names in transformers.
_LINEAR_NAMES = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "mlp/in": "intermediate.dense",
    "mlp/out": "output.dense",
}
_NORM_NAMES = {
    "attention_norm": "attention.output.LayerNorm",
    "mlp_norm": "output.LayerNorm",
}
_TABLE_NAMES = {"token": "word", "position": "position", "segment": "token_type"}


def _hf_layout(model: Bert) -> WeightLayout:
    """The naming of transformers, for BERT and (with an offset) RoBERTa."""
    root = "roberta" if model.offset else "bert"
    rules = [
        Rule(
            f"{root}.embeddings.{name}_embeddings.weight",
            f"embeddings/{table}/embedding",
        )
        for table, name in _TABLE_NAMES.items()
    ]
    rules += weight_layout.norm(f"{root}.embeddings.LayerNorm", "embeddings/norm")
    for i in range(model.layers):
        source, path = f"{root}.encoder.layer.{i}", f"layer_{i}"
        for part, name in _LINEAR_NAMES.items():
            rules += weight_layout.linear(f"{source}.{name}", f"{path}/{part}")
        for part, name in _NORM_NAMES.items():
            rules += weight_layout.norm(f"{source}.{name}", f"{path}/{part}")
    # A head of pre-training, an unused pooler, and buffers have no place here.
    unused = [r"cls\..*", r"lm_head\..*", r".*position_ids", r".*token_type_ids"]
    if model.has_pooler:
        rules += weight_layout.linear(f"{root}.pooler.dense", "pooler/dense")
    else:
        unused.append(rf"({root}\.)?pooler\.dense\.(weight|bias)")
    classifier = "classifier"
    if model.inner:
        rules += weight_layout.linear("classifier.dense", "head/inner")
        classifier = "classifier.out_proj"
    rules += weight_layout.linear(classifier, "head/dense")
    return WeightLayout(
        tuple(rules),
        ignored=tuple(unused),
        prefixes=("module.", f"{root}."),
    )


def from_config(config: Mapping[str, Any], **fields: Any) -> Bert:
    """Builds the model that a config.json of type "bert" or "roberta" describes.

    Raises:
      UserError: positions of another kind than "absolute".
      KeyError: an entry that is missing.
    """
    roberta = config.get("model_type") == "roberta"
    kind = config.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise UserError(
            f"config.json: position_embedding_type {kind!r} is not supported "
            "(only 'absolute')."
        )
    offset = config.get("pad_token_id", 1) + 1 if roberta else 0
    predict = fields.get("predict", "class")
    extra = {"pooling": "first", "inner": predict == "class"} if roberta else {}
    return Bert(
        **{
            "vocab": config["vocab_size"],
            "width": config["hidden_size"],
            "layers": config["num_hidden_layers"],
            "heads": config["num_attention_heads"],
            "hidden": config["intermediate_size"],
            "context": config["max_position_embeddings"] - offset,
            "segments": config.get("type_vocab_size", 2),
            "activation": weight_layout.activation_name(
                config.get("hidden_act", "gelu")
            ),
            "epsilon": config.get("layer_norm_eps", 1e-12),
            "dropout": config.get("hidden_dropout_prob", 0.1),
            "offset": offset,
            **extra,
            **fields,
        }
    )
