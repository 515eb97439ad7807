"""Axes of a command line: "optim.lr=0.001,0.01", "seed=0..4", "a.b=log(1e-4,1,5)"."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.sweep.axes import SEED, VARIANT, Grid, Range, axis_name, linear, log

_SEEDS = ("SEEDS", "seeds")  # names of the axis "seed" in other commands
_RANGE = re.compile(r"(log|linear)\(.+\)|-?\d+\.\.-?\d+|tl\.sweep\..+")
_SPACED = re.compile(r"(log|linear)\((.+),(.+),(.+)\)")
_INTEGERS = re.compile(r"(-?\d+)\.\.(-?\d+)")


def split_axes(
    sweep: Mapping[Any, Any] | Grid | None, texts: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Separates the axes of a command line from its overrides of single values.

    A single value belongs to an axis as well if the file has an axis of that name.

    Args:
      sweep: the file's SWEEP.
      texts: "a.b=0,0.01" and the like.

    Returns:
      (axes, overrides), each in the order given.

    Raises:
      UserError: a field that the file changes together with others.
    """
    axes_of_file = sweep.axes if isinstance(sweep, Grid) else sweep
    names = list(axes_of_file) if isinstance(axes_of_file, Mapping) else []
    axes, overrides = [], []
    for text in texts:
        name = text.partition("=")[0].strip()
        for zipped in (axis for axis in names if isinstance(axis, tuple)):
            if name in zipped:
                raise UserError(
                    f"{text}: the file changes {axis_name(zipped)} together; change "
                    "them there."
                )
        is_axis = name in (SEED, VARIANT, *_SEEDS) or name in names
        (axes if is_axis or _has_several_values(text) else overrides).append(text)
    return axes, overrides


def _has_several_values(text: str) -> bool:
    values = text.partition("=")[2]
    parts = [part for part in _split_at_commas(values) if part]
    return len(parts) > 1 or bool(_RANGE.fullmatch(values.strip()))


def parse_axis(text: str) -> tuple[str, Any]:
    """Reads (axis, values) from "a.b=0,0.01", "seed=0..4" or "lr=log(1e-4,1e-2,5)".

    Raises:
      UserError: no "=", or a range of wrong ends.
    """
    import jaxtl

    name, equals, values = text.partition("=")
    name, values = name.strip(), values.strip()
    name = SEED if name in _SEEDS else name
    if not equals or not name:
        raise UserError(
            f"the axis {text!r} has no '='; expected path=value,value, such as "
            "optim.lr=0.001,0.01."
        )
    if match := _SPACED.fullmatch(values):
        low, high, count = (config.literal(x.strip()) for x in match.groups()[1:])
        return name, (log if match[1] == "log" else linear)(low, high, count)
    if match := _INTEGERS.fullmatch(values):
        return name, range(int(match[1]), int(match[2]) + 1)
    parts = [part for part in _split_at_commas(values) if part]
    parsed = [config.literal(part, {"tl": jaxtl}) for part in parts]
    if len(parsed) == 1 and isinstance(parsed[0], Range):
        return name, parsed[0]
    return name, parsed


def _split_at_commas(text: str) -> list[str]:
    """Splits a text at the commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        depth += (char in "([{") - (char in ")]}") if not quote else 0
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]
