"""Keys of config.json of the families "bert" and "roberta"."""

import dataclasses

from jaxtl.models import config_values
from jaxtl.models.config_table import ConfigTable, Key, Only

_CROSS_ATTENTION = "another model's states are never given, so it does not run"
_ENTRIES = {
    "vocab_size": Key("vocab", config_values.count),
    "hidden_size": Key("width", config_values.count),
    "num_hidden_layers": Key("layers", config_values.count),
    "num_attention_heads": Key("heads", config_values.count),
    "intermediate_size": Key("hidden", config_values.count),
    "max_position_embeddings": Key("context", config_values.count),
    "type_vocab_size": Key("segments", config_values.count, 2),
    "hidden_act": Key("activation", config_values.activation, "gelu_exact"),
    "layer_norm_eps": Key("epsilon", config_values.positive, 1e-12),
    "hidden_dropout_prob": Key("dropout", config_values.rate, 0.1),
    "classifier_dropout": Key("head_dropout", config_values.rate, None),
    "is_decoder": Key("causal", config_values.flag, False),
    "tie_word_embeddings": Key("tied", config_values.flag, True),
}
_HARMLESS = {
    "attention_probs_dropout_prob": "attention weights have no dropout here",
    "add_cross_attention": _CROSS_ATTENTION,
    **dict.fromkeys(
        (
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
        ),
        "notes of the TensorFlow version; the pooler is one layer",
    ),
    **dict.fromkeys(
        ("cell", "emb_size", "pre_trained", "structure", "training"),
        "notes of TinyBERT, which transformers reads nowhere",
    ),
}
_ONLY = {
    "position_embedding_type": Only(("absolute", None), "positions relative to a key"),
    "directionality": Only(("bidi", None), "attention in one direction"),
    "pooler_type": Only(("first_token_transform", None), "another pooler"),
}
# What transformers has heads for in every type of encoders.
ENCODER_PREDICTS = ("class", "token", "span", "choice", "mask")
BERT_CONFIG = ConfigTable(
    "bert",
    _ENTRIES,
    harmless=_HARMLESS,
    only=_ONLY,
    stem="Bert",
    predicts=(*ENCODER_PREDICTS[:-1], "next", "mask"),
    classes={"next": "BertLMHeadModel"},
)
ROBERTA_CONFIGS = {
    kind: dataclasses.replace(
        BERT_CONFIG,
        family=kind,
        read_by_family=("pad_token_id",),
        stem=stem,
        classes={},
    )
    for kind, stem in (
        ("roberta", "Roberta"),
        ("xlm-roberta", "XLMRoberta"),
        ("camembert", "Camembert"),
    )
}
