"""Serialization: a configuration as JSON, and back.

Dataclasses are stored by class and fields, functions and classes by name; of arrays
only shape, dtype and hash, which tell whether they changed.
"""

import dataclasses
import importlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.core import config
from jaxtl.core.array_digests import array_digest
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN

# Importing these runs nothing that a stored experiment chose.
_LIBRARIES = ("jaxtl", "jax", "flax", "optax", "numpy")


# Keys of a field's metadata.
_OMITTED, _INCIDENTAL = "omitted_default", "incidental"


def later_field(
    default: Any = dataclasses.MISSING, *, identifies: bool = True, **settings: Any
) -> Any:
    """Declares a field that files of earlier versions lack.

    It is written only where it differs from its default, so that an experiment which
    does not use it has the JSON, and the hash, that it always had.

    Args:
      default: the default.
      identifies: whether values of which only this field differs are two; see
        `identity`.
      **settings: of `dataclasses.field`; `default_factory` in place of a default.
    """
    metadata = {_OMITTED: True, _INCIDENTAL: not identifies}
    metadata |= settings.pop("metadata", {})
    return dataclasses.field(default=default, metadata=metadata, **settings)


def _is_omitted(field: dataclasses.Field, value: Any) -> bool:
    if not field.metadata.get(_OMITTED):
        return False
    if field.default is not dataclasses.MISSING:
        return value is field.default or (
            type(value) is type(field.default) and value == field.default
        )
    return isinstance(value, Mapping) and not value


def to_json(value: Any) -> Any:
    """Converts a configuration to JSON values; `from_json` reads them back."""
    if value is FROZEN:
        return {"type": "FROZEN"}
    if config.is_config(value):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        inner = {
            name: to_json(getattr(value, name))
            for name, field in config.fields(value).items()
            if not _is_omitted(field, getattr(value, name))
        }
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
        return {
            "type": "array",
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "sha256": array_digest(value)[:16],
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


def identity(kind: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's JSON without the fields that don't identify it.

    Args:
      kind: its class.
      stored: what `to_json` returned.
    """
    incidental = {
        field.name
        for field in dataclasses.fields(kind)
        if field.metadata.get(_INCIDENTAL)
    }
    return {name: value for name, value in stored.items() if name not in incidental}


def _named(name: str) -> Any:
    """Imports the object named "module:Class.attribute"; UserError if there is none.

    The attributes lead through classes alone: "jaxtl.core.files:os.system" would be a
    function of a module that the name does not say.
    """
    module, _, path = name.partition(":")
    try:
        value = importlib.import_module(module)
        for attribute in path.split("."):
            value = getattr(value, attribute)
            if isinstance(value, types.ModuleType):
                raise AttributeError(f"{attribute!r} is a module")
        return value
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the stored experiment uses {name!r}, which can't be imported here: "
            f"{error}."
        ) from None


def map_items(data: Mapping[str, Any]) -> list:
    """The [key, value] pairs of a stored dict, {"type": "map", "items": […]}.

    Raises:
      UserError: there are none, since the file is damaged.
    """
    items = _entry(data, "items")
    if isinstance(items, list) and all(
        isinstance(item, list | tuple)
        and len(item) == 2
        and not isinstance(item[0], list | dict)
        for item in items
    ):
        return items
    raise UserError(
        f"the stored experiment is damaged: the items of a dict are {items!r:.60}."
    )


def _entry(data: Mapping[str, Any], name: str) -> Any:
    """An entry that each stored value of its type has."""
    if name not in data:
        raise UserError(
            f"the stored experiment is damaged: a value has no entry {name!r} "
            f"(entries: {', '.join(data) or 'none'})."
        )
    return data[name]


def foreign_modules(data: Any) -> set[str]:
    """Modules besides the libraries' own that rebuilding a configuration would import.

    To import a module runs its code.
    """
    if isinstance(data, list):
        return set().union(*map(foreign_modules, data))
    if not isinstance(data, dict):
        return set()
    kind = data.get("type")
    if kind == "map":
        return foreign_modules(map_items(data))
    modules = set().union(*map(foreign_modules, data.values()))
    name = data.get("name") if kind == "named" else kind
    if isinstance(name, str) and ":" in name:
        modules.add(name.partition(":")[0])
    return {m for m in modules if m.partition(".")[0] not in _LIBRARIES}


def from_json(data: Any) -> Any:
    """Rebuilds a configuration from `to_json`.

    It imports the modules that the configuration names (see `foreign_modules`), and
    calls nothing but dataclasses.

    Raises:
      UserError: if it holds what JSON can't (arrays or functions given in a notebook)
        or a class that can't be imported.
    """
    if isinstance(data, list):
        return tuple(from_json(v) for v in data)
    if not isinstance(data, dict):
        return data
    kind = _entry(data, "type")
    if kind == "FROZEN":
        return FROZEN
    if kind == "map":
        return {k: from_json(v) for k, v in map_items(data)}
    if kind in ("array", "object"):
        what = data.get("name") or f"array of shape {_entry(data, 'shape')}"
        raise UserError(
            f"the stored experiment holds {what}, which only the program that made it "
            "has; make the experiment there again and pass it: tl.resume(out, exp)."
        )
    if kind == "named":
        return _named(_entry(data, "name"))
    cls, inner = _named(kind), {k: v for k, v in data.items() if k != "type"}
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(
            f"the stored experiment names {kind!r} as a configuration, which is no "
            "dataclass."
        )
    try:
        return cls(**{k: from_json(v) for k, v in inner.items()})
    except TypeError as error:
        raise UserError(
            f"the stored experiment does not fit this version's {cls.__name__}: "
            f"{error}."
        ) from None
