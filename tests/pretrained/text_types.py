"""Text types of transformers and the options of their configurations."""

import dataclasses

from type_parity import configurations_of

VOCAB = 31
# Short texts are within every window and beyond LongRoPE's original length, or not.
LENGTH, CONTEXT = 9, 16

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.3],
    "long_factor": [2.0, 5.0],
    "original_max_position_embeddings": 4,
    "rope_theta": 100.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
}
ROPES = [
    {"rope_type": "default", "rope_theta": 50.0},
    LONGROPE,
    {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
    LLAMA3,
    YARN,
    {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4},
]
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True)
class TextType:
    """One type.

    Attributes:
      config: name of transformers' class of configurations.
      base: entries that every configuration has.
      options: key -> values that are tried; the first is the usual one.
      dead: keys whose values change nothing of a pass in evaluation mode.
      prefix: attribute of transformers' models that has all but the head.
    """

    config: str
    base: dict
    options: dict
    dead: tuple = ()
    prefix: str = "model"


_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_SIZE_OPTIONS = {
    "vocab_size": [40],
    "hidden_size": [16],
    "num_hidden_layers": [2],
    "num_attention_heads": [4],
    "intermediate_size": [5],
    "max_position_embeddings": [11],
    "pad_token_id": [1, 4],
    "classifier_dropout": [0.2],
}
_LLAMA_OPTIONS = {
    **_SIZE_OPTIONS,
    "num_key_value_heads": [2, 1],
    "rms_norm_eps": [0.1],
    "hidden_act": ["gelu", "relu"],
    "tie_word_embeddings": [False, True],
    "rope_parameters": ROPES,
}
_LLAMA_DEAD = ("max_position_embeddings", "pad_token_id", "classifier_dropout")
_QWEN_OPTIONS = {
    **_LLAMA_OPTIONS,
    "use_sliding_window": [False, True],
    "sliding_window": [4, 2],
    "max_window_layers": [0, 1],
    "layer_types": [None, [FULL] * 3],
}
_QWEN = {**_SIZES, "num_key_value_heads": 2}
_QWEN_WINDOW = {**_QWEN, "use_sliding_window": True, "sliding_window": 4}
_GEMMA_OPTIONS = {
    **_LLAMA_OPTIONS,
    "hidden_act": ["gelu_pytorch_tanh", "relu", "gelu"],
    "tie_word_embeddings": [True, False],
    "head_dim": [4, 6],
    "attention_bias": [False, True],
    "rope_parameters": ROPES[:1] + ROPES[2:],
}
_GEMMA = {**_SIZES, "num_key_value_heads": 2, "head_dim": 4}
_GEMMA2_OPTIONS = {
    **{k: v for k, v in _GEMMA_OPTIONS.items() if k != "hidden_act"},
    "hidden_activation": ["gelu_pytorch_tanh", "relu", "gelu"],
    "query_pre_attn_scalar": [4, 9],
    "sliding_window": [4, 2],
    "layer_types": [None, [FULL, SLIDING, SLIDING]],
    "attn_logit_softcapping": [0.5, None, 2.0],
    "final_logit_softcapping": [0.5, None, 2.0],
}

TYPES = {
    "mistral": TextType(
        "MistralConfig",
        {**_SIZES, "num_key_value_heads": 2, "sliding_window": 4},
        {**_LLAMA_OPTIONS, "head_dim": [4, 6], "sliding_window": [4, None, 2]},
        _LLAMA_DEAD,
    ),
    "qwen2": TextType(
        "Qwen2Config", _QWEN_WINDOW, {**_QWEN_OPTIONS, "head_dim": [4, 6]}, _LLAMA_DEAD
    ),
    "qwen3": TextType(
        "Qwen3Config",
        {**_QWEN_WINDOW, "head_dim": 4},
        {**_QWEN_OPTIONS, "head_dim": [4, 6], "attention_bias": [False, True]},
        _LLAMA_DEAD,
    ),
    "phi3": TextType(
        "Phi3Config",
        {**_SIZES, "num_key_value_heads": 2, "original_max_position_embeddings": 4},
        {
            **_LLAMA_OPTIONS,
            "sliding_window": [None, 4],
            "resid_pdrop": [0.2],
            "original_max_position_embeddings": [4, 12],
            "rope_parameters": [
                LONGROPE,
                {"rope_type": "default", "rope_theta": 50.0},
                {**LONGROPE, "attention_factor": 1.7},
                {
                    **LONGROPE,
                    "partial_rotary_factor": 0.5,
                    "short_factor": [1.2],
                    "long_factor": [3.0],
                },
            ],
        },
        (*_LLAMA_DEAD, "resid_pdrop", "original_max_position_embeddings"),
    ),
    "gemma": TextType("GemmaConfig", _GEMMA, _GEMMA_OPTIONS, _LLAMA_DEAD),
    "gemma2": TextType(
        "Gemma2Config",
        {**_GEMMA, "query_pre_attn_scalar": 4, "sliding_window": 4},
        _GEMMA2_OPTIONS,
        _LLAMA_DEAD,
    ),
    "gemma3_text": TextType(
        "Gemma3TextConfig",
        {**_GEMMA, "query_pre_attn_scalar": 4, "sliding_window": 4},
        {
            **_GEMMA2_OPTIONS,
            "sliding_window_pattern": [2, 3],
            "rope_parameters": [
                {FULL: rope, SLIDING: {"rope_type": "default", "rope_theta": theta}}
                for rope, theta in zip(ROPES[:1] + ROPES[2:], (30.0, 60.0) * 3)
            ],
        },
        # transformers reads the one of attention nowhere
        (*_LLAMA_DEAD, "attn_logit_softcapping"),
    ),
    "gpt_neox": TextType(
        "GPTNeoXConfig",
        {**_SIZES, "hidden_size": 16},
        {
            **_SIZE_OPTIONS,
            "hidden_size": [16, 32],
            "hidden_act": ["gelu", "relu"],
            "layer_norm_eps": [0.1],
            "tie_word_embeddings": [False, True],
            "use_parallel_residual": [True, False],
            "attention_bias": [True, False],
            "hidden_dropout": [0.2],
            "rope_parameters": [
                {"rope_type": "default", "rope_theta": 50.0},
                {"rope_theta": 50.0, "partial_rotary_factor": 1.0},
                {**ROPES[2], "partial_rotary_factor": 0.5},
                {**YARN, "partial_rotary_factor": 0.5},
            ],
        },
        (*_LLAMA_DEAD, "hidden_dropout"),
        "gpt_neox",
    ),
    "gpt_neo": TextType(
        "GPTNeoConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 8,
            "num_layers": 3,
            "num_heads": 2,
            "max_position_embeddings": CONTEXT,
            "window_size": 4,
            "attention_types": [[["global", "local", "local"], 1]],
            "pad_token_id": 1,
        },
        {
            "vocab_size": [40],
            "hidden_size": [16],
            "num_layers": [3],
            "num_heads": [4],
            "max_position_embeddings": [11],
            "intermediate_size": [None, 5],
            "window_size": [4, 2],
            "attention_types": [
                [[["global", "local", "local"], 1]],
                [[["local"], 2], [["global"], 1]],
            ],
            "activation_function": ["gelu_new", "relu"],
            "layer_norm_epsilon": [0.1],
            "resid_dropout": [0.2],
            "embed_dropout": [0.2],
            "classifier_dropout": [0.2],
            "tie_word_embeddings": [True, False],
            "pad_token_id": [1, 4],
        },
        (
            "num_layers",
            "resid_dropout",
            "embed_dropout",
            "classifier_dropout",
            "pad_token_id",
        ),
        "transformer",
    ),
    "opt": TextType(
        "OPTConfig",
        {
            **{k: v for k, v in _SIZES.items() if k != "intermediate_size"},
            "ffn_dim": 12,
            "word_embed_proj_dim": 8,
        },
        {
            **{
                k: v
                for k, v in _SIZE_OPTIONS.items()
                if k not in ("intermediate_size", "classifier_dropout", "hidden_size")
            },
            "hidden_size": [8, 16],
            "ffn_dim": [5],
            "word_embed_proj_dim": [8, 6],
            "activation_function": ["relu", "gelu"],
            "do_layer_norm_before": [True, False],
            "_remove_final_layer_norm": [False, True],
            "enable_bias": [True, False],
            "layer_norm_elementwise_affine": [True, False],
            "dropout": [0.2],
            "tie_word_embeddings": [True, False],
        },
        ("pad_token_id", "dropout"),
    ),
}


_ENCODER_OPTIONS = {
    **{k: v for k, v in _SIZE_OPTIONS.items() if k != "pad_token_id"},
    "type_vocab_size": [2, 1, 3],
    "hidden_act": ["gelu", "relu", "gelu_new"],
    "layer_norm_eps": [0.1],
    "hidden_dropout_prob": [0.3],
    "is_decoder": [False, True],
    "tie_word_embeddings": [True, False],
}


_ROBERTA_OPTIONS = {
    **_ENCODER_OPTIONS,
    "pad_token_id": [1, 4],
    "max_position_embeddings": [20],
}


def _without(options: dict, *keys: str) -> dict:
    return {k: v for k, v in options.items() if k not in keys}


TYPES |= {
    "bert": TextType("BertConfig", _SIZES, _ENCODER_OPTIONS),
    "roberta": TextType("RobertaConfig", _SIZES, _ROBERTA_OPTIONS),
    "xlm-roberta": TextType("XLMRobertaConfig", _SIZES, _ROBERTA_OPTIONS),
    "camembert": TextType("CamembertConfig", _SIZES, _ROBERTA_OPTIONS),
    "distilbert": TextType(
        "DistilBertConfig",
        {
            "vocab_size": VOCAB,
            "dim": 8,
            "n_layers": 3,
            "n_heads": 2,
            "hidden_dim": 12,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": 1,
        },
        {
            "vocab_size": [40],
            "dim": [16],
            "n_layers": [2],
            "n_heads": [4],
            "hidden_dim": [5],
            "max_position_embeddings": [11],
            "activation": ["gelu", "relu"],
            "dropout": [0.3],
            "seq_classif_dropout": [0.3],
            "tie_word_embeddings": [True, False],
        },
    ),
    "electra": TextType(
        "ElectraConfig",
        {**_SIZES, "embedding_size": 6},
        {
            **_ENCODER_OPTIONS,
            "embedding_size": [6, 8],
            "summary_type": ["first"],
            "summary_use_proj": [True],
            "summary_activation": ["gelu"],
        },
    ),
    "mpnet": TextType(
        "MPNetConfig",
        {**_SIZES, "max_position_embeddings": 48},
        {
            **_without(
                _ENCODER_OPTIONS, "type_vocab_size", "classifier_dropout", "is_decoder"
            ),
            "max_position_embeddings": [20],
        },
    ),
    "modernbert": TextType(
        "ModernBertConfig",
        {**_SIZES, "local_attention": 6},
        {
            **_without(_SIZE_OPTIONS, "pad_token_id"),
            "hidden_activation": ["gelu", "relu"],
            "norm_eps": [0.1],
            "norm_bias": [False, True],
            "attention_bias": [False, True],
            "mlp_bias": [False, True],
            "local_attention": [6, 2, 3],
            "global_attn_every_n_layers": [2],
            "layer_types": [None, [FULL, SLIDING, SLIDING], [SLIDING, FULL, FULL]],
            "rope_parameters": [
                {
                    FULL: {"rope_type": "default", "rope_theta": theta},
                    SLIDING: {"rope_type": "default", "rope_theta": 7 * theta},
                }
                for theta in (50.0, 20.0)
            ],
            "embedding_dropout": [0.2],
            "classifier_pooling": ["cls", "mean"],
            "classifier_activation": ["gelu", "relu"],
            "classifier_bias": [False, True],
            "decoder_bias": [True, False],
            "tie_word_embeddings": [True, False],
        },
    ),
    "deberta-v2": TextType(
        "DebertaV2Config",
        {
            **_SIZES,
            "relative_attention": True,
            "position_buckets": 4,
            "max_relative_positions": -1,
        },
        {
            **_without(_ENCODER_OPTIONS, "classifier_dropout", "is_decoder"),
            "type_vocab_size": [0, 2],
            "embedding_size": [8, 6],
            "relative_attention": [True, True, True, True, False],
            "share_att_key": [True, False],
            "pos_att_type": [["p2c", "c2p"], "c2p", "p2c", "p2c|c2p", None],
            "position_buckets": [4, -1, 8],
            "max_relative_positions": [-1, 6, 12],
            "norm_rel_ebd": ["layer_norm", "none"],
            "position_biased_input": [False, True],
            "conv_kernel_size": [0, 3, 5],
            "conv_groups": [1, 2],
            "conv_act": ["tanh", "gelu"],
            "pooler_hidden_act": ["gelu", "tanh"],
            "pooler_dropout": [0.2],
            "pooler_hidden_size": [8],
            "cls_dropout": [0.2],
            "legacy": [True, False],
        },
    ),
    "albert": TextType(
        "AlbertConfig",
        {**_SIZES, "embedding_size": 6},
        {
            **_without(_ENCODER_OPTIONS, "classifier_dropout", "is_decoder"),
            "embedding_size": [6, 8],
            "num_hidden_groups": [1, 2],
            "classifier_dropout_prob": [0.2],
        },
    ),
}


# Types whose options are in test_config_parity.py; here are their heads.
PLAIN_TYPES = {
    "gpt2": TextType(
        "GPT2Config",
        {
            "vocab_size": VOCAB,
            "n_embd": 8,
            "n_layer": 3,
            "n_head": 2,
            "n_positions": CONTEXT,
            "pad_token_id": 1,
        },
        {},
    ),
    "llama": TextType("LlamaConfig", _SIZES, {}),
}


def configurations(kind: str) -> list[dict]:
    """Configurations of a type that have every value of every option among them."""
    return [_valid(config) for config in configurations_of(TYPES[kind])]


def _valid(config: dict) -> dict:
    """The configuration with lists of the lengths that its numbers ask for."""
    rope, types = config.get("rope_parameters") or {}, config.get("layer_types")
    if "pooler_hidden_size" in config:
        config["pooler_hidden_size"] = config["hidden_size"]
    if types:
        config["layer_types"] = types[: config["num_hidden_layers"]]
    if rope.get("rope_type") == "longrope":
        size = config["hidden_size"] // config["num_attention_heads"]
        size = config.get("head_dim") or size
        pairs = int(size * rope.get("partial_rotary_factor", 1.0)) // 2
        factors = {
            k: (rope[k] * pairs)[:pairs] for k in ("short_factor", "long_factor")
        }
        config["rope_parameters"] = {**rope, **factors}
    return config
