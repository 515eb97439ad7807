"""Keys of config.json of the family "efficientnet"."""

import math
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.models import config_values
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers.inverted_residual import make_divisible

# Lists with an entry for each stage, and their values where they are missing.
_LISTS = {
    "kernel_sizes": (3, 3, 5, 3, 5, 5, 3),
    "in_channels": (32, 16, 24, 40, 80, 112, 192),
    "out_channels": (16, 24, 40, 80, 112, 192, 320),
    "strides": (1, 2, 2, 2, 1, 2, 1),
    "num_block_repeats": (1, 2, 2, 3, 3, 4, 1),
    "expand_ratios": (1, 6, 6, 6, 6, 6, 6),
}

CONFIG = ConfigTable(
    "efficientnet",
    stem="EfficientNet",
    predicts=(None,),
    honored={
        "squeeze_expansion_ratio": Key("squeeze", config_values.positive, 0.25),
        "hidden_act": Key("activation", config_values.activation, "silu"),
        "pooling_type": Key("pooling", config_values.one_of("mean", "max"), "mean"),
        "batch_norm_eps": Key("epsilon", config_values.positive, 1e-3),
        "batch_norm_momentum": Key("momentum", config_values.rate, 0.99),
        "dropout_rate": Key("dropout", config_values.rate, 0.5),
        "drop_connect_rate": Key("drop_path", config_values.rate, 0.2),
    },
    read_by_family=(
        *_LISTS,
        "width_coefficient",
        "depth_coefficient",
        "depth_divisor",
        "depthwise_padding",
        "hidden_dim",
        "num_channels",  # the weights' kernel has as many
    ),
    harmless={
        "image_size": "convolutions take images of any size",
        "num_hidden_layers": "a note; num_block_repeats decides",
    },
)


def config_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's fields that a config.json decides.

    Raises:
      UserError: a key or a value that is not supported, widths that don't follow from
        each other.
    """
    fields = CONFIG.fields(config)
    config_values.count("num_channels", config.get("num_channels", 3))
    factor = config_values.positive(
        "width_coefficient", config.get("width_coefficient", 2.0)
    )
    depth = config_values.positive(
        "depth_coefficient", config.get("depth_coefficient", 3.1)
    )
    divisor = config_values.count("depth_divisor", config.get("depth_divisor", 8))

    def scaled(channels: int) -> int:
        return make_divisible(channels * factor, divisor)

    stages = len(config.get("num_block_repeats", _LISTS["num_block_repeats"]))
    lists = {
        key: config_values.counts(key, config.get(key, default), stages)
        for key, default in _LISTS.items()
    }
    if not set(lists["strides"]) <= {1, 2}:
        raise UserError(
            f"config.json: strides is {list(lists['strides'])}; expected 1 or 2 each."
        )
    inside, outside = (
        [scaled(n) for n in lists[key]] for key in ("in_channels", "out_channels")
    )
    width, top = scaled(32), scaled(1280)
    _check("in_channels (scaled)", inside, [width, *outside[:-1]])
    _check("hidden_dim", config.get("hidden_dim", 2560), top)
    padded = config.get("depthwise_padding") or ()
    symmetric = tuple(config_values.index("depthwise_padding", i) for i in padded)
    return fields | {
        "width": width,
        "widths": tuple(outside),
        "sizes": tuple(math.ceil(depth * n) for n in lists["num_block_repeats"]),
        "kernels": lists["kernel_sizes"],
        "strides": lists["strides"],
        "expansions": lists["expand_ratios"],
        "top_width": top,
        "symmetric": symmetric,
    }


def _check(key: str, value: Any, expected: Any) -> None:
    """Raises UserError for a width that the widths before it don't give."""
    if value != expected:
        raise UserError(
            f"config.json: {key} is {value}; expected {expected}, which the other "
            "widths and width_coefficient give."
        )
