"""DINOv2, with registers or without, in Hugging Face's layout.

References:
  Oquab et al.: DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024.
  Darcet et al.: Vision Transformers Need Registers, ICLR 2024.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtl.models import config_values, vit, vit_layout, weight_layout
from jaxtl.models.config_table import Key
from jaxtl.models.layers import transformer
from jaxtl.models.weight_layout import WeightLayout


class DINOv2(vit.ViT):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`; see `ViT`.

    The head reads the class token beside the patches' mean. `dropout` is of the
    embeddings alone.

    Attributes:
      ratio: width inside the feed-forward layers over `width`, in place of `hidden`.
      gated: whether these are SwiGLU, which has two thirds of that width, rounded up
        to a multiple of 8.
      layer_scale: initial factor of each feature of a sublayer's output.
      drop_path: rate of stochastic depth of every layer.
      registers: number of register tokens; None for the model without them.
      has_mask: whether the parameters hold a token for masked patches, which no pass
        here reads.
    """

    patch: int = 14
    epsilon: float = 1e-6
    pooling: str = "first_mean"
    ratio: float = 4
    gated: bool = False
    layer_scale: float = 1.0
    drop_path: float = 0.0
    registers: int | None = None
    has_mask: bool = True

    # transformers interpolates the positions to the images; the published files have
    # those of larger images than their image processors make.
    FOLLOWS_IMAGES: ClassVar[bool] = True
    names = vit_layout.HF_NAMES | {
        "attention_norm": "norm1",
        "attention_scale/scale": "layer_scale1.lambda1",
        "mlp_norm": "norm2",
        "mlp_scale/scale": "layer_scale2.lambda1",
    }
    _mlp_names: ClassVar = {
        False: {"mlp/in": "mlp.fc1", "mlp/out": "mlp.fc2"},
        True: {
            "mlp/gate": "mlp.weights_in[0]",
            "mlp/in": "mlp.weights_in[1]",
            "mlp/out": "mlp.weights_out",
        },
    }

    @property
    def root(self) -> str:
        return "dinov2" if self.registers is None else "dinov2_with_registers"

    @property
    def antialias(self) -> bool:
        return self.registers is not None

    def embedding_options(self) -> dict[str, Any]:
        return {"registers": self.registers or 0, "has_mask": self.has_mask}

    def shape_of(self, part: str) -> str:
        return "leading" if part == "mask" else "same"

    def path_rate(self, layer: int) -> float:
        return self.drop_path

    def block(self, layer: int) -> transformer.Block:
        hidden = int(self.width * self.ratio)
        return dataclasses.replace(
            super().block(layer),
            hidden=(int(hidden * 2 / 3) + 7) // 8 * 8 if self.gated else hidden,
            activation="silu" if self.gated else self.activation,
            gated=self.gated,
            layer_scale=self.layer_scale,
            dropout=0.0,
        )

    def layouts(self) -> dict[str, WeightLayout]:
        return {
            "hf": vit_layout.hf_layout(self, self._mlp_names[self.gated], **_COLORS),
            "timm": vit_layout.timm_layout(self, **_COLORS),
        }


_COLORS = weight_layout.IMAGENET
_BACKBONE = "the form of a backbone's feature maps"
DINOV2_CONFIG = dataclasses.replace(
    vit.CONFIG,
    family="dinov2",
    stem="Dinov2",
    honored={
        **{k: v for k, v in vit.CONFIG.honored.items() if k != "intermediate_size"},
        "patch_size": Key("patch", config_values.side, 14),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-6),
        "mlp_ratio": Key("ratio", config_values.positive, 4),
        "use_swiglu_ffn": Key("gated", config_values.flag, False),
        "layerscale_value": Key("layer_scale", config_values.number, 1.0),
        "drop_path_rate": Key("drop_path", config_values.rate, 0.0),
        "use_mask_token": Key("has_mask", config_values.flag, True),
    },
    harmless={
        "attention_probs_dropout_prob": "attention weights have no dropout here",
        **dict.fromkeys(
            (
                "apply_layernorm",
                "reshape_hidden_states",
                "out_features",
                "out_indices",
                "stage_names",
            ),
            _BACKBONE,
        ),
    },
)
REGISTERS_CONFIG = dataclasses.replace(
    DINOV2_CONFIG,
    family="dinov2_with_registers",
    stem="Dinov2WithRegisters",
    honored={
        **{k: v for k, v in DINOV2_CONFIG.honored.items() if k != "use_mask_token"},
        "patch_size": Key("patch", config_values.side, 16),
        "num_register_tokens": Key("registers", config_values.index, 4),
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> DINOv2:
    """Builds the model of a config.json of type "dinov2" or "dinov2_with_registers".

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    has_registers = config.get("model_type") == REGISTERS_CONFIG.family
    table = REGISTERS_CONFIG if has_registers else DINOV2_CONFIG
    config_values.count("num_channels", config.get("num_channels", 3))
    return DINOv2(**{**table.fields(config), **fields})


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> DINOv2 | None:
    """The model that a file of timm was written from, None for other files."""
    fields = vit.timm_fields(shapes)
    if not fields or "blocks.0.ls1.gamma" not in shapes or "dist_token" in shapes:
        return None
    width, hidden = shapes["blocks.0.mlp.fc2.weight"]
    head = shapes.get("head.weight", (0, 2 * width))
    registers = shapes.get("reg_token")
    gated = shapes["blocks.0.mlp.fc1.weight"][0] == 2 * hidden
    return DINOv2(
        **fields,
        gated=gated,
        ratio=hidden * (1.5 if gated else 1) / width,
        registers=registers and registers[1],
        has_mask=False,
        pooling="first" if head[1] == width else "first_mean",
    )
