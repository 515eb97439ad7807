"""Image types of transformers and the options of their configurations."""

import dataclasses
from collections.abc import Callable

import numpy as np
from type_parity import configurations_of

from jaxtl.models.staged import Staged


def stages_of(model: Staged) -> dict[int, str]:
    """Place in transformers' hidden states -> stage, where the stem is the first."""
    return dict(enumerate(name for name in model.stages if name != "head"))


@dataclasses.dataclass(frozen=True)
class ImageType:
    """One type.

    Attributes:
      config: name of transformers' class of configurations.
      base: entries that every configuration has.
      options: key -> values that are tried; the first is the usual one. A key with one
        value is left out of the base, whose default is the usual one.
      dead: keys whose values change nothing of a pass in evaluation mode.
      side: of the images where the configuration has no image_size, or does not look
        at it.
      states: model -> {place in transformers' hidden states: stage of ours}.
      groups: keys whose values vary together, value by value.
      kind: the type, "" for the row's name.
      model: transformers' class, "" for the usual one of the type.
      output: the field of its outputs that is compared.
      predict: what our model predicts, None for its usual head.
      entry: key of the configuration that holds the options, "" for the whole.
    """

    config: str
    base: dict
    options: dict
    dead: tuple = ()
    side: int = 40
    states: Callable[[Staged], dict[int, str]] = stages_of
    groups: tuple[tuple[str, ...], ...] = ()
    kind: str = ""
    model: str = ""
    output: str = "logits"
    predict: str | None = None
    entry: str = ""

    def entries_of(self, entries: dict) -> dict:
        """The whole configuration."""
        return {self.entry: entries} if self.entry else entries


def _stages_behind_blocks(model: Staged) -> dict[int, str]:
    """As `stages_of`, where transformers shows every block and not the stem."""
    counts = np.cumsum([len(forms) for forms in model.forms()])
    return {int(n) - 1: f"stage{i + 1}" for i, n in enumerate(counts)}


def _stem_and_blocks(model: Staged) -> dict[int, str]:
    """Likewise, where it shows the stem, too."""
    behind = {place + 1: name for place, name in _stages_behind_blocks(model).items()}
    return {0: "stem", **behind}


def _convolutional_stages(model: Staged) -> dict[int, str]:
    """Stem and stages, without what follows the pooling."""
    return dict(enumerate(model.stages[:-2]))


_CONVNEXT_OPTIONS = {
    "num_channels": [3, 1],
    "patch_size": [4, 2, [3, 3]],
    "num_stages": [3, 2, 4],
    "hidden_sizes": [[4, 8, 12], [8, 8], [4, 8, 8, 16]],
    "depths": [[2, 1, 1], [1, 2], [1, 1, 1, 2]],
    "hidden_act": ["gelu", "relu", "gelu_new"],
    "layer_norm_eps": [0.1],
    "drop_path_rate": [0.3],
}
_CONVNEXT = {"num_stages": 3, "hidden_sizes": [4, 8, 12], "depths": [2, 1, 1]}
_CONVNEXT_GROUPS = (("num_stages", "hidden_sizes", "depths"),)


def token_states(model: Staged) -> dict[int, str]:
    """The same of a transformer, whose hidden states end before the last norm."""
    return dict(enumerate(n for n in model.stages if n not in ("norm", "head")))


VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 12,
    "patch_size": 4,
}
VIT_OPTIONS = {
    "hidden_size": [8, 16],
    "num_hidden_layers": [2, 3],
    "num_attention_heads": [2, 4],
    "intermediate_size": [12, 5],
    "image_size": [12, 8],
    "patch_size": [4, 2],
    "num_channels": [3, 1],
    "hidden_act": ["gelu", "relu", "gelu_new"],
    "layer_norm_eps": [0.1],
    "hidden_dropout_prob": [0.2],
    "qkv_bias": [True, False],
}
_DINOV2 = {k: v for k, v in VIT.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
_DINOV2_OPTIONS = {
    **{k: v for k, v in VIT_OPTIONS.items() if k != "intermediate_size"},
    "mlp_ratio": [2, 3],
    "use_swiglu_ffn": [False, True, True],
    "layerscale_value": [0.3, 1.0],
    "drop_path_rate": [0.2],
}
_DROPS = ("hidden_dropout_prob", "drop_path_rate", "use_mask_token")

_SWIN = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 3,
}
_SWIN_OPTIONS = {
    # Grids that windows divide or not, patches that divide the image or not.
    "image_size": [16, 14, 21, 24],
    "patch_size": [2, 2, 3, 2],
    "num_channels": [3, 1],
    "embed_dim": [8, 16],
    "depths": [[2, 2], [1, 2], [2], [2, 1, 2]],
    "num_heads": [[2, 4], [2, 2], [4], [2, 2, 1]],
    "window_size": [3, 2, 4, 3],
    "mlp_ratio": [2.0, 1.5],
    "qkv_bias": [True, False],
    "hidden_dropout_prob": [0.2],
    "drop_path_rate": [0.1, 0.2],
    "hidden_act": ["gelu", "relu"],
    "layer_norm_eps": [0.1],
}
_SWIN_GROUP = ("image_size", "patch_size", "window_size", "depths", "num_heads")


_CLIP = {**VIT, "projection_dim": 6}
_CLIP_OPTIONS = {
    **{
        k: v
        for k, v in VIT_OPTIONS.items()
        if k not in ("hidden_dropout_prob", "qkv_bias")
    },
    "hidden_act": ["quick_gelu", "gelu", "relu"],
    "projection_dim": [6, 3],
}

_SIGLIP_OPTIONS = {
    **{k: v for k, v in _CLIP_OPTIONS.items() if k != "projection_dim"},
    "hidden_act": ["gelu_pytorch_tanh", "gelu", "relu"],
}


TYPES = {
    "clip_vision_model": ImageType(
        "CLIPVisionConfig",
        _CLIP,
        _CLIP_OPTIONS,
        states=token_states,
        model="CLIPVisionModelWithProjection",
        output="image_embeds",
        predict="embedding",
    ),
    "clip-classes": ImageType(
        "CLIPConfig",
        _CLIP,
        _CLIP_OPTIONS,
        ("projection_dim",),
        states=token_states,
        kind="clip",
        entry="vision_config",
    ),
    "siglip_vision_model": ImageType(
        "SiglipVisionConfig",
        VIT,
        {**_SIGLIP_OPTIONS, "vision_use_head": [True]},
        ("vision_use_head",),
        states=token_states,
        model="SiglipVisionModel",
        output="pooler_output",
        predict="embedding",
    ),
    "siglip-classes": ImageType(
        "SiglipConfig",
        VIT,
        {**_SIGLIP_OPTIONS, "vision_use_head": [True, False]},
        ("vision_use_head",),
        states=token_states,
        kind="siglip",
        entry="vision_config",
    ),
    "swin": ImageType(
        "SwinConfig",
        _SWIN,
        {**_SWIN_OPTIONS, "use_absolute_embeddings": [False, True]},
        _DROPS,
        states=token_states,
        groups=(_SWIN_GROUP,),
    ),
    "swinv2": ImageType(
        "Swinv2Config",
        _SWIN,
        {
            **_SWIN_OPTIONS,
            "pretrained_window_sizes": [[0, 0], [2, 4], [6], [0, 2, 2]],
            "window_size": [3, 2, 4, 8],
        },
        _DROPS,
        states=token_states,
        groups=((*_SWIN_GROUP, "pretrained_window_sizes"),),
    ),
    "vit": ImageType("ViTConfig", VIT, VIT_OPTIONS, _DROPS, states=token_states),
    "deit": ImageType("DeiTConfig", VIT, VIT_OPTIONS, _DROPS, states=token_states),
    "deit-distilled": ImageType(
        "DeiTConfig",
        VIT,
        VIT_OPTIONS,
        _DROPS,
        states=token_states,
        kind="deit",
        model="DeiTForImageClassificationWithTeacher",
    ),
    "dinov2": ImageType(
        "Dinov2Config",
        _DINOV2,
        {**_DINOV2_OPTIONS, "use_mask_token": [True, False]},
        _DROPS,
        states=token_states,
    ),
    "dinov2_with_registers": ImageType(
        "Dinov2WithRegistersConfig",
        _DINOV2,
        {**_DINOV2_OPTIONS, "num_register_tokens": [2, 1]},
        _DROPS,
        states=token_states,
    ),
    "beit": ImageType(
        "BeitConfig",
        VIT,
        {
            **{k: v for k, v in VIT_OPTIONS.items() if k != "qkv_bias"},
            "use_mask_token": [False, True],
            "use_absolute_position_embeddings": [True, False],
            "use_relative_position_bias": [False, True, True],
            "use_shared_relative_position_bias": [False, False, True],
            "layer_scale_init_value": [0.3, 0.0, 0.1],
            "drop_path_rate": [0.1, 0.2],
            "use_mean_pooling": [True, False],
        },
        _DROPS,
        states=token_states,
    ),
    "resnet": ImageType(
        "ResNetConfig",
        {"embedding_size": 4, "hidden_sizes": [8, 16, 24], "depths": [2, 1, 1]},
        {
            "num_channels": [3, 1],
            "embedding_size": [4, 8],
            "hidden_sizes": [[8, 16, 24], [8, 8, 32, 12], [16, 32]],
            "depths": [[2, 1, 1], [1, 2, 1, 1], [1, 2]],
            "layer_type": ["bottleneck", "basic"],
            "hidden_act": ["relu", "gelu", "tanh"],
            "downsample_in_first_stage": [False, True],
            "downsample_in_bottleneck": [False, True],
        },
        groups=(("hidden_sizes", "depths"),),
    ),
    "regnet": ImageType(
        "RegNetConfig",
        {"embedding_size": 4, "hidden_sizes": [8, 12, 16], "depths": [2, 1, 1]},
        {
            "num_channels": [3, 1],
            "embedding_size": [4, 8],
            "hidden_sizes": [[8, 12, 16], [8, 8, 24, 32], [16, 24]],
            "depths": [[2, 1, 1], [1, 2, 1, 1], [1, 2]],
            "groups_width": [4, 8, 64],
            "layer_type": ["y", "x"],
            "hidden_act": ["relu", "silu", "gelu"],
            "downsample_in_first_stage": [True, False],
        },
        groups=(("hidden_sizes", "depths"),),
    ),
    "mobilenet_v2": ImageType(
        "MobileNetV2Config",
        {"depth_multiplier": 0.125, "finegrained_output": False},
        {
            "num_channels": [3, 1],
            "image_size": [37, 24, 32],
            "depth_multiplier": [0.125, 1.1, 0.25],
            "depth_divisible_by": [4, 8],
            "min_depth": [4, 16],
            "expand_ratio": [2.0, 1.5],
            "output_stride": [32, 8, 16],
            "first_layer_is_expansion": [True, False],
            "finegrained_output": [False, True],
            "hidden_act": ["relu6", "relu", "silu"],
            "tf_padding": [True, False],
            "classifier_dropout_prob": [0.2],
            "layer_norm_eps": [0.1],
        },
        ("classifier_dropout_prob",),
        states=_stages_behind_blocks,
    ),
    "efficientnet": ImageType(
        "EfficientNetConfig",
        {
            "width_coefficient": 0.05,
            "depth_coefficient": 0.5,
            "hidden_dim": 64,
            "num_block_repeats": [2, 2, 3],
            "in_channels": [32, 60, 100],
            "out_channels": [60, 100, 200],
            "kernel_sizes": [3, 5, 3],
            "strides": [1, 2, 2],
            "expand_ratios": [1, 2, 3],
        },
        {
            "num_channels": [3, 1],
            "image_size": [37, 24],
            "width_coefficient": [0.05, 0.1],
            "hidden_dim": [64, 128],
            "depth_coefficient": [1.0, 0.5],
            "depth_divisor": [4, 8],
            "kernel_sizes": [[3, 5, 3], [5, 3, 7]],
            "in_channels": [[32, 60, 100], [32, 100, 60]],
            "out_channels": [[60, 100, 200], [100, 60, 60]],
            "depthwise_padding": [[], [1, 2]],
            "strides": [[1, 2, 2], [2, 1, 2]],
            "num_block_repeats": [[2, 2, 3], [1, 3, 2]],
            "expand_ratios": [[1, 2, 3], [2, 1, 1]],
            "squeeze_expansion_ratio": [0.25, 0.6],
            "hidden_act": ["swish", "relu"],
            "pooling_type": ["mean", "max"],
            "batch_norm_eps": [0.1],
            "batch_norm_momentum": [0.9],
            "dropout_rate": [0.2],
            "drop_connect_rate": [0.1],
        },
        ("batch_norm_momentum", "dropout_rate", "drop_connect_rate"),
        states=_stem_and_blocks,
        groups=(
            ("width_coefficient", "hidden_dim"),
            ("in_channels", "out_channels"),
        ),
    ),
    "convnext": ImageType(
        "ConvNextConfig",
        _CONVNEXT,
        {**_CONVNEXT_OPTIONS, "layer_scale_init_value": [1e-6, 0.0]},
        ("drop_path_rate",),
        states=_convolutional_stages,
        groups=_CONVNEXT_GROUPS,
    ),
    "convnextv2": ImageType(
        "ConvNextV2Config",
        _CONVNEXT,
        _CONVNEXT_OPTIONS,
        ("drop_path_rate",),
        states=_convolutional_stages,
        groups=_CONVNEXT_GROUPS,
    ),
}


def configurations(kind: str) -> list[dict]:
    """Configurations of a type that have every value of every option among them."""
    return configurations_of(TYPES[kind])
