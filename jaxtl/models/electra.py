"""ELECTRA: BERT with narrower embeddings and a GELU layer in its head.

References:
  Clark et al.: ELECTRA, ICLR 2020.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    names = bert_layout.BERT_NAMES | {"embeddings/project": "embeddings_project"}

    @property
    def root(self) -> str:
        return "electra"

    @property
    def inner_width(self) -> int | None:
        return None if self.token_width == self.width else self.token_width


_SUMMARY = (
    "summary_type",
    "summary_use_proj",
    "summary_activation",
    "summary_last_dropout",
    "summary_first_dropout",
)
CONFIG = dataclasses.replace(
    bert_config.BERT_CONFIG,
    family="electra",
    stem="Electra",
    honored={
        **bert_config.BERT_CONFIG.honored,
        "embedding_size": Key("token_width", config_values.count, 128),
    },
    harmless={
        **bert_config.BERT_CONFIG.harmless,
        **dict.fromkeys(_SUMMARY, "a head of multiple choice, which is left out"),
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Electra:
    """Builds the model that a Hugging Face config.json of type "electra" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    inner = fields.get("predict", "class") == "class"
    return Electra(**{**CONFIG.fields(config), "inner": inner, **fields})
