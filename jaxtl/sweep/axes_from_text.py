"""Axes on a command line: "optim.lr=0.001,0.01", "seed=0..4", "a.b=log(1e-4,1,5)"."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.sweep.axes import SEED, VARIANT, Grid, Range, linear, log, title

_SEEDS = ("SEEDS", "seeds")  # as the other commands call them


def is_axis(text: str) -> bool:
    """Whether "path=values" on a command line spans several values."""
    values = text.partition("=")[2]
    many = len([part for part in _split(values) if part]) > 1
    return many or bool(_RANGES.fullmatch(values.strip()))


def parted(given: Any, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the texts of a command line that are axes, and the others.

    A single value is an axis's too where the file has an axis of that name.

    Args:
      given: the file's SWEEP.
      texts: "a.b=0,0.01" and the like.

    Raises:
      UserError: a field that the file changes together with others.
    """
    known = given.axes if isinstance(given, Grid) else given
    names = list(known) if isinstance(known, Mapping) else []
    axes, rest = [], []
    for text in texts:
        name = text.partition("=")[0].strip()
        for zipped in (axis for axis in names if isinstance(axis, tuple)):
            if name in zipped:
                raise UserError(
                    f"{text}: the file changes {title(zipped)} together; change them "
                    "there."
                )
        own = name in (SEED, VARIANT, *_SEEDS) or name in names
        (axes if own or is_axis(text) else rest).append(text)
    return axes, rest


_RANGES = re.compile(r"(log|linear)\(.+\)|-?\d+\.\.-?\d+|tl\.sweep\..+")


def parsed(text: str) -> tuple[str, Any]:
    """Returns (axis, values) of "a.b=0,0.01", "seed=0..4" or "lr=log(1e-4,1e-2,5)"."""
    import jaxtl

    name, equals, values = text.partition("=")
    name, values = name.strip(), values.strip()
    name = SEED if name in _SEEDS else name
    if not equals or not name:
        raise UserError(
            f"the axis {text!r} has no '='; expected path=value,value, such as "
            "optim.lr=0.001,0.01."
        )
    if made := re.fullmatch(r"(log|linear)\((.+),(.+),(.+)\)", values):
        low, high, count = (config.literal(x.strip()) for x in made.groups()[1:])
        return name, (log if made[1] == "log" else linear)(low, high, count)
    if made := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", values):
        return name, range(int(made[1]), int(made[2]) + 1)
    parts = [part for part in _split(values) if part]
    found = [config.literal(part, {"tl": jaxtl}) for part in parts]
    if len(found) == 1 and isinstance(found[0], Range):
        return name, found[0]
    return name, found


def _split(text: str) -> list[str]:
    """Splits at the commas that stand in no bracket or quotes."""
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
