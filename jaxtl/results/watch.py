"""How a running sweep goes on, seen from outside: a view of its database."""

import collections
import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results import format_number, settings
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

PATIENCE = 30.0  # seconds of watching after which the rate is what was seen
WIDTH = 40  # characters of the bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """A sweep at one moment.

    Attributes:
      title: of the experiment file.
      counts: status -> number of cells.
      best: (labels, metric, mean, seeds) of the best setting on val, None before any.
      seconds: that a cell took, mean of what is recorded; None before any.
      owners: owner -> (cells that it runs, seconds since its last beat).
      clock: `time.monotonic()` of the moment.
    """

    title: str
    counts: Mapping[str, int]
    best: tuple[Mapping[str, Any], str, float, int] | None
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


def look(database: Database) -> State:
    """Returns the state of a sweep."""
    meta, values = database.meta(), database.done_values()
    seconds = [
        r["seconds"] for _, r in values if metrics.is_finite_number(r["seconds"])
    ]
    return State(
        title=(meta.get("doc") or "").split("\n")[0],
        counts=database.counts(),
        best=_best(values),
        seconds=sum(seconds) / len(seconds) if seconds else None,
        owners=database.owners(),
        clock=time.monotonic(),
    )


def _best(values) -> tuple[Mapping[str, Any], str, float, int] | None:
    """Returns the setting of the best mean on val, of those with the most seeds."""
    measured = [(labels, r) for labels, r in values if r["val"]]
    if not measured:
        return None
    first = measured[0][1]
    metric = (first["monitor"] or next(iter(first["val"]))).rsplit("/", 1)[-1]
    found: dict[tuple, list[float]] = collections.defaultdict(list)
    names = {}
    for labels, r in measured:
        if metrics.is_finite_number(r["val"].get(metric)):
            setting = settings.without_seed(labels)
            place = settings.key(setting)
            names[place] = setting
            found[place].append(r["val"][metric])
    if not found:
        return None
    most = max(map(len, found.values()))
    means = {k: sum(v) / len(v) for k, v in found.items() if len(v) == most}
    best = (max if metrics.higher_is_better(metric) else min)(means, key=means.get)
    return names[best], metric, means[best], most


def rate(first: State, now: State) -> float | None:
    """Returns cells per minute: as seen, or by what is recorded before enough is seen.

    What is recorded is a cell's share of its process' time, so each working process
    adds 60 / seconds.
    """
    watched, seen = now.clock - first.clock, now.finished - first.finished
    if watched >= PATIENCE and seen:
        return 60.0 * seen / watched
    if not now.seconds:
        return None
    return 60.0 * max(now.alive, 1) / now.seconds


def frame(first: State, now: State):
    """Returns what is shown, a rich renderable.

    Args:
      first: when watching began.
      now: at the moment.
    """
    from rich.console import Group
    from rich.text import Text

    counts = now.counts
    parts = [f"{counts.get(DONE, 0)} done"]
    parts += [
        f"{counts[status]} {status}"
        for status in (
            FAILED,
            STOPPED,
            RUNNING,
            WAITING,
        )
        if counts.get(status)
    ]
    full = WIDTH * now.finished // max(now.total, 1)
    bar = f"{'█' * full}{'░' * (WIDTH - full)} {now.finished}/{now.total} cells"
    lines = [Text(", ".join(parts)), Text(_speed(first, now)), Text(_leader(now))]
    title = [Text(now.title, style="bold")] if now.title else []
    return Group(*title, Text(bar), *lines, *(Text(t) for t in _workers(now)))


def _speed(first: State, now: State) -> str:
    if now.finished == now.total:
        return "all cells are finished"
    speed = rate(first, now)
    if speed is None:
        return "no cell is recorded yet"
    left = (now.total - now.finished) / speed
    if not now.alive:
        return f"about {_duration(60 * left)} of work left for one process"
    return f"{speed:,.3g} cells/min, about {_duration(60 * left)} left"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _leader(now: State) -> str:
    if now.best is None:
        return "best so far: –"
    labels, metric, mean, seeds = now.best
    setting = settings.listed(labels)
    unit = " %" if metric in format_number.SHARES else ""
    value = format_number.format_metric(metric, mean, None)
    plural = "s" if seeds != 1 else ""
    return f"best so far: val {metric} {value}{unit} ({seeds} seed{plural}), {setting}"


def _workers(now: State) -> list[str]:
    told = []
    for owner, (cells, age) in now.owners.items():
        if age < CLAIM_TIMEOUT:
            told.append(f"{owner}: {cells} cells, seen {age:.0f} s ago")
        else:
            told.append(f"{owner}: silent for {_duration(age)}; its cells are free")
    if not told and now.finished < now.total:
        told.append("no process works on it")
    return told


def watch(
    folder: str | pathlib.Path,
    *,
    once: bool = False,
    interval: float = 2.0,
    console=None,
) -> None:
    """Shows a sweep until all its cells are finished.

    Args:
      folder: of the sweep.
      once: print one frame only, as where the output is no terminal.
      interval: seconds between looks.
      console: a rich console; default: of the standard output.

    Raises:
      UserError: no sweep there, or an interval that is not above 0.
    """
    if not interval > 0:
        raise UserError(f"interval={interval!r} must be above 0 seconds.")
    console = console or console_lib.console()
    with Database(folder) as database:
        first = now = look(database)
        if once or not console.is_terminal:
            console.print(frame(first, now))
            return
        from rich.live import Live

        with Live(frame(first, now), console=console, auto_refresh=False) as live:
            while now.finished < now.total:
                time.sleep(interval)
                now = look(database)
                live.update(frame(first, now), refresh=True)
