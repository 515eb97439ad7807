"""A live view of a running sweep, read from its database."""

import collections
import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxtl.core import console
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results import settings
from jaxtl.results.database import (
    CLAIM_TIMEOUT,
    DONE,
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    Database,
)
from jaxtl.results.format_number import format_metric, metric_unit
from jaxtl.results.labels import labels_key, labels_text

if TYPE_CHECKING:
    import rich.console

_WARM_UP = 30.0  # seconds of watching after which the rate is the observed one
_WIDTH = 40  # characters of the bar


@dataclasses.dataclass(frozen=True)
class BestSetting:
    """The setting with the best mean on val so far.

    Attributes:
      labels: axis -> value.
      metric: what it is best in.
      mean: over seeds.
      seeds: their number.
    """

    labels: Mapping[str, Any]
    metric: str
    mean: float
    seeds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepState:
    """The state of a sweep at one moment.

    Attributes:
      title: of the experiment file.
      counts: status -> number of cells.
      best: the best setting on val, None before a cell is done.
      seconds: mean duration of the cells that are done, None before.
      owners: owner -> (cells that it runs, seconds since its last heartbeat).
      clock: `time.monotonic()` of the moment.
    """

    title: str
    counts: Mapping[str, int]
    best: BestSetting | None
    seconds: float | None
    owners: Mapping[str, tuple[int, float]]
    clock: float

    @property
    def total(self) -> int:
        """Number of cells."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """Number of cells that are done, failed or stopped."""
        return sum(self.counts.get(status, 0) for status in FINISHED)

    @property
    def alive(self) -> int:
        """Number of processes that work on it."""
        return sum(age < CLAIM_TIMEOUT for _, age in self.owners.values())


def read_state(database: Database) -> SweepState:
    """Reads the state of a sweep."""
    meta, values = database.meta(), database.done_values()
    seconds = [result["seconds"] for _, result in values]
    seconds = [value for value in seconds if metrics.is_finite_number(value)]
    return SweepState(
        title=(meta.get("doc") or "").split("\n")[0],
        counts=database.counts(),
        best=best_setting(values),
        seconds=sum(seconds) / len(seconds) if seconds else None,
        owners=database.owners(),
        clock=time.monotonic(),
    )


def best_setting(
    values: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> BestSetting | None:
    """The setting with the best mean on val, among those with the most seeds.

    Args:
      values: (labels, {"val", "monitor", …}) of the cells that are done.
    """
    measured = [(labels, result) for labels, result in values if result.get("val")]
    if not measured:
        return None
    _, first = measured[0]
    metric = (first.get("monitor") or next(iter(first["val"]))).rsplit("/", 1)[-1]
    scores: dict[tuple, list[float]] = collections.defaultdict(list)
    labels_of = {}
    for labels, result in measured:
        score = result["val"].get(metric)
        if metrics.is_finite_number(score):
            labels = settings.without_seed(labels)
            key = labels_key(labels)
            labels_of[key] = labels
            scores[key].append(score)
    if not scores:
        return None
    most = max(map(len, scores.values()))
    means = {k: sum(v) / len(v) for k, v in scores.items() if len(v) == most}
    directions = settings.directions(result for _, result in measured)
    higher = metrics.higher_is_better(metric, directions)
    best = (max if higher else min)(means, key=means.get)
    return BestSetting(labels_of[best], metric, means[best], most)


def cells_per_minute(first: SweepState, current: SweepState) -> float | None:
    """Estimates the rate of a sweep; None before any cell is done.

    After half a minute of watching it is the observed rate. Before, it comes from the
    recorded durations: a duration is a cell's share of its process' time, so each
    working process adds 60 / seconds.

    Args:
      first: the state when watching began.
      current: the state now.
    """
    watched = current.clock - first.clock
    finished = current.finished - first.finished
    if watched >= _WARM_UP and finished:
        return 60.0 * finished / watched
    if not current.seconds:
        return None
    return 60.0 * max(current.alive, 1) / current.seconds


def render(first: SweepState, current: SweepState) -> "rich.console.Group":
    """Renders the state of a sweep.

    Args:
      first: the state when watching began.
      current: the state now.
    """
    from rich.console import Group
    from rich.text import Text

    counts = current.counts
    parts = [f"{counts.get(DONE, 0)} done"]
    parts += [
        f"{counts[status]} {status}"
        for status in (FAILED, STOPPED, RUNNING, WAITING)
        if counts.get(status)
    ]
    filled = _WIDTH * current.finished // max(current.total, 1)
    bar = "█" * filled + "░" * (_WIDTH - filled)
    lines = [
        f"{bar} {current.finished}/{current.total} cells",
        ", ".join(parts),
        _speed_line(first, current),
        _best_line(current.best),
        *_process_lines(current),
    ]
    title = [Text(current.title, style="bold")] if current.title else []
    return Group(*title, *map(Text, lines))


def _speed_line(first: SweepState, current: SweepState) -> str:
    if current.finished == current.total:
        return "all cells are finished"
    rate = cells_per_minute(first, current)
    if rate is None:
        return "no cell is recorded yet"
    remaining = _duration(60 * (current.total - current.finished) / rate)
    if not current.alive:
        return f"about {remaining} of work left for one process"
    return f"{rate:,.3g} cells/min, about {remaining} left"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _best_line(best: BestSetting | None) -> str:
    if best is None:
        return "best so far: –"
    value = format_metric(best.metric, best.mean) + metric_unit(best.metric)
    seeds = f"{best.seeds} seed{'s' if best.seeds != 1 else ''}"
    labels = labels_text(best.labels)
    return f"best so far: val {best.metric} {value} ({seeds}), {labels}"


def _process_lines(current: SweepState) -> list[str]:
    lines = []
    for owner, (cells, age) in current.owners.items():
        if age < CLAIM_TIMEOUT:
            lines.append(f"{owner}: {cells} cells, seen {age:.0f} s ago")
        else:
            lines.append(f"{owner}: silent for {_duration(age)}; its cells are free")
    if not lines and current.finished < current.total:
        lines.append("no process works on it")
    return lines


def watch(
    folder: str | pathlib.Path,
    *,
    once: bool = False,
    interval: float = 2.0,
    terminal: "rich.console.Console | None" = None,
) -> None:
    """Shows a sweep until all its cells are finished.

    Args:
      folder: of the sweep.
      once: whether to print the state once and return, as where the output is no
        terminal.
      interval: seconds between updates.
      terminal: where to print; default: the standard output.

    Raises:
      UserError: the folder holds no sweep, or the interval is not above 0.
    """
    if not interval > 0:
        raise UserError(f"interval={interval!r} must be above 0 seconds.")
    terminal = terminal or console.console()
    with Database(folder) as database:
        first = current = read_state(database)
        if once or not terminal.is_terminal:
            terminal.print(render(first, current))
            return
        from rich.live import Live

        with Live(render(first, current), console=terminal, auto_refresh=False) as live:
            while current.finished < current.total:
                time.sleep(interval)
                current = read_state(database)
                live.update(render(first, current), refresh=True)
