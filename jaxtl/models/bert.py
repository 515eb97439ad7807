"""BERT and related encoders: MiniLM and other sentence encoders, RoBERTa.

References:
  Devlin et al.: BERT, NAACL 2019. Liu et al.: RoBERTa, arXiv:1907.11692.
  Reimers & Gurevych: Sentence-BERT, EMNLP 2019 (mean pooling).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

from jaxtl.core.errors import UserError
from jaxtl.core.tensor_rules import TensorRules
from jaxtl.models import bert_layout, config_values, staged, tensor_layout
from jaxtl.models.bert_config import BERT_CONFIG, ROBERTA_CONFIGS
from jaxtl.models.bert_layout import BERT_NAMES
from jaxtl.models.layers import sequences, text_heads, transformer
from jaxtl.models.layers.bert_embeddings import BertEmbeddings
from jaxtl.models.layers.text_heads import HeadOptions
from jaxtl.models.weight_layout import WeightLayout

ROBERTA_CONFIG, XLM_ROBERTA_CONFIG, CAMEMBERT_CONFIG = ROBERTA_CONFIGS.values()
PREDICTS = ("class", "token", "span", "choice", "mask", "next")
POOLINGS = ("pooler", *text_heads.REDUCTIONS)
_EVALUATION = staged.Mode()
_OF_TEXTS = ("class", "choice")
_OF_VOCABULARY = ("mask", "next")


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
        "token" for one per token, (batch, length, outputs); "span" for the logits of
        an answer's first and last token, (batch, length, 2); "choice" for one logit
        of each of several texts, (batch, choices) of inputs (batch, choices, length);
        "mask" for the token at each place, (batch, length, vocab); "next", where the
        model is causal, for the next one. The last four have as many outputs whatever
        `outputs` is.
      pooling: input of the head of texts: BERT's "pooler", the "mean" of the real
        tokens or another reduction of sentence encoders ("max", "mean_sqrt_len",
        "weighted_mean", "last"), or the "first" token.
      activation: by name.
      epsilon: of the norms.
      dropout: of embeddings, sublayers and head. (Attention weights have none.)
      head_dropout: of the head; None takes `dropout`.
      offset: number of the first position (RoBERTa: 2).
      inner: whether the head of texts has a tanh layer more (RoBERTa's classifier).
      causal: whether a token attends to itself and earlier tokens alone.
      normalize: whether that input is scaled to unit length (sentence encoders).
      tied: whether the head of "mask" and "next" has the table of token vectors.
    """

    READS: ClassVar[str] = "texts"
    PREDICTS: ClassVar[tuple[str, ...]] = PREDICTS

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
    tied: bool = True

    # Names of the weights in transformers, see `encoder_layout`.
    names: ClassVar[Mapping[str, str]] = BERT_NAMES
    # Activation of the further layer of the head, and whether dropout precedes it.
    inner_activation: ClassVar[str] = "tanh"
    early_dropout: ClassVar[bool] = True
    # Whether embeddings are projected, without a bias, before their norm.
    projects_first: ClassVar[bool] = False

    @property
    def root(self) -> str:
        """The name of the model without its head in transformers."""
        return "roberta" if self.offset else "bert"

    @property
    def head_names(self) -> Mapping[str, str]:
        """Part of the head -> its name in transformers, see `encoder_layout`."""
        names = self.names | bert_layout.ROBERTA_HEAD if self.offset else self.names
        return bert_layout.head_names(names, self.predict, self.inner)

    @property
    def pooler_name(self) -> str:
        """The name of the pooler's map in transformers."""
        return f"{self.root}.{self.names['pooler']}"

    @property
    def mask_activation(self) -> str:
        """Activation of the head of the vocabulary."""
        return "gelu_exact" if self.offset else self.activation

    @property
    def has_positions(self) -> bool:
        """Whether the embeddings have position vectors."""
        return True

    @property
    def embeddings_kind(self) -> str:
        """Kind of the norm of the embeddings, a key of `norms.NORMS`."""
        return "layer"

    @property
    def inner_width(self) -> int | None:
        """Width of the embeddings before a projection, None for no projection."""
        return None

    @property
    def has_relative(self) -> bool:
        """Whether attention goes by relative positions too."""
        return False

    def source_layer(self, layer: int) -> int:
        """Tells whose weights a layer has.

        Args:
          layer: index of the layer, from 0.

        Returns:
          The index of the first layer that shares the weights; `layer` itself without
          sharing.
        """
        return layer

    def layer_name(self, layer: int) -> str:
        """Names a layer as transformers does.

        Args:
          layer: index of the layer, from 0.

        Returns:
          The prefix of its tensors behind that of the model: "encoder.layer.3".
        """
        return self.names["layer"].format(layer)

    @property
    def stages(self) -> tuple[str, ...]:
        layers = (f"layer_{i}" for i in range(self.layers))
        norm, pooler = ("norm",) * bool(self.final_kind), ("pooler",) * self.has_pooler
        return ("embeddings", *layers, *norm, *pooler, "head")

    @property
    def final_kind(self) -> str:
        """Kind of the norm behind the last layer, "" for none."""
        return ""

    @property
    def has_pooler(self) -> bool:
        """Whether there is a stage `pooler` in front of the head."""
        return self.predict in _OF_TEXTS and self.pooling == "pooler"

    def block(self, layer: int = 0) -> transformer.Block:
        """Describes what a layer computes.

        Args:
          layer: its index; families whose layers differ (windows, say) read it.

        Returns:
          Heads, widths, activation and the order of norms, for `TransformerLayer`.
        """
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
        staged.check_option("predict", self.predict, self.PREDICTS)
        staged.check_option("pooling", self.pooling, POOLINGS)
        transformer.check_heads(self.width, self.heads)
        if self.predict == "next" and not self.causal:
            raise UserError(
                "predict='next' needs causal=True: each token of this model attends to "
                "those behind it; predict='mask' has the same head."
            )
        self.add("embeddings", self.embeddings_module())
        relative = self.embeddings if self.has_relative else None
        for i in range(self.layers):
            source = self.source_layer(i)
            if source == i:
                layer = self.layer_module(i, relative)
            else:
                layer = getattr(self, f"layer_{source}")
            self.add(f"layer_{i}", layer)
        if self.final_kind:
            norm = transformer.FinalNorm(self.epsilon, self.final_kind)
            self.add("norm", norm)
        if self.has_pooler:
            self.add("pooler", self.pooler_module())
        options = self.head_options()
        table = self.embeddings if options.tied else None
        self.add("head", text_heads.TextHead(options, table))

    def embedding_fields(self) -> dict[str, Any]:
        """Fields of the embeddings."""
        return {
            "vocab": self.vocab,
            "width": self.width,
            "context": self.context,
            "segments": self.segments,
            "epsilon": self.epsilon,
            "rate": self.dropout,
            "offset": self.offset,
            "inner_width": self.inner_width,
            "relative_heads": self.heads if self.has_relative else 0,
            "positions": self.has_positions,
            "norm_kind": self.embeddings_kind,
            "projects_first": self.projects_first,
        }

    def embeddings_module(self) -> BertEmbeddings:
        """The first stage."""
        return BertEmbeddings(**self.embedding_fields())

    def layer_module(self, layer: int, relative: Any) -> transformer.TransformerLayer:
        """Builds the stage of a layer.

        Args:
          layer: its index, from 0.
          relative: the stage `embeddings` where attention reads relative positions,
            else None.

        Returns:
          The module, which is registered as "layer_<index>".
        """
        return transformer.TransformerLayer(self.block(layer), relative)

    def pooler_module(self) -> text_heads.Pooler:
        """The stage in front of the head."""
        return text_heads.Pooler()

    def head_options(self) -> HeadOptions:
        """What the head computes."""
        dropout = self.dropout if self.head_dropout is None else self.head_dropout
        if self.predict in _OF_VOCABULARY:
            return HeadOptions(
                outputs=self.vocab,
                inner=self.mask_activation,
                inner_width=self.inner_width,
                norm="layer",
                epsilon=self.epsilon,
                tied=self.tied,
            )
        if self.predict == "span":
            return HeadOptions(outputs=2)
        if self.predict == "token":
            return HeadOptions(outputs=self.outputs, dropout=dropout)
        return HeadOptions(
            outputs=1 if self.predict == "choice" else self.outputs,
            pooling=self.pooling,
            normalize=self.normalize,
            dropout=dropout,
            inner=self.inner_activation if self.inner else "",
            early_dropout=self.early_dropout and self.predict == "class",
        )

    def __call__(
        self,
        x: Any,
        mode: staged.Mode = _EVALUATION,
        start: str | None = None,
        stop: str | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        if self.predict != "choice":
            return super().__call__(x, mode, start, stop)
        choices = jax.tree.leaves(x)[0].shape[1]
        inputs = text_heads.flat_choices(x)
        out, features = super().__call__(inputs, mode, start, stop)
        out, features = text_heads.by_choice((out, features), choices)
        if "head" in features:
            out = features["head"] = features["head"][..., 0]
        return out, features

    def reduction(self) -> Callable[[Any], Any] | None:
        pooling = self.pooling if self.predict == "class" else None
        return text_heads.reduction(pooling, self.normalize)

    def tensor_rules(self) -> TensorRules | None:
        if self.has_relative:
            return None
        vocabulary = [("embeddings/token/embedding", 0)]
        if self.predict in _OF_VOCABULARY:
            vocabulary += [("head/bias", 0), ("head/dense/kernel", 1)]
            vocabulary += [("head/dense/bias", 0)]
        blocks = map(self.block, range(self.layers))
        return tensor_layout.transformer_rules(blocks, vocabulary)

    def id_sizes(self) -> dict[str, int]:
        return sequences.id_sizes(self.vocab, self.segments or None)

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": bert_layout.encoder_layout(self)}


def classifier(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a head of RoBERTa: a tanh layer of the first state, if of a class."""
    predict = fields.get("predict", "class")
    pooling = "pooler" if predict == "choice" else "first"
    fields = {"pooling": pooling, "inner": predict == "class"}
    return fields | ({"head_dropout": None} if predict == "choice" else {})


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
    entries |= classifier(fields)
    entries |= {"offset": offset, "context": entries["context"] - offset}
    return Bert(**{**entries, **fields})
