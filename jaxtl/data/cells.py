"""Cells of tables: texts in one form, numbers as they are written, labels as classes.

A label is a text. Labels that are all written as whole numbers are put in the order of
these; no two different labels become one class.
"""

from __future__ import annotations

import collections
import decimal
import re
import unicodedata
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

# Lower-case cells that hold no value, as pandas reads them; "?" is of the UCI tables.
MISSING = ("", "na", "n/a", "<na>", "#n/a", "nan", "-nan", "null", "none", "nat", "?")
_INFINITE = ("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity")
# Whole numbers of more distinct values than this are taken for quantities.
MAX_CLASSES = 20
# Lower-case names of a column of labels, to tell a header from a row.
_LABEL_NAMES = (
    *("label", "labels", "class", "classes", "category", "target", "sentiment"),
    *("score", "rating", "stars", "gold_label", "is_duplicate", "y"),
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
# An integer as a program writes it; ".0" is what pandas appends beside missing values.
_INTEGER = re.compile(r"(0|-?[1-9]\d{0,299})(\.0)?", re.ASCII)
_PADDED = re.compile(r"[+-]?0\d", re.ASCII)
# A number in another notation: "1.234,5", "1500,5", "$3", "5 %".
_FOREIGN_NUMBER = re.compile(
    r"[+-]?[$€£]? ?(\d{1,3}([.,' ]\d{3})+|\d+)([.,]\d+)?( ?[%€£])?", re.ASCII
)


def normalized(cell: str) -> str:
    """A text without blanks around it, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", cell).strip()


def all_normalized(texts: Sequence[str]) -> list[str]:
    """`normalized` of each text."""
    if "".join(texts).isascii():
        return [*map(str.strip, texts)]
    return [*map(normalized, texts)]


def number(cell: str) -> float | None:
    """The value of a decimal number, or None.

    Digits are 0 to 9; "1_000", "inf" and "0x10" are no numbers, nor is one beyond the
    range of float64.
    """
    if not _NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    return value if np.isfinite(value) else None


def numbers(cells: Iterable[str]) -> np.ndarray | None:
    """The cells as float64 (n,), or None where one is no number."""
    texts = cells if isinstance(cells, list) else list(cells)
    if not all(map(_NUMBER.fullmatch, texts)):
        return None
    values = np.fromiter(map(float, texts), np.float64, len(texts))
    return values if np.isfinite(values).all() else None


def first_text(cells: Iterable[str]) -> str:
    """The first cell that is no number; there must be one."""
    return next(cell for cell in cells if number(cell) is None)


def integer(cell: str) -> int | None:
    """The value of a whole number as a program writes it, or None for "01", "1e1"."""
    return int(cell.removesuffix(".0")) if _INTEGER.fullmatch(cell) else None


def is_missing(cell: str) -> bool:
    """Whether a cell holds no value, or no finite one."""
    return cell.lower() in MISSING or is_infinite(cell)


def holds_none(texts: Sequence[str], missing: Collection[str]) -> np.ndarray:
    """Whether each text is among those that hold no value; bool (n,).

    A number among these is one in any notation: "-999" is "-999.0" as well.

    Args:
      texts: normalized.
      missing: lower-case texts.
    """
    is_hole = map(frozenset(missing).__contains__, map(str.lower, texts))
    holes = np.fromiter(is_hole, bool, len(texts))
    if not (codes := missing_numbers(missing)):
        return holes
    return holes | np.fromiter((is_one_of(t, codes) for t in texts), bool, len(texts))


def missing_numbers(missing: Collection[str]) -> frozenset[float]:
    """The numbers among texts that hold no value."""
    return frozenset(v for text in missing if (v := number(text)) is not None)


def is_one_of(text: str, numbers: Collection[float]) -> bool:
    """Whether a text is one of some numbers, and no code such as "00"."""
    return number(text) in numbers and not _PADDED.match(text)


def is_infinite(cell: str) -> bool:
    """Whether a cell is written as an infinite number."""
    return cell.lower() in _INFINITE


def classes(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes of labels, every distinct text one class.

    Args:
      labels: (n,) normalized texts.

    Returns:
      int32 (n,), and the names in label order: that of their values if all are whole
      numbers as written (named without ".0"), else that of their characters.
    """
    distinct = sorted(set(labels))
    values = [integer(label) for label in distinct]
    names = dict(zip(distinct, distinct))
    if None not in values and len(set(values)) == len(distinct):
        names = {
            label: str(value)
            for value, label in sorted(zip(values, distinct), key=lambda pair: pair[0])
        }
    index = {label: i for i, label in enumerate(names)}
    y = np.asarray([index[label] for label in labels], np.int32)
    return y, tuple(names.values())


def is_quantity(labels: Sequence[str], max_integers: int | None = MAX_CLASSES) -> bool:
    """Whether labels are numbers to predict, not classes.

    They are if all are numbers and one has a fraction, or if there are more than
    `MAX_CLASSES` different ones.

    Args:
      labels: normalized texts.
      max_integers: replaces `MAX_CLASSES` where all are whole numbers as written; None
        sets no limit.
    """
    values = numbers(set(labels))
    if values is None:
        return False
    if (values != np.round(values)).any():
        return True
    if any(_PADDED.match(label) for label in labels):
        return False  # a code, such as that of a place
    is_integer = all(
        "." not in label and integer(label) is not None for label in labels
    )
    limit = max_integers if is_integer else MAX_CLASSES
    return limit is not None and len(values) > limit


def whole_float_classes(y: np.ndarray) -> bool:
    """Whether floats, (n,), are classes such as 0.0 and 1.0: few, and all whole."""
    values = np.unique(y)
    return len(values) <= MAX_CLASSES and bool((values == np.round(values)).all())


def merged_numbers(cells: Collection[str]) -> tuple[str, str] | None:
    """Two whole numbers that float64 can't tell apart, or None."""
    first: dict[float, str] = {}
    for cell in sorted(set(cells)):
        value = integer(cell)
        if value is not None and abs(value) >= 2**53:
            other = first.setdefault(float(value), cell)
            if integer(other) != value:
                return other, cell
    return None


def guess_header(column: Sequence[str], where: str) -> tuple[bool, list[str]]:
    """Whether the first cell of a column of labels is its name, and what to say of it.

    It is one where it is "label" or the like, or the only cell that is no number.

    Args:
      column: cells as in the file.
      where: the file, for what is said.
    """
    first, *others = map(normalized, column or [""])
    if not others or first in others:
        return False, []
    is_numeric = numbers(others) is not None
    if first.lower() in _LABEL_NAMES or (is_numeric and number(first) is None):
        return True, [f"{where}: the first row, of {first!r}, is read as a header"]
    counts = collections.Counter(others)
    if is_numeric or 1 in counts.values():
        return False, []
    return False, [
        f"{where}: no other row has the label of the first, {first!r}; if it names the "
        "columns, give header=True"
    ]


def column_notes(
    name: str, cells: Sequence[str], is_numeric: bool, place: Callable[[int], str]
) -> list[str]:
    """What a reader should know about how a column was read; [] for nothing odd.

    Args:
      name: of the column.
      cells: of the column.
      is_numeric: whether they were read as numbers.
      place: of a cell by its number, "line 3".
    """
    if all(cell == cells[0] for cell in cells):
        return [f"column {name!r} is constant ({cells[0]!r})"]
    if is_numeric:
        padded = next(filter(_PADDED.match, cells), None)
        if padded is None:
            return []
        return [f"column {name!r} is read as numbers, {padded!r} as {number(padded):g}"]
    texts = {cell for cell in set(cells) if number(cell) is None}
    wrong = [(row, c) for row, c in enumerate(cells) if c in texts]
    if len(wrong) < len(cells):
        row, cell = wrong[0]
        return [
            f"column {name!r} is read as categories, since {len(wrong)} of "
            f"{len(cells)} cells are no numbers, such as {cell!r} ({place(row)})"
        ]
    if all(_FOREIGN_NUMBER.fullmatch(cell) for cell in cells):
        return [
            f"column {name!r} is read as categories: {cells[0]!r} is no number here; "
            "write numbers without separators and units, and with a decimal point"
        ]
    return []


def doubtful_labels(labels: Sequence[str]) -> str | None:
    """Why labels that are read as classes may be quantities; None for no doubt.

    More than `MAX_CLASSES` different ones are in doubt where most are numbers, or all
    are numbers, some of them in another notation ("1,5", "30 %").
    """
    distinct = set(labels)
    if len(distinct) <= MAX_CLASSES:
        return None
    wrong = [label for label in labels if number(label) is None]
    if not wrong:
        return None
    is_mixed = len(wrong) < len(labels) / 2
    if not is_mixed and not all(map(_is_any_number, distinct)):
        return None
    return (
        f"{len(wrong)} of {len(labels)} labels are no numbers, such as {wrong[0]!r}, "
        f"and there are {len(distinct)} different ones: mend them if they are "
        'quantities, or pass task="classification"'
    )


def _is_any_number(text: str) -> bool:
    return number(text) is not None or bool(_FOREIGN_NUMBER.fullmatch(text))


def class_notes(names: Sequence[str], what: str = "the classes") -> list[str]:
    """Which names differ in case, blanks or look only, and which look missing."""
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        # Characters of class C (zero-width joiners, marks of direction) are not seen.
        shown = (c for c in folded if unicodedata.category(c)[0] not in "CZ")
        groups["".join(shown)].append(name)
    notes = [
        f"{what} {', '.join(map(repr, group))} differ in case or blanks only"
        for group in groups.values()
        if len(group) > 1
    ]
    equal: dict[decimal.Decimal, list[str]] = collections.defaultdict(list)
    for name in names:
        if number(name) is not None:
            equal[decimal.Decimal(name)].append(name)
    notes += [
        f"{what} {', '.join(map(repr, group))} are one number, kept apart as texts"
        for group in equal.values()
        if len(group) > 1
    ]
    missing = [name for name in names if is_missing(name)]
    if missing:
        notes.append(f"among {what}: {', '.join(map(repr, missing))}, read as a name")
    return notes


def merged_forms(cells: Iterable[str], what: str) -> list[str]:
    """Says which texts have several Unicode forms, which `normalized` makes one."""
    forms: dict[str, set[str]] = collections.defaultdict(set)
    for cell in set(cells):
        forms[normalized(cell)].add(cell.strip())
    several = sorted(text for text, group in forms.items() if len(group) > 1)
    if not several:
        return []
    return [f"{what} {several[0]!r} is written in several Unicode forms, read as one"]


def joined_labels(cells: Iterable[str]) -> list[str]:
    """Says that labels such as "a|b" join others, which are classes besides."""
    labels = {normalized(cell) for cell in cells}
    for separator in ("|", ";", ","):
        for label in sorted(label for label in labels if separator in label):
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and set(parts) <= labels:
                return [
                    f"the label {label!r} is a class of its own, beside "
                    f"{' and '.join(map(repr, parts))}; for several labels per example "
                    "make a column of 0 and 1 for each"
                ]
    return []


def repeated(values: Iterable[Hashable]) -> Any:
    """The first value that comes a second time, or None."""
    return next((v for v, k in collections.Counter(values).items() if k > 1), None)
