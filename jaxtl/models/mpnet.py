"""MPNet: BERT without segments, with relative positions in attention.

References:
  Song et al.: MPNet, NeurIPS 2020.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.models import bert, bert_config, bert_layout
from jaxtl.models.bert_config import ENCODER_PREDICTS
from jaxtl.models.config_table import Only

# The id of padding is 1 whatever config.json says, as in transformers.
_OFFSET = 2


class MPNet(bert.Bert):
    """Stages `embeddings, layer_0 … layer_{n−1}, head`; see `Bert`."""

    segments: int = 0
    pooling: str = "first"
    inner: bool = True
    offset: int = _OFFSET

    names = bert_layout.BERT_NAMES | {
        "embeddings/relative": "encoder.relative_attention_bias",
        "attention/query": "attention.attn.q",
        "attention/key": "attention.attn.k",
        "attention/value": "attention.attn.v",
        "attention/out": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
    }

    @property
    def root(self) -> str:
        return "mpnet"

    @property
    def has_relative(self) -> bool:
        return True


_LEFT_OUT = ("type_vocab_size", "classifier_dropout", "is_decoder")
CONFIG = dataclasses.replace(
    bert_config.BERT_CONFIG,
    family="mpnet",
    stem="MPNet",
    predicts=ENCODER_PREDICTS,
    honored={
        k: v for k, v in bert_config.BERT_CONFIG.honored.items() if k not in _LEFT_OUT
    },
    only={
        **bert_config.BERT_CONFIG.only,
        "relative_attention_num_buckets": Only((32, None), "other distances"),
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> MPNet:
    """Builds the model that a Hugging Face config.json of type "mpnet" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    entries["context"] -= _OFFSET
    return MPNet(**{**entries, **bert.classifier(fields), **fields})
