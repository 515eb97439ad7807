"""Configuration: overrides by dotted paths, and traced numbers.

A configuration consists of nested frozen dataclasses, mappings and tuples. `override`
replaces the value at a dotted path. `hyperparameters` takes the traced numbers out, and
`with_hyperparameters` puts (traced) numbers back. `serialization.py` stores it as JSON.
"""

import ast
import collections.abc
import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jaxtl.core import field_types
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import FROZEN, PyTree

_HIDDEN = ("parent", "name")  # the fields that linen adds to each of its dataclasses


def is_config(value: Any) -> bool:
    """Whether a value is a dataclass (and not a class itself)."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields(value: Any) -> dict[str, dataclasses.Field]:
    """The settable fields of a dataclass value by name."""
    hidden = _HIDDEN if hasattr(value, "parent") else ()
    return {
        f.name: f for f in dataclasses.fields(value) if f.init and f.name not in hidden
    }


# --- hyperparameters: numbers that an ablation varies are traced ---------------------


def traced(default: Any = dataclasses.MISSING, *, low: float = 0.0) -> Any:
    """Declares a field whose number is an argument of the compiled program.

    Configurations that differ in traced numbers alone share one compiled program, so
    code must not branch on them in Python. A field without it is compiled in. The value
    may also be None, a configuration with traced fields (a schedule), or a mapping or
    tuple of numbers.

    Args:
      default: the field's default; without one the field is required.
      low: the least value (see `core.ranges`); -inf for a number of any sign.

    Returns:
      A field of a dataclass.
    """
    metadata = {"traced": True, "low": low}
    if isinstance(default, Mapping):  # dataclasses refuse a mutable default
        return dataclasses.field(
            default_factory=lambda: dict(default), metadata=metadata
        )
    return dataclasses.field(default=default, metadata=metadata)


def _children(value: Any, is_traced: bool) -> Iterator[tuple[str, Any, bool]]:
    """Yields (key, child, whether the child is traced if it is a number)."""
    if is_config(value):
        for name, field in fields(value).items():
            yield name, getattr(value, name), bool(field.metadata.get("traced"))
    elif isinstance(value, Mapping):
        for name, child in value.items():
            yield name, child, is_traced
    elif isinstance(value, tuple):
        for index, child in enumerate(value):
            yield str(index), child, is_traced


def hyperparameters(value: Any, is_traced: bool = False) -> dict[str, Any]:
    """The traced numbers of a configuration as a nested dict of floats.

    Configurations without such fields give {}.
    """
    numbers: dict[str, Any] = {}
    for name, child, child_is_traced in _children(value, is_traced):
        is_number = isinstance(child, int | float) and not isinstance(child, bool)
        if is_number:
            if child_is_traced:
                numbers[name] = float(child)
        elif inner := hyperparameters(child, child_is_traced):
            numbers[name] = inner
    return numbers


def with_hyperparameters(value: Any, new: Mapping[str, Any]) -> Any:
    """The configuration with the numbers of `hyperparameters` replaced by `new`."""
    if not new:
        return value

    def put(key: Any, child: Any):
        if key not in new:
            return child
        return (
            with_hyperparameters(child, new[key])
            if isinstance(new[key], Mapping)
            else new[key]
        )

    if is_config(value):
        return dataclasses.replace(value, **{k: put(k, getattr(value, k)) for k in new})
    if isinstance(value, Mapping):
        return {k: put(k, child) for k, child in value.items()}
    return tuple(put(str(i), child) for i, child in enumerate(value))


def without_hyperparameters(value: Any) -> Any:
    """The configuration with every traced number set to 0."""
    return with_hyperparameters(value, _zeros(hyperparameters(value)))


def _zeros(tree: PyTree):
    return {k: _zeros(v) if isinstance(v, dict) else 0.0 for k, v in tree.items()}


def key(value: Any) -> Any:
    """A hashable stand-in: equal for configurations that mean the same."""
    if is_config(value):
        inner = tuple((n, key(getattr(value, n))) for n in fields(value))
        return (type(value), inner)
    if isinstance(value, Mapping):
        return ("map", tuple((k, key(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return ("row", tuple(key(v) for v in value))
    try:
        hash(value)
    except TypeError:
        return ("id", _Same(value))
    return (type(value).__name__, value)


class _Same:
    """Equal for one and the same object, which it keeps alive: ids are used again."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object):
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)


class UnknownPath(UserError):
    """A path that names nothing in this configuration, though it may in another."""


# --- overrides ----------------------------------------------------------------------


class _How(typing.NamedTuple):
    """Settings of one override, passed down its path."""

    names: Mapping
    new: bool
    memo: dict | None


def override(
    value: Any,
    path: str,
    text: Any,
    *,
    names: Mapping | None = None,
    new: bool = False,
    memo: dict | None = None,
) -> Any:
    """The configuration with what the dotted path names replaced.

    Args:
      value: nested dataclasses, mappings and tuples.
      path: "terms.l2sp.weight"; a mapping's keys are matched longest first, so
        patterns with dots work.
      text: the new value; a string is read as a Python literal where it is one, and
        as an expression where it starts with a name of `names` and a dot.
      names: what such expressions may use, {"tl": jaxtl}.
      new: a path may end in a key that its mapping has not got yet.
      memo: values that were read and checked before, for many overrides of one kind.

    Raises:
      UserError: for an unknown field or key (with the nearest; `UnknownPath`), or a
        value that does not fit the field's type.
    """
    how = _How(names or {}, new, memo)
    return _walk(value, path, text, how, done="", annotation=Any)


def _walk(value: Any, path: str, text: Any, how: Any, done: str, annotation: Any):
    if how.new and isinstance(value, Mapping) and _is_new(value, path):
        return {**value, path: text}
    head, remaining_path, annotation = _step(value, path, done, annotation)
    where = f"{done}.{head}" if done else head
    if remaining_path:
        child = value[_index(value, head)] if _indexed(value) else getattr(value, head)
        new = _walk(child, remaining_path, text, how, where, annotation)
    else:
        new = _remembered(text, annotation, where, how)
    if is_config(value):
        try:
            return dataclasses.replace(value, **{head: new})
        except UserError:
            raise
        except Exception as error:  # of a class that a user may have written
            raise UserError(f"{where}={text!r} is refused: {error}.") from None
    if isinstance(value, Mapping):
        return {**value, head: new}
    index = int(head)
    return (*value[:index], new, *value[index + 1 :])


def _is_new(value: Mapping, path: str) -> bool:
    exists = any(path == k or path.startswith(f"{k}.") for k in value)
    return not exists and "." not in path


def _remembered(text: Any, annotation: Any, where: str, how: _How):
    if how.memo is None:
        return parse(text, annotation, where, how.names)
    memo_key = (where, str(annotation), type(text), repr(text))
    if memo_key not in how.memo:
        how.memo[memo_key] = parse(text, annotation, where, how.names)
    return how.memo[memo_key]


def _indexed(value: Any):
    return isinstance(value, Mapping | tuple)


def _index(value: Any, head: str):
    return head if isinstance(value, Mapping) else int(head)


def _step(value: Any, path: str, done: str, annotation: Any):
    """(first key of the path, the rest, the annotation of what it names)."""
    where = f"{done}: " if done else ""
    if is_config(value):
        head, _, remaining_path = path.partition(".")
        if head not in fields(value):
            raise UnknownPath(
                f"{where}{type(value).__name__} has no field {head!r}"
                f"{nearest(head, fields(value))} (fields: {', '.join(fields(value))})."
            )
        return head, remaining_path, annotation_of(value, head)
    if isinstance(value, Mapping):
        inner = _values(annotation)
        for name in sorted(value, key=len, reverse=True):
            if path == name or path.startswith(name + "."):
                return name, path[len(name) + 1 :], inner
        head = path.partition(".")[0]
        raise UnknownPath(
            f"{where}there is no {head!r}{nearest(head, value)} "
            f"(known: {', '.join(map(repr, value)) or 'nothing'})."
        )
    if isinstance(value, tuple):
        head, _, remaining_path = path.partition(".")
        if not head.isdecimal() or int(head) >= len(value):
            raise UnknownPath(
                f"{where}expected an index below {len(value)}, got {head!r}."
            )
        return head, remaining_path, _elements(annotation)
    raise UnknownPath(
        f"{done} is {value!r} and has no fields, so {path!r} can't be set in it."
    )


def annotation_of(value: Any, name: str) -> Any:
    """The type annotation of a dataclass value's field; Any where it has none."""
    return field_types.hints(type(value)).get(name, Any)  # type: ignore[arg-type]


def _values(annotation: Any) -> Any:
    """The annotation of a mapping's values, the mapping may be in a union."""
    for arm in field_types.arms(annotation):
        if typing.get_origin(arm) in (collections.abc.Mapping, dict):
            return typing.get_args(arm)[1]
    return Any


def _elements(annotation: Any) -> Any:
    """The annotation of a tuple's elements where all have the same."""
    for arm in field_types.arms(annotation):
        if typing.get_origin(arm) is tuple and typing.get_args(arm)[-1] is ...:
            return typing.get_args(arm)[0]
    return Any


def literal(text: Any, names: Mapping | None = None) -> Any:
    """Parses text of a command line: a Python literal, an expression, or a string."""
    if not isinstance(text, str):
        return text
    lowered = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in lowered:
        return lowered[text.lower()]
    if text in ("FROZEN", "frozen"):
        return FROZEN
    if any(_speaks_of(name, text) for name in names or {}):
        try:
            return eval(text, {"__builtins__": {}}, dict(names or {}))
        except Exception as error:
            raise UserError(f"can't evaluate {text!r}: {error}") from None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _speaks_of(name: str, text: str) -> bool:
    """Whether a text is an expression in `name.`: a value, or a bracket with such."""
    inside = text[:1] in ("(", "[", "{") and re.search(rf"(?<!['\"\w.]){name}\.", text)
    return text.startswith(f"{name}.") or bool(inside)


def parse(text: Any, annotation: Any, where: str, names: Mapping | None = None) -> Any:
    """The value of a field from text, checked against its annotation."""
    value = literal(text, names)
    # pydantic accepts True as 1 and 1.0, which is never meant by steps=true.
    flag = isinstance(value, bool) and annotation is not Any
    flag = flag and "bool" not in str(annotation)
    try:
        return field_types.converted(str(text) if flag else value, annotation)
    except ValueError:
        pass
    try:  # a text that happens to look like a number or None
        return field_types.converted(text, annotation, strict=True)
    except ValueError:
        raise field_types.refusal(where, text, annotation) from None
