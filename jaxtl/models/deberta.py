"""DeBERTa v2 and v3: BERT whose attention reads relative positions by themselves.

References:
  He et al.: DeBERTa, ICLR 2021; DeBERTaV3, ICLR 2023.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.models import bert, bert_config, bert_layout, config_values, weight_layout
from jaxtl.models.config_table import Key, Only
from jaxtl.models.layers import disentangled, text_heads, transformer
from jaxtl.models.layers.bert_embeddings import BertEmbeddings
from jaxtl.models.layers.text_heads import HeadOptions
from jaxtl.models.weight_layout import Rule, WeightLayout

_KINDS = {"c2p": "position_key", "p2c": "position_query"}
_MASK = {
    "mask/inner": "lm_predictions.lm_head.dense",
    "mask/norm": "lm_predictions.lm_head.LayerNorm",
    "mask/dense": "lm_predictions.lm_head.decoder",
    "mask/bias": "lm_predictions.lm_head.bias",
}


class Deberta(bert.Bert):
    """Stages `embeddings, layer_0 … layer_{n−1}, [pooler,] head`; see `Bert`.

    Attributes:
      token_width: of the embeddings, which are projected to `width`; None for `width`.
      absolute: whether the embeddings have positions.
      relative: whether attention has relative positions; the next five are theirs.
      kinds: of its products, see `DisentangledEmbeddings`; their number scales those
        of queries and keys too.
      longest: distance from which all are the same; None takes `context`.
      buckets: number of buckets of distances; 0 for one per distance.
      shared: whether positions are mapped as the tokens are.
      normalized: whether vectors of positions are normalized.
      kernel: number of tokens of the convolution in the first layer, 0 for none.
      conv_groups, conv_activation: of the convolution.
      dropout: of embeddings, sublayers and the convolution. (Neither attention weights
        nor the vectors of relative positions have any; transformers' have.)
      pooler_activation, pooler_dropout: of the pooler.
      legacy: names of the head of the vocabulary: those of BERT, else DeBERTa's own.
    """

    vocab: int = 128_100
    segments: int = 0
    epsilon: float = 1e-7
    token_width: int | None = None
    absolute: bool = True
    relative: bool = False
    kinds: tuple[str, ...] = ()
    longest: int | None = None
    buckets: int = 0
    shared: bool = False
    normalized: bool = False
    kernel: int = 0
    conv_groups: int = 1
    conv_activation: str = "tanh"
    pooler_activation: str = "gelu_exact"
    pooler_dropout: float = 0.0
    legacy: bool = True

    root = "deberta"
    pooler_name = "pooler.dense"
    projects_first = True
    names = bert_layout.BERT_NAMES | {
        "embeddings/project": "embeddings.embed_proj",
        "embeddings/relative": "encoder.rel_embeddings",
        "attention/query": "attention.self.query_proj",
        "attention/key": "attention.self.key_proj",
        "attention/value": "attention.self.value_proj",
        "attention/position_query": "attention.self.pos_query_proj",
        "attention/position_key": "attention.self.pos_key_proj",
    }

    @property
    def has_positions(self) -> bool:
        return self.absolute

    @property
    def has_relative(self) -> bool:
        return self.relative

    @property
    def inner_width(self) -> int | None:
        return None if self.token_width == self.width else self.token_width

    @property
    def head_names(self) -> Mapping[str, str]:
        names = self.names if self.legacy else self.names | _MASK
        return bert_layout.head_names(names, self.predict, self.inner)

    def head_options(self) -> HeadOptions:
        options = super().head_options()
        if self.predict == "mask" and not self.legacy:
            return dataclasses.replace(options, tied=True, inner_width=self.width)
        return options

    def block(self, layer: int = 0) -> transformer.Block:
        maps = () if self.shared or not self.relative else map(_KINDS.get, self.kinds)
        return dataclasses.replace(
            super().block(layer),
            scale=(self.width // self.heads * (1 + len(self.kinds))) ** -0.5,
            relative_maps=tuple(maps),
        )

    def embeddings_module(self) -> BertEmbeddings:
        fields, longest = self.embedding_fields(), self.longest or self.context
        if not self.relative:
            return BertEmbeddings(**fields)
        return disentangled.DisentangledEmbeddings(
            **{**fields, "relative_heads": 0},
            span=self.buckets or longest,
            buckets=self.buckets,
            longest=longest,
            kinds=tuple(self.kinds),
            shared=self.shared,
            normalized=self.normalized,
        )

    def layer_module(self, layer: int, relative: Any) -> transformer.TransformerLayer:
        if layer or not self.kernel:
            return super().layer_module(layer, relative)
        return disentangled.ConvolvedLayer(
            self.block(layer),
            relative,
            channels=self.width,
            kernel=self.kernel,
            groups=self.conv_groups,
            conv_activation=self.conv_activation,
        )

    def pooler_module(self) -> text_heads.Pooler:
        return text_heads.Pooler(self.pooler_activation, self.pooler_dropout)

    def layouts(self) -> dict[str, WeightLayout]:
        layout, rules = super().layouts()["hf"], []
        encoder = f"{self.root}.encoder"
        if self.relative and self.normalized:
            rules += weight_layout.norm(
                f"{encoder}.LayerNorm", "embeddings/relative_norm"
            )
        if self.kernel:
            rules.append(
                Rule(f"{encoder}.conv.conv.weight", "layer_0/conv/kernel", "conv1d")
            )
            rules.append(Rule(f"{encoder}.conv.conv.bias", "layer_0/conv_bias"))
            rules += weight_layout.norm(
                f"{encoder}.conv.LayerNorm", "layer_0/conv_norm"
            )
        unused = (
            r"(mask|lm)_predictions\..*",
            r".*embeddings\.position_embeddings\..*",
        )
        return {
            "hf": dataclasses.replace(
                layout,
                rules=layout.rules + tuple(rules),
                unused=layout.unused + unused,
            )
        }


_NORMS = {"none": False, "layer_norm": True}
_LEFT_OUT = ("classifier_dropout", "is_decoder")
CONFIG = dataclasses.replace(
    bert_config.BERT_CONFIG,
    family="deberta-v2",
    stem="DebertaV2",
    predicts=bert_config.ENCODER_PREDICTS,
    classes={},
    honored={
        **{
            k: v
            for k, v in bert_config.BERT_CONFIG.honored.items()
            if k not in _LEFT_OUT
        },
        "type_vocab_size": Key("segments", config_values.index, 0),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-7),
        "embedding_size": Key(
            "token_width", config_values.optional(config_values.count), None
        ),
        "cls_dropout": Key("head_dropout", config_values.rate, None),
        "position_biased_input": Key("absolute", config_values.flag, True),
        "relative_attention": Key("relative", config_values.flag, False),
        "share_att_key": Key("shared", config_values.flag, False),
        "conv_kernel_size": Key("kernel", config_values.index, 0),
        "conv_groups": Key("conv_groups", config_values.count, 1),
        "conv_act": Key("conv_activation", config_values.activation, "tanh"),
        "pooler_hidden_act": Key(
            "pooler_activation", config_values.activation, "gelu_exact"
        ),
        "pooler_dropout": Key("pooler_dropout", config_values.rate, 0.0),
        "legacy": Key("legacy", config_values.flag, True),
        "pos_att_type": Key("kinds", config_values.some_of(*_KINDS), ()),
        "max_relative_positions": Key("longest", config_values.count_or(None), None),
        "position_buckets": Key("buckets", config_values.count_or(0), 0),
        "norm_rel_ebd": Key("normalized", config_values.renamed(_NORMS), False),
    },
    read_by_family=("attention_head_size", "pooler_hidden_size"),
    only={"z_steps": Only((0, 1, None), "further passes through the last layer")},
)


def _check_sizes(config: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    """Raises UserError for sizes that no pass of transformers runs with."""
    width = entries["width"]
    expected = {
        "attention_head_size": width // entries["heads"],
        "pooler_hidden_size": width,
    }
    for key, size in expected.items():
        if config.get(key, size) not in (None, size):
            raise UserError(
                f"config.json: {key} is {config_values.shown(config[key])}; expected "
                f"{size}, which follows from hidden_size {width}."
            )
    if entries["kernel"] and entries["kernel"] % 2 == 0:
        raise UserError(
            f"config.json: conv_kernel_size is {entries['kernel']}; expected an odd "
            "number, so that the convolution keeps the number of tokens."
        )


def from_config(config: Mapping[str, Any], **fields: Any) -> Deberta:
    """Builds the model that a Hugging Face config.json of type "deberta-v2" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    _check_sizes(config, entries)
    if fields.get("predict") == "token":  # its head has the dropout of the layers
        entries["head_dropout"] = None
    return Deberta(**{**entries, **fields})
