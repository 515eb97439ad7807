"""Serialization: a configuration as JSON, and back.

Dataclasses are stored by class and fields, functions and classes by name; of arrays
only shape, dtype and hash, which tell whether they changed.
"""

import functools
import hashlib
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN


def to_json(value: Any) -> Any:
    """Converts a configuration to JSON values; `from_json` reads them back."""
    if value is FROZEN:
        return {"type": "FROZEN"}
    if config.is_config(value):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        inner = {n: to_json(getattr(value, n)) for n in config.fields(value)}
        return {"type": kind, **inner}
    if isinstance(value, Mapping):
        return {"type": "map", "items": [[k, to_json(v)] for k, v in value.items()]}
    if isinstance(value, tuple | list | range):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {
            "type": "array",
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "sha256": digest[:16],
        }
    if hasattr(value, "__fspath__"):
        return str(value)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    name = f"{getattr(value, '__module__', '?')}:{name}"
    try:
        kind = "named" if _named(name) is value else "object"
    except UserError:
        kind = "object"
    return {"type": kind, "name": name}


def _named(name: str) -> Any:
    """Imports the object named "module:Class.attribute"; UserError if there is none."""
    module, _, path = name.partition(":")
    try:
        return functools.reduce(
            getattr, path.split("."), importlib.import_module(module)
        )
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the stored experiment uses {name!r}, which can't be imported here: "
            f"{error}."
        ) from None


def from_json(data: Any) -> Any:
    """Rebuilds a configuration from `to_json`.

    Raises:
      UserError: if it holds what JSON can't (arrays or functions given in a notebook)
        or a class that can't be imported.
    """
    if isinstance(data, list):
        return tuple(from_json(v) for v in data)
    if not isinstance(data, dict):
        return data
    kind = data["type"]
    if kind == "FROZEN":
        return FROZEN
    if kind == "map":
        return {k: from_json(v) for k, v in data["items"]}
    if kind in ("array", "object"):
        what = data.get("name") or f"array of shape {data['shape']}"
        raise UserError(
            f"the stored experiment holds {what}, which only the program that made it "
            "has; make the experiment there again and pass it: tl.resume(out, exp)."
        )
    if kind == "named":
        return _named(data["name"])
    cls, inner = _named(kind), {k: v for k, v in data.items() if k != "type"}
    try:
        return cls(**{k: from_json(v) for k, v in inner.items()})
    except TypeError as error:
        raise UserError(
            f"the stored experiment does not fit this version's {cls.__name__}: "
            f"{error}."
        ) from None
