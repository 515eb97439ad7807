"""config.json of a directory for transformers, written from the model and its task."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
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
    kind = base.get("model_type", "")
    predict = getattr(model, "predict", None)
    writer = getattr(model, "reference_class", None)
    writer = writer or registry.config_table(kind).class_name(predict)
    if writer is None:
        raise UserError(
            f"convert: transformers has no class for a model of type {kind!r} that "
            f"predicts {predict!r}; write a .safetensors file."
        )
    config = {k: v for k, v in base.items() if k not in _DROPPED}
    config = _described(config, model)
    config["architectures"] = [writer]
    config["dtype"] = _stored_dtype(params)
    stem = model.layouts()["hf"].stem
    if stem:  # the kernel that reads an image: (height, width, channels, width)
        config["num_channels"] = int(trees.flatten(params)[stem].shape[2])
    for key in ("id2label", "label2id", "problem_type"):
        config.pop(key, None)
    if predict in ("class", "token", None):
        names = [*names, *(f"LABEL_{i}" for i in range(len(names), model.outputs or 0))]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        if predict != "token" and task in _PROBLEM_TYPES:
            config["problem_type"] = _PROBLEM_TYPES[task]
    return config


def _described(config: dict[str, Any], model: Staged) -> dict[str, Any]:
    """The entries of a configuration with those that the model changed.

    Raises:
      UserError: a field that no entry says.
    """
    kind = config["model_type"]
    config = registry.config_table(kind).without_aliases(config)
    for name, value in _differences(config, model).items():
        for key in _keys(registry.config_table(kind), name):
            config[key] = _as_entry(name, value)
    remaining = _differences(config, model)
    if remaining:
        [(name, value), *_] = remaining.items()
        raise UserError(
            f"convert: {type(model).__name__}.{name}={value!r} has no entry in "
            f"config.json of type {kind!r}, so transformers would compute something "
            "else; write a .safetensors file."
        )
    return config


def _keys(table: ConfigTable, field: str) -> list[str]:
    """The entries that decide a field."""
    return [key for key, entry in table.honored.items() if entry.field == field]


def _differences(config: Mapping[str, Any], model: Staged) -> dict[str, Any]:
    """Fields in which a model differs from the one that a configuration describes."""
    chosen = {"outputs": model.outputs}
    if hasattr(model, "predict"):
        chosen["predict"] = model.predict
    described = registry.model_from_config(config, **chosen)
    names = [f.name for f in dataclasses.fields(model) if f.name not in _FREE_FIELDS]
    if getattr(model, "predict", "class") not in ("class", "choice"):
        # the head maps each token's state
        names = [n for n in names if n not in ("pooling", "normalize")]
    return {
        name: getattr(model, name)
        for name in names
        if getattr(model, name) != getattr(described, name)
    }


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
