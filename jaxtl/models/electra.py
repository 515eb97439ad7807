"""ELECTRA: BERT with narrower embeddings and a GELU layer in its head.

References:
  Clark et al.: ELECTRA, ICLR 2020.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.models import bert, bert_config, bert_layout, config_values
from jaxtl.models.config_table import Key


class Electra(bert.Bert):
    """Stages `embeddings, layer_0 … layer_{n−1}, head`; see `Bert`.

    Attributes:
      token_width: of the embeddings, which are projected to `width` where it differs.
    """

    token_width: int = 128
    pooling: str = "first"
    inner: bool = True

    inner_activation = "gelu_exact"
    names = bert_layout.BERT_NAMES | {
        "embeddings/project": "embeddings_project",
        "mask/inner": "generator_predictions.dense",
        "mask/norm": "generator_predictions.LayerNorm",
        "mask/dense": "generator_lm_head",
        "mask/bias": "generator_lm_head.bias",
    }

    @property
    def root(self) -> str:
        return "electra"

    @property
    def head_names(self) -> Mapping[str, str]:
        names = super().head_names
        if self.predict != "choice":
            return names
        return names | {"inner": "sequence_summary.summary", "dense": "classifier"}

    @property
    def mask_activation(self) -> str:
        return "gelu_exact"

    @property
    def inner_width(self) -> int | None:
        return None if self.token_width == self.width else self.token_width


# Key of a head of multiple choice -> its value here.
_SUMMARY = {
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": "gelu",
}
_DROPOUTS = ("summary_last_dropout", "summary_first_dropout")
CONFIG = dataclasses.replace(
    bert_config.BERT_CONFIG,
    family="electra",
    stem="Electra",
    classes={},
    honored={
        **bert_config.BERT_CONFIG.honored,
        "embedding_size": Key("token_width", config_values.count, 128),
    },
    read_by_family=tuple(_SUMMARY),
    harmless={
        **bert_config.BERT_CONFIG.harmless,
        **dict.fromkeys(_DROPOUTS, "the head's dropout is that of a classifier"),
        "generator_size": "of the network that pre-training replaced tokens by",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Electra:
    """Builds the model that a Hugging Face config.json of type "electra" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    predict = fields.get("predict", "class")
    for key, value in _SUMMARY.items() if predict == "choice" else ():
        if config.get(key, value) != value:
            raise UserError(
                f"config.json of type 'electra': {key} {config_values.shown(value)} is "
                f"what a head of multiple choice has here; got "
                f"{config_values.shown(config[key])}."
            )
    inner = predict in ("class", "choice")
    return Electra(**{**CONFIG.fields(config), "inner": inner, **fields})
