"""Types of configuration fields: values are checked, and what is expected is told."""

import collections.abc
import dataclasses
import functools
import pathlib
import reprlib
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple

import pydantic

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import FROZEN

_PACKAGE = __name__.partition(".")[0]
_SHORT = "tl"  # name of the package in experiment files and on the command line
_SHOWN = 200  # characters of a wrong value


class _Kind(NamedTuple):
    """A kind of value in words: one of it, several of it, and how one is written."""

    one: str
    many: str
    example: str


_SIMPLE = {
    int: _Kind("a whole number", "whole numbers", "10"),
    float: _Kind("a number", "numbers", "0.1"),
    bool: _Kind("True or False", "True or False each", "True"),
    str: _Kind("a text", "texts", "'name'"),
    bytes: _Kind("bytes", "bytes", "b'abc'"),
    pathlib.Path: _Kind("a path", "paths", "'folder'"),
    types.NoneType: _Kind("None", "None", "None"),
    type(FROZEN): _Kind(f"{_SHORT}.FROZEN", "FROZEN", f"{_SHORT}.FROZEN"),
}
_ANY = _Kind("a value", "values", "")


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The type annotations of a dataclass, resolved."""
    try:
        return typing.get_type_hints(cls)
    except Exception:  # a forward reference that only a type checker can follow
        return {}


def converted(value: Any, annotation: Any, *, strict: bool = False) -> Any:
    """The value as its annotation has it: 1e3 as a whole number, a list as a tuple.

    Annotations that can't be checked accept every value.

    Args:
      value: of a field.
      annotation: of the field.
      strict: whether a value of another type is refused that could be converted.

    Raises:
      ValueError: a value that does not fit.
    """
    try:
        adapter = pydantic.TypeAdapter(
            _loosened(annotation),
            config=pydantic.ConfigDict(arbitrary_types_allowed=True),
        )
    except pydantic.errors.PydanticUserError:
        return value
    return adapter.validate_python(value, strict=strict)


def admits(annotation: Any, value: Any) -> bool:
    """Whether a field may hold a plain value; values of other types are passed over.

    Plain are None, truth values, numbers and texts, and those in a tuple. A text is no
    number and no tuple of its characters, and a number with a fraction no whole one.
    """
    if isinstance(value, tuple):
        sequences = [
            typing.get_args(arm)[0]
            for arm in arms(annotation)
            if typing.get_origin(arm) is tuple and typing.get_args(arm)[-1:] == (...,)
        ]
        if len(arms(annotation)) > len(sequences):
            return True  # the tuple may be meant by another arm
        return all(any(admits(s, item) for s in sequences) for item in value)
    if type(value) not in _PLAIN:
        return True
    return any(_arm_admits(arm, value) for arm in arms(annotation))


# Type of a plain value -> annotations that it fits.
_PLAIN: dict[type, tuple[Any, ...]] = {
    types.NoneType: (types.NoneType,),
    bool: (bool,),
    int: (int, float, complex),
    float: (float, complex),
    complex: (complex,),
    str: (str, pathlib.Path),
}


def _arm_admits(arm: Any, value: Any) -> bool:
    origin = typing.get_origin(arm)
    if origin is typing.Literal:
        return value in typing.get_args(arm)
    is_checkable = isinstance(arm, type) or origin in (tuple, list, dict)
    is_checkable = is_checkable or origin is collections.abc.Mapping
    if arm in (Any, object) or not is_checkable or getattr(arm, "_is_protocol", False):
        return True
    return arm in _PLAIN[type(value)]


def refusal(path: str, value: Any, annotation: Any) -> UserError:
    """The error for a value that does not fit; its words are the same everywhere.

    Args:
      path: of the field, "optim.lr".
      value: that was received.
      annotation: of the field.
    """
    shown = repr(value) if isinstance(value, str) else reprlib.repr(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]} …"
    kinds = [_kind(arm) for arm in arms(annotation)]
    expected = f"{path}={shown}: expected {_either(kind.one for kind in kinds)}"
    if options := _options(annotation):
        return UserError(f"{expected}{nearest(value, options)}.")
    examples = [kind.example for kind in kinds if kind.example not in ("", "None")]
    written = _either(f"{path}={example}" for example in examples[:2])
    return UserError(f"{expected}{written and f', such as {written}'}.")


def _options(annotation: Any) -> list[Any]:
    """The values that an annotation lists one by one."""
    return [
        option
        for arm in arms(annotation)
        if typing.get_origin(arm) is typing.Literal
        for option in typing.get_args(arm)
    ]


def arms(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, which is the only one where it is no union."""
    origin = typing.get_origin(annotation)
    if origin is typing.Union or origin is types.UnionType:
        return typing.get_args(annotation)
    return (annotation,)


def public_name(cls: type) -> str:
    """The name by which users write a class: "tl.optim.AdamW"."""
    parts = cls.__module__.split(".")
    if parts[0] != _PACKAGE:
        return cls.__qualname__
    package = sys.modules[_PACKAGE]
    shortcuts = [part for part in parts[1:] if part in package.__all__]
    modules = [("", package), *((f".{s}", getattr(package, s)) for s in shortcuts)]
    for name, module in modules:
        if getattr(module, cls.__name__, None) is cls:
            return f"{_SHORT}{name}.{cls.__name__}"
    return ".".join([_SHORT, *parts[1:], cls.__name__])


def _kind(annotation: Any) -> _Kind:
    """Describes an annotation that is no union."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if origin is typing.Literal:
        return _Kind(f"one of {', '.join(map(repr, args))}", "names", repr(args[0]))
    if origin in (tuple, list, collections.abc.Sequence) and args:
        return _tuple_kind(args)
    if annotation in (tuple, list):
        return _Kind("values in brackets", "brackets", "()")
    if origin in (collections.abc.Mapping, dict):
        inner = [_kind(arm) for arm in arms(args[1])]
        many = _either(kind.many for kind in inner)
        written = inner[0].example and f"{{'name': {inner[0].example}}}"
        return _Kind(f"a mapping from names to {many}", "mappings", written)
    if isinstance(annotation, type):
        name, example = public_name(annotation), _class_example(annotation)
        return _Kind(f"a {name}", f"{name} values", example)
    if origin is collections.abc.Callable:
        return _Kind("a function", "functions", "")
    return _ANY


def _tuple_kind(args: tuple[Any, ...]) -> _Kind:
    inner = [[_kind(arm) for arm in arms(item)] for item in args if item is not ...]
    many = _either(kind.many for kind in inner[0])
    if args[-1] is not ... and len(args) > 1:
        examples = ", ".join(kinds[0].example for kinds in inner)
        return _Kind(f"{len(args)} {many} in brackets", "brackets", f"({examples})")
    written = inner[0][0].example and f"({inner[0][0].example},)"
    return _Kind(f"{many} in brackets", "brackets", written)


def _class_example(cls: type) -> str:
    """How a value of a class, or of one below it, is written; "" if unknown."""
    _load_public_classes(cls)
    written = [
        (len(_required(candidate)), public_name(candidate), candidate)
        for candidate in _subclasses(cls) or [cls]
        if public_name(candidate).count(".") < 3
        and candidate.__module__.startswith(f"{_PACKAGE}.")
        and dataclasses.is_dataclass(candidate)
        and (_required(candidate) or _needs_nothing(candidate))
    ]
    if not written:
        return ""
    _, name, candidate = min(written, key=lambda entry: entry[:2])
    values = [
        f"{field}={_kind(arms(hints(candidate)[field])[0]).example}"
        for field in _required(candidate)
    ]
    return f"{name}({', '.join(values)})"


def _load_public_classes(cls: type) -> None:
    """Loads the public names beside a class: those below it, whoever ran before."""
    package = sys.modules[_PACKAGE]
    for part in cls.__module__.split(".")[1:]:
        module = getattr(package, part) if part in package.__all__ else None
        for name in getattr(module, "__all__", ()):
            getattr(module, name)


def _needs_nothing(cls: type) -> bool:
    """Whether the defaults of a dataclass are a valid value."""
    try:
        cls()
    except Exception:  # of a class that needs one of several fields
        return False
    return True


def _required(cls: type) -> list[str]:
    """The fields of a dataclass that have no default."""
    missing = dataclasses.MISSING
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is field.default_factory is missing
    ]


def _subclasses(cls: type) -> list[type]:
    below: list[type] = []
    child: type
    for child in cls.__subclasses__():
        below += [child, *_subclasses(child)]
    return below


def _either(texts: Iterable[str]) -> str:
    """ "a, b or c"; equal texts once."""
    unique = [text for text in dict.fromkeys(texts) if text]
    if len(unique) < 2:
        return "".join(unique)
    return f"{', '.join(unique[:-1])} or {unique[-1]}"


def _loosened(annotation: Any) -> Any:
    """Replaces dataclasses in an annotation by instance checks of that class.

    pydantic would otherwise rebuild (and so re-validate and copy) each dataclass.
    """
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        check = functools.partial(_instance, annotation)
        return typing.Annotated[Any, pydantic.AfterValidator(check)]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (collections.abc.Mapping, dict):
        return dict[args[0], _loosened(args[1])]  # type: ignore[misc,valid-type]
    if len(arms(annotation)) > 1:
        return typing.Union[tuple(map(_loosened, arms(annotation)))]  # noqa: UP007
    if origin is tuple:
        inner = tuple(a if a is ... else _loosened(a) for a in args)
        return tuple[inner]  # type: ignore[valid-type]
    return annotation


def _instance(cls: type, value: Any) -> Any:
    if not isinstance(value, cls):
        raise ValueError(f"no {cls.__name__}")
    return value
