"""config.json of a directory for transformers, written from the model and its task."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.models.config_table import ConfigTable
from jaxtl.models.config_values import ACTIVATION_NAMES
from jaxtl.models.staged import Staged
from jaxtl.pretrained import registry

_PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
# Fields that do not change the predictions, or that the entries of the head say.
_FREE_FIELDS = (
    "parent",
    "name",
    "outputs",
    "predict",
    "dtype",
    "param_dtype",
    "dropout",
    "head_dropout",
    "embedding_dropout",
    "remat",
    "stochnorm",
)
# Notes of the pre-trained model that are not true of what a run made of it.
_DROPPED = (
    "_name_or_path",
    "_commit_hash",
    "finetuning_task",
    "task_specific_params",
    "torch_dtype",
    "num_labels",
    "_num_labels",
    "quantization_config",
)


def write_config(
    base: Mapping[str, Any],
    model: Staged,
    params: PyTree,
    task: str | None,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of config.json.

    Args:
      base: of the pre-trained model's directory.
      model: the model, its number of outputs filled in.
      params: its parameters.
      task: "classification", "multilabel", "regression" or "language"; None is not
        stated.
      names: of the head's outputs; those without a name are numbered.

    Raises:
      UserError: a model that config.json can't describe.
    """
    predict = getattr(model, "predict", None)
    base = _base_of_type(base, model)
    kind = base.get("model_type", "")
    writer = getattr(model, "reference_class", None)
    writer = writer or registry.config_table(kind).class_name(predict)
    if writer is None:
        raise UserError(
            f"transformers has no class for a model of type {kind!r} that "
            f"predicts {predict!r}; write a .safetensors file."
        )
    config = {k: v for k, v in base.items() if k not in _DROPPED}
    config = _described(config, model)
    config["architectures"] = [writer]
    config["dtype"] = _stored_dtype(params)
    stem = model.layouts()["hf"].stem
    if stem:  # the kernel that reads an image: (height, width, channels, width)
        channels = int(trees.flatten(params)[stem].shape[2])
        parts = registry.config_table(kind).parts
        entry = "vision_config" if "vision_config" in parts else ""
        _set(config, entry, "num_channels", channels)
    for key in ("id2label", "label2id", "problem_type"):
        config.pop(key, None)
    if predict in ("class", "token", None):
        names = [*names, *(f"LABEL_{i}" for i in range(len(names), model.outputs or 0))]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        if predict != "token" and task in _PROBLEM_TYPES:
            config["problem_type"] = _PROBLEM_TYPES[task]
    return config


def _base_of_type(base: Mapping[str, Any], model: Staged) -> dict[str, Any]:
    """The configuration in the type that transformers has for such a model.

    That of one tower of an image–text model may be held by that of both, and the
    reverse.
    """
    table = registry.config_table(base.get("model_type", ""))
    predict, entry = getattr(model, "predict", None), getattr(model, "config_entry", "")
    kind = table.inside.get(predict, "")
    if kind:
        return {"model_type": kind, entry: dict(base)}
    if entry in table.parts and predict not in table.predicts:
        held = table.parts[entry].family
        return {**table.part(base, entry), "model_type": held}
    return dict(base)


def _set(config: dict[str, Any], entry: str, key: str, value: Any) -> None:
    """Sets a key, of the configuration that an entry holds unless that is ""."""
    if entry:
        config[entry] = {**config.get(entry, {}), key: value}
    else:
        config[key] = value


def _described(config: dict[str, Any], model: Staged) -> dict[str, Any]:
    """The entries of a configuration with those that the model changed.

    Raises:
      UserError: a field that no entry says.
    """
    kind = config["model_type"]
    table = registry.config_table(kind)
    config = table.without_aliases(config)
    for entry in table.parts:
        held = table.part(config, entry)
        config = {k: v for k, v in config.items() if k not in (entry, f"{entry}_dict")}
        config |= {entry: held} if held else {}
    for (entry, name), value in _differences(config, model).items():
        for key in _keys(table.parts[entry] if entry else table, name):
            _set(config, entry, key, _as_entry(name, value))
    for entry, key, value in _fixed_entries(model, bool(table.parts)):
        _set(config, entry, key, value)
    remaining = _differences(config, model)
    if remaining:
        [((_, name), value), *_] = remaining.items()
        raise UserError(
            f"{type(model).__name__}.{name}={value!r} has no entry in "
            f"config.json of type {kind!r}, so transformers would compute something "
            "else; write a .safetensors file."
        )
    return config


def _fixed_entries(model: Staged, is_held: bool) -> Iterator[tuple[str, str, Any]]:
    """(entry that holds the configuration, key, value) that a model asks for."""
    for field in dataclasses.fields(model):
        if isinstance(getattr(model, field.name, None), Staged):
            yield from _fixed_entries(getattr(model, field.name), is_held)
    entry = getattr(model, "config_entry", "") if is_held else ""
    for key, value in getattr(model, "reference_entries", {}).items():
        yield entry, key, value


def _keys(table: ConfigTable, field: str) -> list[str]:
    """The entries that decide a field."""
    return [key for key, entry in table.honored.items() if entry.field == field]


def _differences(
    config: Mapping[str, Any], model: Staged
) -> dict[tuple[str, str], Any]:
    """Fields in which a model differs from the one that a configuration describes.

    Returns:
      (entry that holds the configuration, "" for the whole, field) -> the value.
    """
    chosen = {"outputs": model.outputs}
    if hasattr(model, "predict"):
        chosen["predict"] = model.predict
    described = registry.model_from_config(config, **chosen)
    parts = registry.config_table(config["model_type"]).parts
    return dict(_unequal(model, described, bool(parts)))


def _unequal(
    model: Staged, described: Staged, is_held: bool
) -> Iterator[tuple[tuple[str, str], Any]]:
    """The fields of `_differences`, those of models within the model among them."""
    entry = getattr(model, "config_entry", "") if is_held else ""
    names = [f.name for f in dataclasses.fields(model) if f.name not in _FREE_FIELDS]
    if getattr(model, "predict", None) == "pair":  # the weights have scale and bias
        names = [n for n in names if n not in ("temperature", "bias")]
    if getattr(model, "predict", "class") not in ("class", "choice"):
        # the head maps each token's state
        names = [n for n in names if n not in ("pooling", "normalize")]
    for name in names:
        ours, theirs = getattr(model, name), getattr(described, name)
        if isinstance(ours, Staged):
            yield from _unequal(ours, theirs, is_held)
        elif ours != theirs:
            yield (entry, name), ours


def _as_entry(field: str, value: Any) -> Any:
    """A field's value as an entry has it."""
    if field == "pooling":
        return "cls" if value == "first" else value
    if not field.endswith("activation"):
        return value
    return next(theirs for theirs, ours in ACTIVATION_NAMES.items() if ours == value)


def _stored_dtype(params: PyTree) -> str:
    """The type that most of the stored parameters have."""
    counts: Counter[str] = Counter()
    for leaf in jax.tree.leaves(params):
        counts[str(np.dtype(leaf.dtype))] += int(np.size(leaf))
    return counts.most_common(1)[0][0]
