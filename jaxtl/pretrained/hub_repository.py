"""Models in jaxtl's own form in a repository of the hub: jaxtl.json beside safetensors.

It serves the models that transformers has no form for. What it holds is read without
running any code but jaxtl's.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxtl.core import atomic, serialization, text_files
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.models.staged import Staged
from jaxtl.pretrained import tensor_files
from jaxtl.pretrained.from_run import stored_names
from jaxtl.pretrained.match import Weights

FILE = "jaxtl.json"
WEIGHTS = "model.safetensors"
_FORMAT = 1
_PARTS = ("params", "stats")


def is_repository(folder: pathlib.Path) -> bool:
    """Whether a directory holds a model in jaxtl's form."""
    return (folder / FILE).is_file() and not (folder / "config.json").is_file()


def write(
    folder: pathlib.Path,
    model: Staged,
    params: PyTree,
    stats: PyTree,
    meta: Mapping[str, Any],
) -> None:
    """Writes jaxtl.json and the weights by their paths.

    Args:
      folder: that exists.
      model: its number of outputs filled in.
      params, stats: its parameters and statistics.
      meta: of the run's checkpoint: task, names, preprocessing, columns of a table.

    Raises:
      UserError: a model of another class than jaxtl's, which others could not build.
    """
    config = serialization.to_json(model)
    if foreign := serialization.foreign_modules(config):
        raise UserError(
            f"the model is of {', '.join(sorted(foreign))}, which those who load "
            "it lack; only models of tl.models are written to the hub."
        )
    content = {"format": _FORMAT, "model": config, "meta": dict(meta)}
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    atomic.write_text(folder / FILE, text + "\n")
    tensors = {
        f"{part}/{path}": value
        for part, tree in zip(_PARTS, (params, stats))
        for path, value in trees.flatten(tree).items()
    }
    tensor_files.write(folder / WEIGHTS, tensors, {"format": "jaxtl"})


def _content(folder: pathlib.Path) -> dict[str, Any]:
    content = text_files.read_json(folder / FILE)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(
            f"{folder / FILE} is of another version, or damaged: expected "
            f'"format": {_FORMAT}.'
        )
    return content


def model(folder: pathlib.Path, **fields: Any) -> Staged:
    """Builds the model; `fields` replace its own.

    Raises:
      UserError: a damaged file, or one that names code of others.
    """
    config = _content(folder).get("model")
    if foreign := serialization.foreign_modules(config):
        raise UserError(
            f"{folder / FILE} names code of {', '.join(sorted(foreign))}, which is not "
            "run; only models of jaxtl are read."
        )
    built = serialization.from_json(config)
    if not isinstance(built, Staged):
        raise UserError(f"{folder / FILE} holds no model of tl.models.")
    return built.clone(**fields)


def meta(folder: pathlib.Path) -> dict[str, Any]:
    """What the run's checkpoint said: task, names, preprocessing."""
    return _content(folder).get("meta") or {}


def read(folder: pathlib.Path) -> Weights:
    """Reads the weights.

    Raises:
      UserError: a damaged or missing file.
    """
    file, said = tensor_files.read(folder / WEIGHTS), meta(folder)
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for name, value in file.tensors.items():
        part, _, path = name.partition("/")
        if part not in parts or not path:
            raise UserError(f"{folder / WEIGHTS}: {name!r} is no tensor of jaxtl's.")
        parts[part][path] = value
    params, stats = (trees.nested(parts[part]) for part in _PARTS)
    return Weights(params, stats, said, **stored_names(said))
