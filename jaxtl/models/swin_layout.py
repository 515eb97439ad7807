"""Names and configurations of Swin and Swin V2 in transformers."""

import dataclasses
import re
from typing import Any

from jaxtl.models import config_values, weight_layout
from jaxtl.models.config_table import ConfigTable, Key, Only
from jaxtl.models.weight_layout import Rule, WeightLayout

# Parts of names in files, and within the models of transformers 5; of Swin alone.
_NAMES = (
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    (
        "attention.self.relative_position_bias_table",
        "attention.relative_position_bias.relative_position_bias_table",
    ),
)


def hf_layout(model: Any) -> WeightLayout:
    """The naming of transformers, for a `swin.Swin`."""
    root = "swinv2." if model.is_second else "swin."
    names = () if model.is_second else _NAMES
    source = f"{root}embeddings"
    rules = weight_layout.conv(
        f"{source}.patch_embeddings.projection", "embeddings/patch", bias=True
    )
    rules += weight_layout.norm(f"{source}.norm", "embeddings/norm")
    if model.has_position:
        rules.append(Rule(f"{source}.position_embeddings", "embeddings/position"))
    for i, size in enumerate(model.sizes):
        source, path = f"{root}encoder.layers.{i}", f"stage{i + 1}"
        for b in range(size):
            rules += _block(model, f"{source}.blocks.{b}", f"{path}/block{b}")
        if i + 1 < len(model.sizes):
            source = f"{source}.downsample"
            rules += weight_layout.norm(f"{source}.norm", f"{path}/shrink_norm")
            reduction = f"{source}.reduction"
            rules += weight_layout.linear(reduction, f"{path}/shrink", bias=False)
    rules += weight_layout.norm(f"{root}layernorm", "norm/norm")
    rules += weight_layout.linear("classifier", "head/dense")
    return WeightLayout(
        tuple(rules),
        ignored=(r".*\.(relative_position_index|relative_coords_table|attn_mask)",),
        unused=(rf"({root})?embeddings\.mask_token", r"decoder\.0\.(weight|bias)"),
        prefixes=("module.", root),
        renames=tuple(_part(new, old) for old, new in names),
        modules=tuple(_part(old, new) for old, new in names),
        stem="embeddings/patch/kernel",
        **weight_layout.IMAGENET,
    )


def _part(old: str, new: str) -> tuple[str, str]:
    """(Regular expression of a part of a block's name, its replacement)."""
    return rf"(\.blocks\.\d+)\.{re.escape(old)}(?=\.|$)", rf"\1.{new}"


def _block(model: Any, source: str, path: str) -> list[Rule]:
    """Rules of one block."""
    rules, attention = [], f"{path}/windows/attention"
    for part in ("query", "key", "value"):
        bias = model.qkv_bias and not (model.is_second and part == "key")
        name = f"{source}.attention.self.{part}"
        rules += weight_layout.linear(name, f"{attention}/{part}", bias)
    rules += weight_layout.linear(
        f"{source}.attention.output.dense", f"{attention}/out"
    )
    name, windows = f"{source}.attention.self", f"{path}/windows"
    if model.is_second:
        rules.append(Rule(f"{name}.logit_scale", f"{attention}/logit_scale"))
        name = f"{name}.continuous_position_bias_mlp"
        rules += weight_layout.linear(f"{name}.0", f"{windows}/distance/in")
        rules += weight_layout.linear(
            f"{name}.2", f"{windows}/distance/out", bias=False
        )
    else:
        table = f"{name}.relative_position_bias_table"
        rules.append(Rule(table, f"{windows}/relative/table"))
    rules += weight_layout.norm(f"{source}.layernorm_before", f"{path}/attention_norm")
    rules += weight_layout.linear(f"{source}.intermediate.dense", f"{path}/mlp/in")
    rules += weight_layout.linear(f"{source}.output.dense", f"{path}/mlp/out")
    return rules + weight_layout.norm(f"{source}.layernorm_after", f"{path}/mlp_norm")


_BACKBONE = "the form of a backbone's feature maps"
SWIN_CONFIG = ConfigTable(
    "swin",
    stem="Swin",
    predicts=(None,),
    honored={
        "image_size": Key("size", config_values.side, 224),
        "patch_size": Key("patch", config_values.side, 4),
        "embed_dim": Key("width", config_values.count, 96),
        "depths": Key("sizes", config_values.counts, (2, 2, 6, 2)),
        "num_heads": Key("heads", config_values.counts, (3, 6, 12, 24)),
        "window_size": Key("window", config_values.count, 7),
        "mlp_ratio": Key("ratio", config_values.positive, 4.0),
        "qkv_bias": Key("qkv_bias", config_values.flag, True),
        "hidden_act": Key("activation", config_values.activation, "gelu_exact"),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-5),
        "hidden_dropout_prob": Key("dropout", config_values.rate, 0.0),
        "drop_path_rate": Key("drop_path", config_values.rate, 0.1),
        "use_absolute_embeddings": Key("has_position", config_values.flag, False),
    },
    read_by_family=("num_channels",),
    harmless={
        "attention_probs_dropout_prob": "attention weights have no dropout here",
        "encoder_stride": "the decoder of masked image modeling is left out",
        "num_layers": "the number of depths decides",
        "path_norm": "transformers reads it nowhere; patches always have a norm",
        "hidden_size": "embed_dim and the number of depths decide",
        "num_hidden_layers": "the number of depths decides",
        **dict.fromkeys(("out_features", "out_indices", "stage_names"), _BACKBONE),
    },
    aliases={"num_attention_heads": "num_heads"},
)
SWINV2_CONFIG = dataclasses.replace(
    SWIN_CONFIG,
    family="swinv2",
    stem="Swinv2",
    honored={
        **{
            k: v
            for k, v in SWIN_CONFIG.honored.items()
            if k != "use_absolute_embeddings"
        },
        "pretrained_window_sizes": Key("trained_windows", config_values.indices, ()),
    },
    only={
        "use_absolute_embeddings": Only(
            (False,), "position vectors, one more than transformers has patches for"
        )
    },
)
