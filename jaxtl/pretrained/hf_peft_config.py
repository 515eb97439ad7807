"""Reading of adapter_config.json; entries that jaxtl does not support are errors."""

import pathlib
from typing import Any

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.pretrained import hf_peft_codecs

# Entries that jaxtl supports, or that do not affect the values. Any other entry that is
# set changes the meaning of the tensors.
_SUPPORTED = (
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "bias",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "megatron_core",
    "qalora_group_size",
    "eva_config",
    "ensure_weight_tying",
    "feedforward_modules",
    "init_ia3_weights",
    "d_initial",
    "projection_prng_key",
    "save_projection",
    "vera_dropout",
    "init_weights",
    "runtime_config",
)

# Values of init_lora_weights with which the base's weights stay as they are.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads an adapter_config.json.

    Raises:
      UserError: no such file, an unknown method, or an entry that is not supported.
    """
    try:
        config = text_files.read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"{str(path.parent)!r} is no folder of PEFT: it has no {path.name}."
        ) from None
    hf_peft_codecs.codec_of_kind(config.get("peft_type"))
    if config.get("bias", "none") != "none":
        raise UserError(
            f"{str(path)!r}: bias={config['bias']!r} means that biases were trained "
            "too; only 'none' can be read."
        )
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise UserError(
            f"{str(path)!r}: init_lora_weights={config['init_lora_weights']!r} changes "
            "the base's weights; convert such adapters to plain LoRA when saving them."
        )
    for name, value in config.items():
        if value and name not in _SUPPORTED:
            raise UserError(f"{str(path)!r}: {name}={value!r} is not supported.")
    return config
