"""Tables of values with intervals, read from the docstrings of experiments."""

import dataclasses
import re

VALUE = re.compile(
    r"▼?(?P<mean>(?:(?<!\w)[-−])?\d+(?:\.\d+)?)"
    r"(?: ± (?P<half>\d+(?:\.\d+)?)"
    r"| \[(?P<low>[-−]?[\d.]+), (?P<high>[-−]?[\d.]+)\])"
)
_LOWER_IS_BETTER = re.compile(r"\b(error|perplexity)\b", re.IGNORECASE)
_QUANTITY = re.compile(r"\b(accuracy|error|perplexity)\b", re.IGNORECASE)
_NUMBERS = re.compile(r" *\S+(?: \S+)*(?: {2,}[\d.,]+)+ *")
_CELL = re.compile(r"\S+(?: \S+)*")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: its label, and the values with their columns' headings."""

    label: str
    cells: dict[str, re.Match[str]]
    lower_is_better: bool = False


def tables(text: str) -> list[list[Row]]:
    """The tables of a docstring, those of values with intervals.

    A line without a value is the heading of the columns below it. A heading's first
    cell, which stands above the labels, is a part of every column's setting. A row that
    is further to the right than the one above has that one's label before its own.
    """
    read: list[list[Row]] = []
    rows: list[Row] = []
    headings: list[str] = []
    lower, first, first_indent = False, "", 0
    for line in [*text.split("\n"), ""]:
        label = _label(line)
        is_heading = re.search(r"\S {2,}\S|^ *[\w-]+$", line)
        if label:
            indent = len(line) - len(line.lstrip())
            if not rows or indent <= first_indent:
                first, first_indent = label, indent
            else:
                label = f"{first}, {label}"
            rows.append(Row(label, _cells(headings, line), lower))
        elif _NUMBERS.fullmatch(line) or set(line.strip()) == {"─"}:
            # A row without intervals, or a rule.
            continue
        elif is_heading or not line.strip():
            if rows:
                read.append(rows)
            if not rows or not line.strip():
                kept = headings if line.strip() else []
            else:  # a group within a table has the columns of the one before
                kept = [h for h in headings if _is_group(line) and not _is_group(h)]
            rows, headings = [], [*kept, line] if line.strip() else []
        else:
            headings = []
        if quantity := _QUANTITY.search(line):
            lower = bool(_LOWER_IS_BETTER.fullmatch(quantity[0]))
    return read


def _is_group(line: str) -> bool:
    return len(_CELL.findall(line)) == 1


def _cells(headings: list[str], line: str) -> dict[str, re.Match[str]]:
    """The values of a row by their headings; of two below one heading none is told."""
    values = list(VALUE.finditer(line))
    gap = re.search(r"\S {2,}(?=\S)", line.rstrip())
    left = min(values[0].start(), gap.end() if gap else len(line))
    names = [_heading(headings, v.span(), left) for v in values]
    return {n: v for n, v in zip(names, values, strict=True) if names.count(n) == 1}


def _label(line: str) -> str:
    """What stands before the first value or gap; "" for a line of a sentence."""
    value = VALUE.search(line)
    if value is None:
        return ""
    text = line[: value.start()].strip()
    label = re.split(r" {2,}", text)[0]
    is_table = re.search(r" {2,}\S", line.strip()) and not label.endswith(":")
    return label if is_table and len(label) < 60 else ""


def _heading(headings: list[str], span: tuple[int, int], left: int) -> str:
    """The text above a value, after the group's name, which stands above the labels."""
    parts = []
    for line in headings:
        cells = [(m.start(), m.end(), m[0]) for m in _CELL.finditer(line)]
        above = [
            text for start, end, text in cells if start < span[1] and end > span[0]
        ]
        group = [text for _, end, text in cells[:1] if end <= left]
        parts += [*group, *above[:1]]
    return " ".join(dict.fromkeys(part for part in parts if part != "run"))


def interval(value: re.Match[str]) -> tuple[float, float]:
    if value["half"] is None:
        return number(value["low"]), number(value["high"])
    mean, half = number(value["mean"]), number(value["half"])
    return mean - half, mean + half


def number(text: str) -> float:
    """The value of a printed number, whose minus sign may be the typographic one."""
    return float(text.replace("−", "-"))
