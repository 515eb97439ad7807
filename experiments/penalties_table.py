"""Table and Pareto plot of what `experiments/penalties.py` wrote.

Run:       python experiments/penalties_table.py FOLDER SETTING [PLOT.svg]
Prints     for each method and criterion the accuracy on the target and on the source,
           mean ± 95 % interval over the seeds in per cent, and two paired differences
           on each of them: to plain fine-tuning chosen by the same criterion, and to
           plain fine-tuning at the method's own learning rate. "*" marks a difference
           to the first whose p-value is below 0.05 after Holm's correction over all of
           them, and "front" the settings that no other one beats in both accuracies.
           Below it plain fine-tuning at these rates, with its differences to the one
           chosen for the target, and how many intervals of differences to the plain
           fine-tuning of the same criterion lie above or below 0.
           The plot can be read on light and on dark pages.
"""

import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from jaxtl.results.statistics import Difference, Estimate, holm, paired, t_interval

CRITERIA = ("for the target", "for both")
PLAIN = "fine-tuning"
_NONE: Mapping = MappingProxyType({})
# Order of the table; those that have not finished are left out.
METHODS = (
    *(PLAIN, "L2-SP", "EWC", "DELTA", "LwF"),
    *("Jacobian, params", "Jacobian, inputs", "WiSE-FT", "LoRA"),
)


class Row(NamedTuple):
    """One method, chosen by one criterion; accuracies in per cent, one per seed."""

    method: str
    criterion: str
    numbers: dict[str, float]
    target: tuple[float, ...]
    source: tuple[float, ...]

    @property
    def point(self) -> tuple[float, float]:
        """(mean on the source, mean on the target)."""
        return t_interval(self.source).mean, t_interval(self.target).mean


def read_rows(folder: pathlib.Path) -> list[Row]:
    """Reads the finished methods of a setting's folder, in the order of METHODS."""
    stored = ((method, _stored(folder, method)) for method in METHODS)
    return [
        _row(method, criterion, each[criterion])
        for method, each in stored
        for criterion in CRITERIA
        if criterion in each
    ]


def read_plain(folder: pathlib.Path) -> dict[float, Row]:
    """Reads plain fine-tuning at the other methods' learning rates, {rate: row}."""
    stored = _stored(folder, PLAIN)
    rows = [_row(PLAIN, k, v) for k, v in stored.items() if k.startswith("rate ")]
    return {row.numbers["rate"]: row for row in rows}


def _stored(folder: pathlib.Path, method: str) -> dict:
    path = folder / f"{method}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _row(method: str, criterion: str, each: dict) -> Row:
    target, source = (
        tuple(100 * value for value in each[name]) for name in ("target", "source")
    )
    return Row(method, criterion, each["numbers"], target, source)


def differences(row: Row, other: Row | None) -> list[Difference]:
    """Paired by seed, on the target and on the source; of no or the same row none."""
    if other is None or other is row:
        return []
    return [paired(row.target, other.target), paired(row.source, other.source)]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other point is at least as high in both coordinates and higher in one.

    Args:
      points: (n, 2).
    """
    return [
        not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
        for x, y in points
    ]


def _text(estimate: Estimate | Difference, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.1f} ± {estimate.half:.1f}"


def print_table(rows: Sequence[Row], at_rate: Mapping[float, Row] = _NONE) -> None:
    """Prints the rows; without plain fine-tuning there are no differences.

    Args:
      rows: of the methods.
      at_rate: of plain fine-tuning, by the learning rate.
    """
    plain = {row.criterion: row for row in rows if row.method == PLAIN}
    front = pareto_front([row.point for row in rows])
    compared = [differences(row, plain.get(row.criterion)) for row in rows]
    adjusted = iter(holm([d.p for pair in compared for d in pair]))
    for row, is_front, pair in zip(rows, front, compared):
        numbers = ", ".join(f"{k} {v:g}" for k, v in row.numbers.items())
        cells = [_text(t_interval(row.target)), _text(t_interval(row.source))]
        cells += [
            _text(each, "+") + ("*" if next(adjusted) < 0.05 else " ") for each in pair
        ]
        same_rate = at_rate.get(row.numbers["rate"]) if pair else None
        cells += [_text(each, "+") for each in differences(row, same_rate)]
        line = "".join(f"{cell:>13}" for cell in cells + [""] * (6 - len(cells)))
        mark = "front" if is_front else ""
        print(f"{row.method:17}{row.criterion:15}{line}  {mark:6} {numbers}")
    for row in at_rate.values():
        cells = [_text(t_interval(row.target)), _text(t_interval(row.source))]
        cells += [_text(d, "+") + " " for d in differences(row, plain.get(CRITERIA[0]))]
        print(f"{row.method:17}{row.criterion:15}{''.join(f'{c:>13}' for c in cells)}")
    for name, column in zip(("target", "source"), zip(*filter(None, compared))):
        gains, losses = sum(d.low > 0 for d in column), sum(d.high < 0 for d in column)
        print(f"{name}: {gains} gains and {losses} losses of {len(column)} without 0")


# Colors that can be read on a light and on a dark page.
COLORS = dict(
    zip(
        METHODS,
        (
            *("#888888", "#0a84c6", "#d55e00", "#12925a", "#cc5f9a"),
            *("#b08900", "#3f6fd8", "#a0522d", "#8a63e6"),
        ),
    )
)
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 510, 490, 62, 16, 20, 138
_COLUMNS = (70, 200, 360)  # of the legend, three lines each
_AXIS_RIGHT, _AXIS_BOTTOM = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM


class Scale(NamedTuple):
    """From accuracies low … high to the pixels first … last."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)

    def ticks(self) -> list[float]:
        """At most seven round numbers between both ends."""
        steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
        step = next(s for s in steps if (self.high - self.low) / s <= 6 or s == 20)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(i * step, 6) for i in range(first, last + 1)]


def _scale(values: Sequence[Sequence[float]], first: float, last: float) -> Scale:
    """A scale that shows all intervals, with a margin."""
    intervals = [t_interval(v, bounds=(0.0, 100.0)) for v in values]
    low, high = min(e.low for e in intervals), max(e.high for e in intervals)
    margin = max(0.05 * (high - low), 0.1)
    return Scale(low - margin, high + margin, first, last)


def _axes(x: Scale, y: Scale) -> list[str]:
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{_AXIS_BOTTOM}H{_AXIS_RIGHT}"/>']
    for tick in x.ticks():
        parts.append(f'<path class="grid" d="M{x(tick)} {_TOP}V{_AXIS_BOTTOM}"/>')
        at = f'x="{x(tick)}" y="{_AXIS_BOTTOM + 18}"'
        parts.append(f'<text {at} text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick)}H{_AXIS_RIGHT}"/>')
        at = f'x="{_LEFT - 8}" y="{y(tick) + 4}"'
        parts.append(f'<text {at} text-anchor="end">{tick:g}</text>')
    center, middle = (_LEFT + _AXIS_RIGHT) / 2, (_TOP + _AXIS_BOTTOM) / 2
    return [
        *parts,
        f'<text x="{center}" y="{_AXIS_BOTTOM + 40}" text-anchor="middle">accuracy '
        "on the source after fine-tuning, %</text>",
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        "accuracy on the target, %</text>",
    ]


def _mark(row: Row, x: Scale, y: Scale) -> str:
    """A mark with whiskers: filled for the first criterion, hollow for the second."""
    color, (source, target) = (
        COLORS[row.method],
        map(t_interval, (row.source, row.target)),
    )
    px, py = x(source.mean), y(target.mean)
    whiskers = (
        f"M{x(source.low)} {py}H{x(source.high)}M{px} {y(target.low)}V{y(target.high)}"
    )
    fill = color if row.criterion == CRITERIA[0] else "none"
    return (
        f'<path stroke="{color}" stroke-opacity=".5" d="{whiskers}"/>'
        f'<circle cx="{px}" cy="{py}" r="4.5" stroke="{color}" stroke-width="2" '
        f'fill="{fill}"/>'
    )


def svg(rows: Sequence[Row]) -> str:
    """The plot: accuracy on the source on x, on the target on y, 95 % intervals.

    A filled mark was chosen for the target and a hollow one for both; a dashed line
    joins the two of a method.
    """
    x = _scale([row.source for row in rows], _LEFT, _AXIS_RIGHT)
    y = _scale([row.target for row in rows], _AXIS_BOTTOM, _TOP)
    parts = _axes(x, y)
    for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
        color = COLORS[method]
        left, height = _COLUMNS[number // 3], _AXIS_BOTTOM + 66 + 20 * (number % 3)
        both = [row for row in rows if row.method == method]
        points = " ".join(f"{x(row.point[0])},{y(row.point[1])}" for row in both)
        parts += [
            f'<polyline class="pair" stroke="{color}" points="{points}"/>',
            *(_mark(row, x, y) for row in both),
            f'<circle cx="{left}" cy="{height}" r="4.5" fill="{color}"/>',
            f'<text x="{left + 12}" y="{height + 4.5}">{method}</text>',
        ]
    note = "filled: chosen for the target; hollow: for both"
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 7}">{note}</text>')
    return "\n".join([_HEADER, *parts, "</svg>", ""])


_HEADER = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
    f'width="{1.2 * _WIDTH:g}" height="{1.2 * _HEIGHT:g}" role="img" '
    'aria-label="Accuracy on the target against accuracy on the source, by method">\n'
    "<style>text{font:14px sans-serif;fill:#767676}.axis{stroke:#888;fill:none}"
    ".grid{stroke:#8884}.pair{fill:none;stroke-dasharray:3 3}</style>"
)


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1]) / sys.argv[2]
    ROWS = read_rows(FOLDER)
    print_table(ROWS, read_plain(FOLDER))
    if len(sys.argv) > 3:
        pathlib.Path(sys.argv[3]).write_text(svg(ROWS))
