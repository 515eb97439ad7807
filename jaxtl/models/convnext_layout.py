"""Tensors and configuration keys of ConvNeXt: transformers' and timm's."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.models import config_values, weight_layout
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.weight_layout import Rule, WeightLayout


def _rules(
    names: Mapping[str, str],
    sizes: Sequence[int],
    has_scale: bool,
    response_norm: str,
) -> list[Rule]:
    """Rules of all layers.

    Args:
      names: part -> its name in the file; {i} and {b} stand for stage and block.
      sizes: blocks of each stage.
      has_scale: whether blocks have factors.
      response_norm: transform of the response norms' leaves, "" for none.
    """
    rules = [
        *weight_layout.conv(names["patch"], "stem/patch", bias=True),
        *weight_layout.norm(names["patch_norm"], "stem/norm"),
    ]
    for i, size in enumerate(sizes):
        stage = f"stage{i + 1}"
        if i > 0:
            source = names["shrink"].format(i=i)
            rules += weight_layout.norm(f"{source}.0", f"{stage}/shrink_norm")
            rules += weight_layout.conv(f"{source}.1", f"{stage}/shrink_conv", True)
        for b in range(size):
            part = {k: v.format(i=i, b=b) for k, v in names.items()}
            path = f"{stage}/block{b}"
            rules += weight_layout.conv(part["depthwise"], f"{path}/depthwise", True)
            rules += weight_layout.norm(part["norm"], f"{path}/norm")
            for layer in ("expand", "project"):
                # timm's smaller models have 1×1 convolutions in place of Linear
                rules += [
                    Rule(
                        f"{part[layer]}.weight",
                        f"{path}/{layer}/kernel",
                        "linear_or_conv",
                    ),
                    Rule(f"{part[layer]}.bias", f"{path}/{layer}/bias"),
                ]
            if has_scale:
                rules.append(Rule(part["layer_scale"], f"{path}/layer_scale"))
            if response_norm:
                source, target = part["response_norm"], f"{path}/response_norm"
                rules += [
                    Rule(f"{source}.weight", f"{target}/scale", response_norm),
                    Rule(f"{source}.bias", f"{target}/bias", response_norm),
                ]
    rules += weight_layout.norm(names["last_norm"], "norm/norm")
    return rules + weight_layout.linear(names["head"], "head/dense")


def hf_layout(
    sizes: Sequence[int], has_scale: bool, response_norm: bool
) -> WeightLayout:
    """The naming of transformers; arguments are fields of `ConvNeXt`."""
    owner = "convnextv2" if response_norm else "convnext"
    block = f"{owner}.encoder.stages.{{i}}.layers.{{b}}"
    names = {
        "patch": f"{owner}.embeddings.patch_embeddings",
        "patch_norm": f"{owner}.embeddings.layernorm",
        "shrink": f"{owner}.encoder.stages.{{i}}.downsampling_layer",
        "depthwise": f"{block}.dwconv",
        "norm": f"{block}.layernorm",
        "expand": f"{block}.pwconv1",
        "project": f"{block}.pwconv2",
        "layer_scale": f"{block}.layer_scale_parameter",
        "response_norm": f"{block}.grn",
        "last_norm": f"{owner}.layernorm",
        "head": "classifier",
    }
    kind = "last_axis" if response_norm else ""
    return _layout(_rules(names, sizes, has_scale, kind), ("module.", f"{owner}."))


def timm_layout(
    sizes: Sequence[int], has_scale: bool, response_norm: bool
) -> WeightLayout:
    """The naming of timm; arguments are fields of `ConvNeXt`."""
    block = "stages.{i}.blocks.{b}"
    names = {
        "patch": "stem.0",
        "patch_norm": "stem.1",
        "shrink": "stages.{i}.downsample",
        "depthwise": f"{block}.conv_dw",
        "norm": f"{block}.norm",
        "expand": f"{block}.mlp.fc1",
        "project": f"{block}.mlp.fc2",
        "layer_scale": f"{block}.gamma",
        "response_norm": f"{block}.mlp.grn",
        "last_norm": "head.norm",
        "head": "head.fc",
    }
    kind = "same" if response_norm else ""
    return _layout(_rules(names, sizes, has_scale, kind), ("module.",))


def _layout(rules: list[Rule], prefixes: tuple[str, ...]) -> WeightLayout:
    return WeightLayout(
        tuple(rules),
        prefixes=prefixes,
        stem="stem/patch/kernel",
        **weight_layout.IMAGENET,
    )


def _layer_scale(key: str, value: Any) -> float | None:
    """The initial factor; None for 0 or less, without factors."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_off = is_number and value <= 0
    return None if is_off else config_values.positive(key, value)


CONVNEXTV2_CONFIG = ConfigTable(
    "convnextv2",
    stem="ConvNextV2",
    predicts=(None,),
    honored={
        "patch_size": Key("patch", config_values.side, 4),
        "hidden_sizes": Key("widths", config_values.counts, (96, 192, 384, 768)),
        "depths": Key("sizes", config_values.counts, (3, 3, 9, 3)),
        "hidden_act": Key("activation", config_values.activation, "gelu_exact"),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-12),
        "drop_path_rate": Key("drop_path", config_values.rate, 0.0),
    },
    # The weights' kernel has as many channels.
    read_by_family=("num_channels", "num_stages"),
    aliases={"num_hidden_layers": "num_stages"},
    harmless={
        "image_size": "convolutions take images of any size",
        **dict.fromkeys(
            ("stage_names", "out_features", "out_indices"),
            "the outputs of a backbone; every stage's output is there",
        ),
    },
)
CONVNEXT_CONFIG = dataclasses.replace(
    CONVNEXTV2_CONFIG,
    family="convnext",
    stem="ConvNext",
    honored={
        **CONVNEXTV2_CONFIG.honored,
        "layer_scale_init_value": Key("layer_scale", _layer_scale, 1e-6),
    },
)
