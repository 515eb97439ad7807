"""Which model a configuration or a tensor file describes."""

import importlib
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError, nearest

# model_type of a config.json -> the file under jaxtl/models that has `from_config`.
TYPES = {
    "bert": "bert",
    "roberta": "bert",
    "gpt2": "gpt2",
    "llama": "llama",
    "resnet": "resnet",
    "vit": "vit",
}
# Files under jaxtl/models whose `from_tensors` knows its own by names and shapes.
RECOGNISERS = ("resnet_cifar", "resnet", "vgg", "mobilenet", "llama")

# How the class that wrote a config.json ends -> what its head predicts.
HEADS = {
    "ForSequenceClassification": "class",
    "ForTokenClassification": "token",
    "LMHeadModel": "next",
    "ForCausalLM": "next",
}


def model_from_config(config: Mapping[str, Any], **fields):
    """Builds the model that a config.json describes.

    Args:
      config: its content.
      fields: fields of the model to set otherwise (`outputs`, `predict`, `dtype`, …).

    Raises:
      UserError: no or an unknown `model_type`, a missing entry, an unknown field.
    """
    kind = config.get("model_type")
    if kind not in TYPES:
        raise UserError(
            f"config.json: model_type {kind!r} is unknown{nearest(kind, TYPES)} "
            f"(known: {', '.join(TYPES)})."
        )
    family = importlib.import_module(f"jaxtl.models.{TYPES[kind]}")
    if kind not in ("vit", "resnet"):
        writer = (config.get("architectures") or [""])[0]
        head = next((v for k, v in HEADS.items() if writer.endswith(k)), None)
        known = ("class", "token") if TYPES[kind] == "bert" else ("class", "next")
        if head in known:
            fields = {"predict": head, **fields}
    try:
        return family.from_config(dict(config), **fields)
    except KeyError as error:
        raise UserError(
            f"config.json of type {kind!r} lacks {error.args[0]!r}."
        ) from None
    except TypeError as error:
        raise UserError(f"the model of type {kind!r}: {error}.") from None


def head_outputs(config: Mapping[str, Any]) -> int | None:
    """Returns the width of the head that a config.json tells of, None for no head."""
    writer = (config.get("architectures") or [""])[0]
    if not writer.endswith("Classification"):
        return None
    return len(config.get("id2label") or {}) or config.get("num_labels") or 2


def recognize_model(tensors: Mapping[str, Any], meta: Mapping[str, Any]):
    """Returns the model that a file without config.json is of, or None."""
    shapes = {n.removeprefix("module."): tuple(x.shape) for n, x in tensors.items()}
    for name in RECOGNISERS:
        family = importlib.import_module(f"jaxtl.models.{name}")
        model = family.from_tensors(shapes, dict(meta))
        if model is not None:
            return model
    return None
