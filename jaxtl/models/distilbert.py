"""DistilBERT: BERT without segments and pooler, with a ReLU layer in its head.

References:
  Sanh et al.: DistilBERT, arXiv:1910.01108.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import bert, bert_layout, config_values
from jaxtl.models.bert_config import ENCODER_PREDICTS
from jaxtl.models.config_table import ConfigTable, Key


class DistilBert(bert.Bert):
    """Stages `embeddings, layer_0 … layer_{n−1}, head`; see `Bert`."""

    layers: int = 6
    segments: int = 0
    pooling: str = "first"
    inner: bool = True

    inner_activation = "relu"
    early_dropout = False
    names = bert_layout.BERT_NAMES | {
        "layer": "transformer.layer.{}",
        "attention/query": "attention.q_lin",
        "attention/key": "attention.k_lin",
        "attention/value": "attention.v_lin",
        "attention/out": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "mlp/in": "ffn.lin1",
        "mlp/out": "ffn.lin2",
        "mlp_norm": "output_layer_norm",
        "inner": "pre_classifier",
        "outer": "classifier",
        "mask/inner": "vocab_transform",
        "mask/norm": "vocab_layer_norm",
        "mask/dense": "vocab_projector",
        "mask/bias": "vocab_projector.bias",
    }

    @property
    def root(self) -> str:
        return "distilbert"


CONFIG = ConfigTable(
    "distilbert",
    stem="DistilBert",
    predicts=ENCODER_PREDICTS,
    honored={
        "vocab_size": Key("vocab", config_values.count),
        "dim": Key("width", config_values.count),
        "n_layers": Key("layers", config_values.count),
        "n_heads": Key("heads", config_values.count),
        "hidden_dim": Key("hidden", config_values.count),
        "max_position_embeddings": Key("context", config_values.count, 512),
        "activation": Key("activation", config_values.activation, "gelu_exact"),
        "dropout": Key("dropout", config_values.rate, 0.1),
        "seq_classif_dropout": Key("head_dropout", config_values.rate, 0.2),
        "tie_word_embeddings": Key("tied", config_values.flag, True),
    },
    harmless={
        "attention_dropout": "attention weights have no dropout here",
        "qa_dropout": "a head of spans has no dropout here",
        "sinusoidal_pos_embds": "initial values of the positions; files hold them",
        "tie_weights_": "transformers reads it nowhere",
    },
    aliases={
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> DistilBert:
    """Builds the model that a Hugging Face config.json of type "distilbert" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    if fields.get("predict", "class") not in ("class", "choice"):
        # a head of tokens has the dropout of the layers
        entries |= {"head_dropout": None, "inner": False}
    return DistilBert(**{**entries, **fields})
