"""Recognition of the model that a configuration or a tensor file describes."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from jaxtl.core.errors import AmbiguousModel, UserError, nearest
from jaxtl.core.names import listing
from jaxtl.models.config_table import ConfigTable
from jaxtl.models.staged import Staged

# model_type of a config.json -> the module of `jaxtl.models` that has `from_config`,
# and the name of the type's table there.
_TYPES = {
    "bert": ("bert", "BERT_CONFIG"),
    "roberta": ("bert", "ROBERTA_CONFIG"),
    "xlm-roberta": ("bert", "XLM_ROBERTA_CONFIG"),
    "camembert": ("bert", "CAMEMBERT_CONFIG"),
    "distilbert": ("distilbert", "CONFIG"),
    "electra": ("electra", "CONFIG"),
    "mpnet": ("mpnet", "CONFIG"),
    "albert": ("albert", "CONFIG"),
    "modernbert": ("modernbert", "CONFIG"),
    "deberta-v2": ("deberta", "CONFIG"),
    "gpt2": ("gpt2", "CONFIG"),
    "llama": ("llama", "CONFIG"),
    "mistral": ("mistral", "CONFIG"),
    "qwen2": ("qwen", "QWEN2_CONFIG"),
    "qwen3": ("qwen", "QWEN3_CONFIG"),
    "phi3": ("phi3", "CONFIG"),
    "gemma": ("gemma", "GEMMA_CONFIG"),
    "gemma2": ("gemma", "GEMMA2_CONFIG"),
    "gemma3_text": ("gemma", "GEMMA3_CONFIG"),
    "gpt_neox": ("gpt_neox", "CONFIG"),
    "gpt_neo": ("gpt_neo", "CONFIG"),
    "opt": ("opt", "CONFIG"),
    "resnet": ("resnet", "CONFIG"),
    "regnet": ("regnet", "CONFIG"),
    "mobilenet_v2": ("mobilenet_v2", "CONFIG"),
    "efficientnet": ("efficientnet", "CONFIG"),
    "convnext": ("convnext", "CONVNEXT_CONFIG"),
    "convnextv2": ("convnext", "CONVNEXTV2_CONFIG"),
    "vit": ("vit", "CONFIG"),
    "deit": ("deit", "CONFIG"),
    "dinov2": ("dinov2", "DINOV2_CONFIG"),
    "dinov2_with_registers": ("dinov2", "REGISTERS_CONFIG"),
    "beit": ("beit", "CONFIG"),
    "clip": ("clip", "CONFIG"),
    "clip_vision_model": ("clip_vision", "CONFIG"),
    "clip_text_model": ("clip_text", "CONFIG"),
    "siglip_text_model": ("siglip_text", "CONFIG"),
    "siglip": ("siglip", "CONFIG"),
    "siglip_vision_model": ("siglip_vision", "CONFIG"),
    "swin": ("swin", "SWIN_CONFIG"),
    "swinv2": ("swin", "SWINV2_CONFIG"),
}
# Modules of `jaxtl.models` whose `from_tensors` recognizes files of its family.
_RECOGNIZERS = (
    "resnet_cifar",
    "resnet",
    "vgg",
    "mobilenet",
    "convnext",
    "efficientnet",
    "llama",
    "vit",
    "deit",
    "dinov2",
)

# Ending of the class that wrote a config.json -> `predict` of its head.
_PREDICT = {
    "ForSequenceClassification": "class",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
    "ForMultipleChoice": "choice",
    "ForMaskedLM": "mask",
    "LMHeadModel": "next",
    "ForCausalLM": "next",
}


def model_from_config(config: Mapping[str, Any], **fields: Any) -> Staged:
    """Builds the model that a config.json describes.

    Args:
      config: its content.
      **fields: fields of the model to override (`outputs`, `predict`, `dtype`, …).

    Raises:
      UserError: no or an unknown `model_type`, a missing entry, an unknown field.
    """
    kind, writers = config.get("model_type"), config.get("architectures")
    if not isinstance(writers, list | None):
        raise UserError(
            f"config.json: architectures is {writers!r}; expected a list of names."
        )
    if kind not in _TYPES:
        raise UserError(
            f"config.json: model_type {kind!r} is unknown{_spelled_alike(kind)} "
            f"(known: {', '.join(_TYPES)})."
        )
    family = model_module(kind)
    predict = head_predicts(config)
    # Encoders to be tuned are stored with the head that they were pre-trained with.
    if (
        predict not in (None, "mask", "choice")
        and predict in config_table(kind).predicts
    ):
        fields = {"predict": predict, **fields}
    try:
        return family.from_config(dict(config), **fields)
    except KeyError as error:
        raise UserError(
            f"config.json of type {kind!r} lacks {error.args[0]!r}."
        ) from None
    except TypeError as error:
        raise UserError(f"the model of type {kind!r}: {error}.") from None


def _spelled_alike(kind: object) -> str:
    """A hint at the type that has the same letters and digits, in any order.

    Types whose names differ by a letter, as bart and bert, are different models.
    """
    same = [name for name in _TYPES if _letters(name) == _letters(kind)]
    return nearest(same[0], same) if same else ""


def _letters(kind: object) -> list[str]:
    return sorted(filter(str.isalnum, str(kind).lower()))


def model_module(kind: str) -> ModuleType:
    """The module that has `from_config` of a `model_type`."""
    return importlib.import_module(f"jaxtl.models.{_TYPES[kind][0]}")


def config_table(kind: str) -> ConfigTable:
    """What a `model_type` does with each key of its config.json."""
    return getattr(model_module(kind), _TYPES[kind][1])


def model_types() -> tuple[str, ...]:
    """Every `model_type` that is read."""
    return tuple(_TYPES)


def head_predicts(config: Mapping[str, Any]) -> str | None:
    """What the head beside a config.json predicts: `predict` of the model.

    None where the file does not say, or says a class without such a head.
    """
    writer = (config.get("architectures") or [""])[0]
    return next((kind for end, kind in _PREDICT.items() if writer.endswith(end)), None)


def head_outputs(config: Mapping[str, Any]) -> int | None:
    """The number of classes of a config.json, None for a model without a classifier."""
    writer = (config.get("architectures") or [""])[0]
    if not writer.endswith(("Classification", "ClassificationWithTeacher")):
        return None
    return len(config.get("id2label") or {}) or config.get("num_labels") or 2


def head_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a classifier's outputs in a config.json, () for none.

    Raises:
      UserError: an id2label whose keys are not 0, 1, ….
    """
    labels = config.get("id2label")
    if head_outputs(config) is None or not labels:
        return ()
    names = {str(key): str(name) for key, name in dict(labels).items()}
    expected = [str(i) for i in range(len(names))]
    if sorted(names) != sorted(expected):
        raise UserError(
            f"config.json: the keys of id2label are {listing(list(names))}; expected "
            f"the numbers of the {len(names)} outputs, from 0."
        )
    return tuple(names[key] for key in expected)


def recognize_model(
    tensors: Mapping[str, Any], meta: Mapping[str, Any]
) -> Staged | None:
    """Recognizes a model by the names and shapes of a file's tensors.

    Args:
      tensors: name -> array.
      meta: further content of the file.

    Returns:
      The model, None if no family recognizes the file.

    Raises:
      AmbiguousModel: a family's file that does not say all that the model computes.
    """
    shapes = {n.removeprefix("module."): tuple(x.shape) for n, x in tensors.items()}
    for name in _RECOGNIZERS:
        family = importlib.import_module(f"jaxtl.models.{name}")
        try:
            model = family.from_tensors(shapes, dict(meta))
        except AmbiguousModel:
            raise
        except (KeyError, IndexError, TypeError, ValueError):
            continue  # one name is the family's, the rest of the file is not
        if model is not None:
            return model
    return None
