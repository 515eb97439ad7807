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

from jaxtl.core.types import Tokens
from jaxtl.models import config_values, staged, weight_layout
from jaxtl.models.bert_config import BERT_CONFIG, ROBERTA_CONFIG
from jaxtl.models.layers import norms, sequences, transformer
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.weight_layout import Rule, WeightLayout

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
        sizes = sequences.id_sizes(self.vocab, self.segments)
        ids, mask = sequences.token_inputs(x, sizes)
        sequences.check_length(ids.shape[1], self.context)

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, self.width, embedding_init=NORMAL, name=name)

        segment = jnp.asarray(x.get("token_type_ids", jnp.zeros_like(ids)))
        positions = position_rows(ids, self.offset)
        states = table(self.vocab, "token")(ids)
        states += table(self.segments, "segment")(segment.astype(jnp.int32))
        states += table(self.context + self.offset, "position")(positions)
        states = norms.layer_norm(self.epsilon, "norm")(states)
        return Tokens(staged.Dropout(self.dropout, name="dropout")(states, mode), mask)


def position_rows(ids: jax.Array, offset: int) -> jax.Array:
    """Rows of the position table, (batch, length) or (1, length), as in transformers.

    BERT counts all places from 0, padding included. RoBERTa counts the tokens that are
    no padding, whose id is offset − 1, from `offset`; padding is at offset − 1.
    """
    if not offset:
        return jnp.arange(ids.shape[1])[None]
    real = ids != offset - 1
    return jnp.cumsum(real, -1) * real + offset - 1


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
        dense = nn.Dense(first.shape[-1], kernel_init=NORMAL, name="dense")
        return jnp.tanh(dense(first))


class _BertHead(nn.Module):
    """Dropout and an affine map: of the pooled text, or of each token's state.

    Attributes:
      outputs: width.
      pooling: a key of `_REDUCTIONS` for an input of Tokens; None maps each token.
      dropout: rate.
      inner: whether a tanh layer precedes (RoBERTa's classifier).
      normalize: whether the pooled state is scaled to unit length.
    """

    outputs: int
    pooling: str | None
    dropout: float
    inner: bool = False
    normalize: bool = False

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: staged.Mode) -> jax.Array:
        if isinstance(x, Tokens):
            reduce = _reduction(self.pooling, self.normalize)
            x = reduce(x) if reduce else x.states
        if self.inner:
            x = staged.Dropout(self.dropout, name="dropout1")(x, mode)
            inner = nn.Dense(x.shape[-1], kernel_init=NORMAL, name="inner")
            x = jnp.tanh(inner(x))
        x = staged.Dropout(self.dropout, name="dropout")(x, mode)
        return nn.Dense(self.outputs, kernel_init=NORMAL, name="dense")(x)


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
            self.add(f"layer_{i}", transformer.TransformerLayer(self.block()))
        if self.has_pooler:
            self.add("pooler", _BertPooler())
        pooling = None if self.predict == "token" else self.pooling
        dropout = self.dropout if self.head_dropout is None else self.head_dropout
        head = _BertHead(self.outputs, pooling, dropout, self.inner, self.normalize)
        self.add("head", head)

    def reduction(self) -> Callable[[Any], Any] | None:
        pooling = self.pooling if self.predict == "class" else None
        return _reduction(pooling, self.normalize)

    def id_sizes(self) -> dict[str, int]:
        return sequences.id_sizes(self.vocab, self.segments)

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
    # Heads of other tasks, attention to another model and an unused pooler have no
    # place here.
    unused = [
        r"cls\..*",
        r"lm_head\..*",
        r"qa_outputs\..*",
        r".*\.crossattention\..*",
    ]
    if model.has_pooler:
        rules += weight_layout.linear(f"{root}.pooler.dense", "pooler/dense")
    else:
        unused.append(rf"({root}\.)?pooler\.dense\.(weight|bias)")
    classifier = "classifier"
    # Names of a head that predicts something else.
    unused.append(r"classifier\.(dense|out_proj)\..*")
    if model.inner:
        unused[-1] = r"classifier\.(weight|bias)"
        rules += weight_layout.linear("classifier.dense", "head/inner")
        classifier = "classifier.out_proj"
    rules += weight_layout.linear(classifier, "head/dense")
    return WeightLayout(
        tuple(rules),
        ignored=(r".*position_ids", r".*token_type_ids"),
        unused=tuple(unused),
        prefixes=("module.", f"{root}."),
        renames=_OLD_NAMES,
        optional=("pooler",) * model.has_pooler,
    )


# TensorFlow's names of the norms, as in the published files of bert-base-uncased.
_OLD_NAMES = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Bert:
    """Builds the model that a config.json of type "bert" or "roberta" describes.

    RoBERTa's positions begin behind the id of padding, 1 where the file has none.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    if config.get("model_type") != "roberta":
        return Bert(**{**BERT_CONFIG.fields(config), **fields})
    entries = ROBERTA_CONFIG.fields(config)
    pad = config.get("pad_token_id")
    offset = 2 if pad is None else config_values.index("pad_token_id", pad) + 1
    entries |= {"pooling": "first", "inner": fields.get("predict", "class") == "class"}
    entries |= {"offset": offset, "context": entries["context"] - offset}
    return Bert(**{**entries, **fields})
