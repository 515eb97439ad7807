"""Settings of a method that hold one value each, or a tuple of candidates.

A method is a frozen dataclass; its settings are the fields that its class adds to a
base class. A field of numbers takes numbers above 0; `choice` declares what else.
"""

import dataclasses
import itertools
import math
from typing import Any, TypeVar

import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError, nearest

Method = TypeVar("Method")


def choice(default: Any, *options: Any) -> Any:
    """Declares a field that takes these options, besides the numbers of its type."""
    return dataclasses.field(default=default, metadata={"options": options})


def settings(method: Any, base: type) -> dict[str, Any]:
    """Values of the fields that a method adds to a base class, by name."""
    return {f.name: getattr(method, f.name) for f in _fields(method, base)}


def combinations(method: Method, base: type) -> list[Method]:
    """One method per combination of candidates; the last setting varies fastest."""
    values = settings(method, base)
    tuples = {k: v for k, v in values.items() if isinstance(v, tuple)}
    return [
        dataclasses.replace(method, **dict(zip(tuples, combination)))  # type: ignore[type-var]
        for combination in itertools.product(*tuples.values())
    ]


def check(method: Any, base: type, name: str) -> None:
    """Checks the settings; converts them to Python numbers, and sequences to tuples.

    Args:
      method: whose settings they are.
      base: the class whose fields are no settings.
      name: of the method, for messages.

    Raises:
      UserError: a setting without a value, or with one that it does not take.
    """
    for field in _fields(method, base):
        value = _checked(getattr(method, field.name), f"{name}.{field.name}", field)
        object.__setattr__(method, field.name, value)


def _fields(method: Any, base: type) -> list[dataclasses.Field]:
    common = {f.name for f in dataclasses.fields(base)}
    return [f for n, f in config.fields(method).items() if n not in common]


def _checked(value: Any, name: str, field: dataclasses.Field) -> Any:
    """A checked setting: a value, or a tuple of such."""
    if not isinstance(value, tuple | list | range | np.ndarray):
        return _checked_value(name, value, field)
    if len(value) == 0:
        raise UserError(f"{name}=(): expected at least one value.")
    return tuple(_checked_value(name, v, field) for v in value)


def _checked_value(name: str, value: Any, field: dataclasses.Field) -> Any:
    """Checks one candidate of a setting: an option, or a positive number of the type.

    Raises:
      UserError: neither.
    """
    options, annotation = field.metadata.get("options", ()), str(field.type)
    number = next((k for k in ("float", "int") if k in annotation), None)
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str):
        valid = value in options
    else:
        types = {"float": (int, float), "int": (int,), None: ()}[number]
        valid = isinstance(value, types) and not isinstance(value, bool)
        valid = valid and 0 < value < math.inf
    if valid:
        return value
    expected = [repr(option) for option in options]
    descriptions = {"float": "a number above 0", "int": "a whole number above 0"}
    expected += [descriptions[number]] if number else []
    raise UserError(
        f"{name}={value!r}{nearest(value, options)}: expected "
        f"{' or '.join(expected)}, or a tuple of such values."
    )
