"""What a reproduced table is made of: published figures, ours, and a verdict each."""

import collections
import dataclasses
from collections.abc import Callable, Iterable

REPRODUCED, ABOVE, BELOW = "reproduced", "missed, above", "missed, below"
INCOMPARABLE, UNPUBLISHED = "not comparable", "no published figure"
VERDICTS = (REPRODUCED, ABOVE, BELOW, INCOMPARABLE, UNPUBLISHED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that somebody else printed.

    Attributes:
      value: in the table's unit.
      source: paper and table; never a figure from memory alone.
      tolerance: how far ours may lie from it, in the same unit; fixed before running.
      incomparable: why ours can't be held against it ("" where it can).
    """

    value: float
    source: str
    tolerance: float
    incomparable: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a reproduced table.

    Attributes:
      method: what was run.
      setting: on what ("C→A", "40 % noise").
      ours: our figure, in the table's unit.
      interval: half the width of its 95 % interval, None where one run decides.
      published: None where no figure was found.
      note: why it misses, or what to know about it.
    """

    method: str
    setting: str
    ours: float
    interval: float | None = None
    published: Published | None = None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Ours − published; None where nothing is published."""
        return None if self.published is None else self.ours - self.published.value

    @property
    def verdict(self) -> str:
        """One of VERDICTS."""
        if self.published is None:
            return UNPUBLISHED
        if self.published.incomparable:
            return INCOMPARABLE
        # A figure rounded like the published one is no miss: 1e-9 is float64's own.
        if abs(self.difference) <= self.published.tolerance + 1e-9:
            return REPRODUCED
        return ABOVE if self.difference > 0 else BELOW


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A published table and how to run it again.

    Attributes:
      name: the file's, and the command's word.
      title: one line.
      protocol: what is done, so exactly that others could do it; Markdown.
      run: `run(fast) -> rows`; fast runs a part that takes seconds, and its rows are
        rows of the full table wherever nothing random shrinks with it.
      findings: what came out and why rows miss, written after the full run; Markdown.
      unit: of all figures.
      digits: after the point.
      needs: files under $JAXTL_DATA_DIR, for the reader.
    """

    name: str
    title: str
    protocol: str
    run: Callable[[bool], list[Row]]
    findings: str = ""
    unit: str = "accuracy %"
    digits: int = 2
    needs: tuple[str, ...] = ()


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Returns how many rows have each verdict, those that none has left out."""
    found = collections.Counter(row.verdict for row in rows)
    return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


COLUMNS = ("method", "setting", "published", "ours", "difference", "verdict")


def cells(study: Study, row: Row) -> tuple[str, ...]:
    """Returns a row as texts, one per heading of COLUMNS."""
    digits = study.digits
    ours = f"{row.ours:.{digits}f}"
    if row.interval is not None:
        ours += f" ± {row.interval:.{digits}f}"
    known = row.published is not None
    return (
        row.method,
        row.setting,
        f"{row.published.value:.{digits}f}" if known else "–",
        ours,
        f"{row.difference:+.{digits}f}" if known else "–",
        row.verdict,
    )
