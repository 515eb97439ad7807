"""Values of a config.json: each reader returns the value or says what it should be."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxtl.core import key_table
from jaxtl.core.errors import UserError, nearest

# transformers' names of activations -> jaxtl's.
ACTIVATION_NAMES = {
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}


def shown(value: Any) -> str:
    """A value as JSON, shortened; a text in single quotes."""
    return repr(value) if isinstance(value, str) else key_table.shown(value)


def _expected(key: str, value: Any, what: str) -> UserError:
    return UserError(f"config.json: {key} is {shown(value)}; expected {what}.")


def count(key: str, value: Any) -> int:
    """A whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _expected(key, value, "a whole number of 1 or more")
    return value


def counts(key: str, value: Any, length: int | None = None) -> tuple[int, ...]:
    """A list of whole numbers of 1 or more: so many of them, or any number but 0."""
    fits = isinstance(value, list | tuple) and len(value) > 0
    if not fits or length not in (None, len(value)):
        raise _expected(key, value, f"a list of {length or 'one or more'} numbers")
    return tuple(count(key, number) for number in value)


def positives(key: str, value: Any, length: int) -> tuple[float, ...]:
    """A list of so many numbers above 0."""
    if not isinstance(value, list | tuple) or len(value) != length:
        raise _expected(key, value, f"a list of {length} numbers")
    return tuple(positive(key, number) for number in value)


def optional(read: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Reader of a value or null, which becomes None."""
    return lambda key, value: None if value is None else read(key, value)


def layer_types(key: str, value: Any) -> tuple[str, ...]:
    """A list of "full_attention" and "sliding_attention", () for null."""
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(value, list | tuple | None) or not set(value or ()) <= set(kinds):
        raise _expected(key, value, f"a list of {' and '.join(map(repr, kinds))}")
    return tuple(value or ())


def index(key: str, value: Any) -> int:
    """A whole number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _expected(key, value, "a whole number of 0 or more")
    return value


def indices(key: str, value: Any) -> tuple[int, ...]:
    """A list of whole numbers of 0 or more."""
    if not isinstance(value, list | tuple):
        raise _expected(key, value, "a list of whole numbers of 0 or more")
    return tuple(index(key, number) for number in value)


def padding(key: str, value: Any) -> int | None:
    """The id of padding; None for a negative one, which no token has."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise _expected(key, value, "a whole number or null")
    return value if value >= 0 else None


def flag(key: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise _expected(key, value, "true or false")
    return value


def rate(key: str, value: Any) -> float:
    """A dropout rate, 0 ≤ value < 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise _expected(key, value, "a rate of at least 0 and below 1")
    return value


def positive(key: str, value: Any) -> float:
    """A finite number above 0."""
    if not _is_number(value) or value <= 0:
        raise _expected(key, value, "a number above 0")
    return value


def number(key: str, value: Any) -> float:
    """A finite number."""
    if not _is_number(value):
        raise _expected(key, value, "a number")
    return value


def scale(key: str, value: Any) -> float | None:
    """A factor above 0; None for 0 and below, which stands for no factor."""
    return number(key, value) if number(key, value) > 0 else None


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def activation(key: str, value: Any) -> str:
    """jaxtl's name of an activation of transformers."""
    if not isinstance(value, str) or value not in ACTIVATION_NAMES:
        raise UserError(
            f"config.json: {key} names the activation {shown(value)}, which is unknown"
            f"{nearest(value, ACTIVATION_NAMES)} "
            f"(known: {', '.join(ACTIVATION_NAMES)})."
        )
    return ACTIVATION_NAMES[value]


def side(key: str, value: Any) -> int:
    """The side of a square, given as a number or as [height, width]."""
    sides = value if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or sides[0] != sides[1]:
        raise _expected(key, value, "a number, or a height and a width that are equal")
    return count(key, sides[0])


def one_of(*options: str) -> Callable[[str, Any], str]:
    """Reader of a text with these values."""

    def read(key: str, value: Any) -> str:
        if value not in options:
            raise _expected(key, value, " or ".join(map(repr, options)))
        return value

    return read


def renamed(names: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    """Reader of a text that stands for a value of jaxtl's."""
    read_name = one_of(*names)
    return lambda key, value: names[read_name(key, value)]


def some_of(*options: str) -> Callable[[str, Any], tuple[str, ...]]:
    """Reader of some of these texts, in a list or joined by "|"; () for null."""

    def read(key: str, value: Any) -> tuple[str, ...]:
        parts = value.lower().split("|") if isinstance(value, str) else value or ()
        names = [part.strip() if isinstance(part, str) else part for part in parts]
        if not set(names) <= set(options):
            raise _expected(key, value, "some of " + " and ".join(map(repr, options)))
        return tuple(option for option in options if option in names)

    return read


def count_or(fallback: int | None) -> Callable[[str, Any], int | None]:
    """Reader of a whole number, where one below 1 stands for the fallback."""

    def read(key: str, value: Any) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _expected(key, value, "a whole number")
        return value if value >= 1 else fallback

    return read
