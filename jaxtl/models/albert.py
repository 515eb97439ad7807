"""ALBERT: BERT whose layers share their weights, with narrower embeddings.

References:
  Lan et al.: ALBERT, ICLR 2020.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.models import bert, bert_config, bert_layout, config_values
from jaxtl.models.bert_config import ENCODER_PREDICTS
from jaxtl.models.config_table import Key, Only


class Albert(bert.Bert):
    """Stages `embeddings, layer_0 … layer_{n−1}, [pooler,] head`; see `Bert`.

    A stage whose layer has the weights of an earlier one has no parameters of its own,
    and trains where that one does.

    Attributes:
      token_width: of the embeddings, which are projected to `width`.
      groups: number of different layers, each repeated in a row.
    """

    token_width: int = 128
    groups: int = 1

    names = bert_layout.BERT_NAMES | {
        "embeddings/project": "encoder.embedding_hidden_mapping_in",
        "attention/query": "attention.query",
        "attention/key": "attention.key",
        "attention/value": "attention.value",
        "attention/out": "attention.dense",
        "attention_norm": "attention.LayerNorm",
        "mlp/in": "ffn",
        "mlp/out": "ffn_output",
        "mlp_norm": "full_layer_layer_norm",
        "pooler": "pooler",
        "mask/inner": "predictions.dense",
        "mask/norm": "predictions.LayerNorm",
        "mask/dense": "predictions.decoder",
        "mask/bias": "predictions.bias",
    }

    @property
    def root(self) -> str:
        return "albert"

    @property
    def inner_width(self) -> int | None:
        return self.token_width

    def _group(self, layer: int) -> int:
        return int(layer / (self.layers / self.groups))

    def source_layer(self, layer: int) -> int:
        groups = [self._group(i) for i in range(self.layers)]
        return groups.index(groups[layer])

    def layer_name(self, layer: int) -> str:
        return f"encoder.albert_layer_groups.{self._group(layer)}.albert_layers.0"


_RENAMED = ("classifier_dropout", "is_decoder")
CONFIG = dataclasses.replace(
    bert_config.BERT_CONFIG,
    family="albert",
    stem="Albert",
    predicts=ENCODER_PREDICTS,
    honored={
        **{
            k: v
            for k, v in bert_config.BERT_CONFIG.honored.items()
            if k not in _RENAMED
        },
        "embedding_size": Key("token_width", config_values.count, 128),
        "num_hidden_groups": Key("groups", config_values.count, 1),
        "hidden_act": Key("activation", config_values.activation, "gelu_tanh"),
        "hidden_dropout_prob": Key("dropout", config_values.rate, 0.0),
        "classifier_dropout_prob": Key("head_dropout", config_values.rate, 0.1),
    },
    harmless={
        **bert_config.BERT_CONFIG.harmless,
        "down_scale_factor": "transformers reads it nowhere",
        "gap_size": "transformers reads it nowhere",
        "net_structure_type": "transformers reads it nowhere",
        "num_memory_blocks": "transformers reads it nowhere",
    },
    only={
        **bert_config.BERT_CONFIG.only,
        "inner_group_num": Only((1, None), "several layers in each group"),
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Albert:
    """Builds the model that a Hugging Face config.json of type "albert" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    return Albert(**{**CONFIG.fields(config), **fields})
