"""The runs, studies and sweeps below a directory: their state, time and metrics.

Of a run only its result and the last line of its log are read, so that hundreds of runs
are listed in a moment.
"""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.results import settings, watch
from jaxtl.results.database import (
    DAMAGED,
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    WAITING,
    Database,
)
from jaxtl.results.labels import labels_text
from jaxtl.training import run_dir

RUN, STUDY, SWEEP = "run", "study", "sweep"
_TAIL = 65_536  # bytes at the end of a log that hold its last lines
# What a directory of several runs is as a whole: the first of these that any run is.
_ORDER = (RUNNING, FAILED, DAMAGED, INTERRUPTED, WAITING, DONE, STOPPED)


@dataclasses.dataclass(frozen=True)
class ListedRun:
    """A row of the list.

    Attributes:
      path: the directory.
      kind: "run", "study" or "sweep".
      status: "done", "running", "interrupted", "failed", "waiting" or "damaged"; of
        several runs what needs attention first.
      time: of the last change of its files, in seconds since 1970.
      progress: steps of a run that has no result, or how many runs or cells have which
        state.
      metric: that val and test are measured in, "" without any.
      val, test: its values; of a study or sweep the means of the setting that is best
        on val.
      note: that setting, or why the directory can't be read.
    """

    path: pathlib.Path
    kind: str
    status: str
    time: float
    progress: str = ""
    metric: str = ""
    val: float | None = None
    test: float | None = None
    note: str = ""


def read(folders: Sequence[pathlib.Path], *, each_run: bool = False) -> list[ListedRun]:
    """Lists what lies at and below some directories, the newest first.

    Args:
      folders: directories; of links to one directory the first counts.
      each_run: whether the runs of a study are rows of their own.

    Raises:
      UserError: there is no such directory.
    """
    rows, listed = [], set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no directory {str(folder)!r} to list.")
        for path, kind in _directories(folder, each_run):
            if path.resolve() not in listed:
                listed.add(path.resolve())
                rows.append(_row(path, kind))
    return sorted(rows, key=lambda row: (-row.time, str(row.path)))


def _directories(
    folder: pathlib.Path, each_run: bool
) -> Iterator[tuple[pathlib.Path, str]]:
    """(directory, kind) of each run, study and sweep; nothing below one is listed."""
    for path, below, names in os.walk(folder):
        here = pathlib.Path(path)
        if run_dir.SWEEP in names:
            yield here, SWEEP
        elif run_dir.STUDY in names and not each_run:
            yield here, STUDY
        elif run_dir.MARK in names:
            yield here, RUN
        else:
            continue
        below.clear()


def _row(path: pathlib.Path, kind: str) -> ListedRun:
    """The row of a directory; one that can't be read says why."""
    try:
        return {RUN: _run, STUDY: _study, SWEEP: _sweep}[kind](path)
    except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
        return ListedRun(path, kind, DAMAGED, _time(path), note=str(error))


def _time(path: pathlib.Path) -> float:
    """When a file of a directory changed last."""
    with os.scandir(path) as entries:
        times = [e.stat(follow_symlinks=False).st_mtime for e in entries]
    return max(times, default=0.0)


def _run(path: pathlib.Path) -> ListedRun:
    status = _status(path)
    if status != DONE:
        stored = run_dir.read_mark(path)["experiment"]
        step, total = _last_step(path / "metrics.jsonl"), stored.get("steps", "?")
        progress = f"step {step:,} of {total:,}" if isinstance(total, int) else ""
        return ListedRun(path, RUN, status, _time(path), progress)
    result = run_dir.read_json(path / "result.json")
    metric = settings.main_metric([result]) or ""
    return ListedRun(
        path,
        RUN,
        status,
        (path / "result.json").stat().st_mtime,
        metric=metric,
        val=_number(result, "val", metric),
        test=_number(result, "test", metric),
    )


def _status(run: pathlib.Path) -> str:
    if (run / "result.json").exists():
        return DONE
    return RUNNING if run_dir.is_running(run) else INTERRUPTED


def _last_step(log: pathlib.Path) -> int:
    """The last step of metrics.jsonl, 0 without one."""
    if not log.exists():
        return 0
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            step = json.loads(line).get("step")
        except (ValueError, AttributeError):  # cut by a kill
            continue
        if isinstance(step, int):
            return step
    return 0


def _number(result: Mapping[str, Any], split: str, metric: str) -> float | None:
    value = (result.get(split) or {}).get(metric)
    return float(value) if isinstance(value, int | float) else None


def _study(path: pathlib.Path) -> ListedRun:
    stored = run_dir.read_json(path / run_dir.STUDY)
    file = path / run_dir.FAILURES
    failed = (
        {f["run"] for f in run_dir.read_json(file, list)} if file.exists() else set()
    )
    statuses, results, times = collections.Counter[str](), [], [_time(path)]
    for name in stored.get("runs", []):
        run = path / name
        has_mark = (run / run_dir.MARK).exists()
        status = _status(run) if has_mark else WAITING
        if name in failed and status != DONE:
            status = FAILED
        statuses[status] += 1
        if has_mark:
            times.append(_time(run))
        if status == DONE:
            result = run_dir.read_json(run / "result.json")
            variant = name.rpartition("/")[0]
            results.append(({"run": variant, "seed": result.get("seed")}, result))
    return _several(path, STUDY, statuses, results, max(times))


def _sweep(path: pathlib.Path) -> ListedRun:
    with Database(path) as database:
        counts, values = database.counts(), database.done_values()
        alive = any(a < watch.CLAIM_TIMEOUT for _, a in database.owners().values())
    statuses = collections.Counter(counts)
    if not alive and statuses[RUNNING]:  # of processes that ended
        statuses[INTERRUPTED] += statuses.pop(RUNNING)
    times = [file.stat().st_mtime for file in path.glob(f"{run_dir.SWEEP}*")]
    return _several(path, SWEEP, statuses, values, max(times))


def _several(
    path: pathlib.Path,
    kind: str,
    statuses: Mapping[str, int],
    results: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    time: float,
) -> ListedRun:
    """The row of several runs, with the setting that is best on val."""
    status = next((s for s in _ORDER if statuses.get(s)), WAITING)
    counts = [f"{statuses[s]} {s}" for s in (DONE, *_ORDER) if statuses.get(s)]
    progress = ", ".join(dict.fromkeys(counts))
    best = watch.best_setting(results)
    if best is None:
        return ListedRun(path, kind, status, time, progress)
    tests = [
        value
        for labels, result in results
        if settings.without_seed(labels) == best.labels
        and (value := _number(result, "test", best.metric)) is not None
    ]
    test = sum(tests) / len(tests) if tests else None
    text = labels_text({k: v for k, v in best.labels.items() if v != ""})
    note = f"best on val: {text}" if text else ""
    return ListedRun(
        path, kind, status, time, progress, best.metric, best.mean, test, note
    )
