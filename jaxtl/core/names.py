"""Matching of names: where the outputs (or inputs) of a model lie in another's order.

A name counts as it is written, in Unicode's composed form. Where no name is the same
but for its case, the case is ignored. There is no other leniency: what does not match
is refused, with the nearest spelling.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

from jaxtl.core.errors import nearest

_LISTED = 6  # names that a sentence lists


@dataclasses.dataclass(frozen=True)
class NameMatch:
    """How names were found in a source's order.

    Attributes:
      places: place in the source of each name; places that no name asks for follow in
        the source's order.
      kind: "same" names, the same "but for case", or by "place", where one of both has
        no names.
    """

    places: tuple[int, ...]
    kind: Literal["same", "but for case", "place"]

    @property
    def is_identity(self) -> bool:
        """Whether every name is where the source has it."""
        return self.places == tuple(range(len(self.places)))


def match_names(source: Sequence[str], names: Sequence[str]) -> NameMatch | None:
    """Finds names in the order of a source.

    A side has no names if it is empty or has those that transformers invents, LABEL_0,
    LABEL_1, …; or if it numbers its places from 0 while the other side has texts.

    Args:
      source: names in the source's order.
      names: to be found.

    Returns:
      The match; None where the source lacks one of the names.
    """
    count = max(len(source), len(names))
    if not are_names(source) or not are_names(names) or _numbers_one(source, names):
        return NameMatch(tuple(range(count)), "place")
    if len(names) > len(source):
        return None
    if (places := _places(source, names, _composed)) is not None:
        return NameMatch(places, "same")
    if (places := _places(source, names, _caseless)) is not None:
        return NameMatch(places, "but for case")
    return None


def are_names(names: Sequence[str]) -> bool:
    """Whether these are names, not nothing or transformers' LABEL_0, LABEL_1, …."""
    labels = [f"label_{i}" for i in range(len(names))]
    return bool(names) and [name.lower() for name in names] != labels


def are_numbers(names: Sequence[str]) -> bool:
    """Whether the names are the numbers of their places, as unnamed classes have."""
    return list(names) == [str(i) for i in range(len(names))]


def _numbers_one(source: Sequence[str], names: Sequence[str]) -> bool:
    """Whether just one side has texts, and the other the numbers of its places."""
    sides = (source, names)
    are_whole = [all(re.fullmatch(r"-?\d+", n) for n in side) for side in sides]
    if are_whole[0] == are_whole[1]:
        return False
    return are_numbers(sides[are_whole.index(True)])


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _caseless(name: str) -> str:
    return _composed(name).casefold()


def _places(
    source: Sequence[str], names: Sequence[str], form: Callable[[str], str]
) -> tuple[int, ...] | None:
    """The places, None where a name is missing or two names have the same form."""
    places = {form(name): i for i, name in enumerate(source)}
    forms = [form(name) for name in names]
    if len(places) < len(source) or len(set(forms)) < len(forms):
        return None
    if not set(forms) <= set(places):
        return None
    first = [places[name] for name in forms]
    return (*first, *(i for i in range(len(source)) if i not in set(first)))


def difference(source: Sequence[str], names: Sequence[str]) -> str:
    """A remark on the names that the source lacks, with the nearest one it has.

    Args:
      source: names of the source.
      names: names that do not match them.
    """
    missing = [name for name in names if name not in source]
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    hint = nearest(missing[0], [name for name in source if name not in names])
    return f" ({listing(missing)} {verb} not among them{hint})"


def listing(names: Sequence[str]) -> str:
    """The first names, separated by commas."""
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
