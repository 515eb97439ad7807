"""Spans of words with a type, as their tags mark them, in the two ways of seqeval.

By default a span begins and ends wherever tags change, as the script `conlleval` has
it, so that every scheme and every wrong sequence has spans. Strictly, a span counts
where its tags are those of one scheme in the right order.

References:
  Nakayama, seqeval, 2018 (https://github.com/chakki-works/seqeval), version 1.2.2.
  Tjong Kim Sang & De Meulder, Introduction to the CoNLL-2003 Shared Task, CoNLL 2003.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ANY, _SAME, _DIFFERENT = "any", "same", "different"
_Pattern = tuple[str, str, str]  # letters before, letters now, condition on the types
_ALL = "IOBESUL"


class _Scheme(NamedTuple):
    """Which pairs of neighboring tags begin, continue and end a span."""

    letters: str
    start: tuple[_Pattern, ...]
    inside: tuple[_Pattern, ...]
    end: tuple[_Pattern, ...]


_CONTINUES: tuple[_Pattern, ...] = (("BI", "I", _SAME),)
SCHEMES = {
    "IOB1": _Scheme(
        "IOB",
        (
            ("O", "I", _ANY),
            ("I", "I", _DIFFERENT),
            ("B", "I", _ANY),
            ("IB", "B", _SAME),
        ),
        _CONTINUES,
        (("I", "I", _DIFFERENT), ("I", "OB", _ANY), ("B", "O", _ANY))
        + (("B", "I", _DIFFERENT), ("B", "B", _SAME)),
    ),
    "IOB2": _Scheme(
        "IOB",
        ((_ALL, "B", _ANY),),
        _CONTINUES,
        (("IB", "OB", _ANY), ("IB", "I", _DIFFERENT)),
    ),
    "IOE1": _Scheme(
        "IOE",
        (("O", "I", _ANY), ("I", "I", _DIFFERENT), ("E", "I", _ANY), ("E", "E", _SAME)),
        (("I", "IE", _SAME),),
        (("I", "I", _DIFFERENT), ("I", "O", _ANY), ("I", "E", _DIFFERENT))
        + (("E", "IE", _SAME),),
    ),
    "IOE2": _Scheme(
        "IOE",
        (("OE", "IE", _ANY), ("I", "IE", _DIFFERENT)),
        (("I", "IE", _SAME),),
        (("E", _ALL, _ANY),),
    ),
    "IOBES": _Scheme(
        "IOBES",
        ((_ALL, "BS", _ANY),),
        (("BI", "IE", _SAME),),
        (("SE", _ALL, _ANY),),
    ),
    "BILOU": _Scheme(
        "BILOU",
        ((_ALL, "BU", _ANY),),
        (("BI", "IL", _SAME),),
        (("UL", _ALL, _ANY),),
    ),
}


class Spans(NamedTuple):
    """Spans of words.

    Attributes:
      start, end: int64 (spans,), the first word, and the one behind the last.
      kind: int64 (spans,), index of the type.
    """

    start: np.ndarray
    end: np.ndarray
    kind: np.ndarray


def span_types(names: Sequence[str]) -> tuple[str, ...]:
    """The types of spans that tags name, sorted; "_" where a tag names none."""
    return tuple(sorted({_type(name) for name in names if name != "O"}))


def _type(name: str) -> str:
    return name[1:].split("-", maxsplit=1)[-1] or "_"


def letters(names: Sequence[str]) -> set[str]:
    """The letters that tags begin with."""
    return {name[:1] for name in names}


def spans_of(
    tags: np.ndarray, names: Sequence[str], scheme: str | None = None
) -> Spans:
    """Finds the spans of a sequence of tags.

    Args:
      tags: (words,) indices of `names`; −1 stands between two sentences.
      names: of the tags, "O" and such as "B-PER".
      scheme: a key of `SCHEMES` to count strictly; None for the default way.

    Returns:
      The spans in order; `kind` is an index of `span_types(names)`.
    """
    kinds = span_types(names)
    kind_of = {kind: i for i, kind in enumerate(kinds)}
    # The last entry is "O", which −1 stands for.
    letter_of = np.array([*(name[:1] for name in names), "O"])
    # As in seqeval, "O" has the type of tags that name none.
    type_of = np.array([kind_of.get(_type(n), -1) for n in (*names, "O")], np.int64)
    tags = np.concatenate([[-1], tags, [-1]])
    letter, kind = letter_of[tags], type_of[tags]
    before, after = (letter[:-1], kind[:-1]), (letter[1:], kind[1:])
    if scheme is None:
        return _default_spans(before, after)
    return _strict_spans(before, after, SCHEMES[scheme])


_Tags = tuple[np.ndarray, np.ndarray]  # letters and types of words


def _default_spans(before: _Tags, after: _Tags) -> Spans:
    """Spans between changes of tags.

    `after` are the words and one "O" behind them, `before` the words in front of them.
    """
    (a, kind_a), (b, kind_b) = before, after
    differs = kind_a != kind_b
    is_end = np.isin(a, ["E", "S"]) | (np.isin(a, ["B", "I"]) & np.isin(b, list("BSO")))
    is_end |= (a != "O") & (a != ".") & differs
    is_start = np.isin(b, ["B", "S"]) | (
        np.isin(a, list("ESO")) & np.isin(b, list("EI"))
    )
    is_start |= (b != "O") & (b != ".") & differs
    index = np.arange(len(b))
    begun = np.maximum.accumulate(np.where(is_start, index, 0))
    ends = np.flatnonzero(is_end)
    return Spans(np.where(ends > 0, begun[ends - 1], 0), ends, kind_a[ends])


def _strict_spans(before: _Tags, after: _Tags, scheme: _Scheme) -> Spans:
    """Spans whose tags are in the order of a scheme; arguments as `_default_spans`."""
    is_start, is_inside, is_end = (
        _matches(before, after, patterns)
        for patterns in (scheme.start, scheme.inside, scheme.end)
    )
    outside = np.flatnonzero(~is_inside)
    bounds: list[tuple[int, int]] = []
    free = 0
    for start in np.flatnonzero(is_start):
        if start < free:  # within the span before
            continue
        free = int(outside[np.searchsorted(outside, start, side="right")])
        if is_end[free]:
            bounds.append((int(start), free))
    spans = np.array(bounds, np.int64).reshape(-1, 2)
    return Spans(spans[:, 0], spans[:, 1], after[1][spans[:, 0]])


def _matches(before: _Tags, after: _Tags, patterns: Sequence[_Pattern]) -> np.ndarray:
    """Whether each pair of neighbors matches one of some patterns."""
    (a, kind_a), (b, kind_b) = before, after
    result = np.zeros(len(b), bool)
    for first, second, condition in patterns:
        fits = np.isin(a, list(first)) & np.isin(b, list(second))
        if condition != _ANY:
            fits &= (kind_a == kind_b) == (condition == _SAME)
        result |= fits
    return result
