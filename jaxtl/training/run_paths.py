"""Which runs a directory holds: a run's own, a study's, or those of several studies.

Every command and function that takes a run's directory finds it here, so that all take
what `jaxtl run` wrote, and say in the same words what they can't take.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Sequence

from jaxtl.core.errors import UserError, nearest
from jaxtl.training import run_dir

_LISTED = 8  # runs that a sentence names


class SeveralRuns(UserError):
    """A directory of several runs where one was expected."""


def runs_in(path: pathlib.Path) -> list[pathlib.Path]:
    """The runs at and below a directory; numbers in names are sorted by value.

    The sources that a sweep below it trained are left out: they are the sweep's.
    """
    return _walk(path)[0]


def _walk(path: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The runs of `runs_in`, and the folders below with a result but no mark."""
    runs, unmarked = [], []
    for folder, below, names in os.walk(path):
        here = pathlib.Path(folder)
        if run_dir.MARK in names:
            runs.append(here)
            below.clear()
        elif run_dir.SWEEP in names and here != path:
            below.clear()
        elif "result.json" in names and here != path:
            unmarked.append(here)
    return sorted(runs, key=_sort_key), sorted(unmarked, key=_sort_key)


def _sort_key(path: pathlib.Path) -> list[tuple[int, int, str]]:
    """Sorts numbers within a path by value: seed2 before seed10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def name_of(run: pathlib.Path, path: pathlib.Path) -> str:
    """Name of a run within a directory: "5/tuned/seed0"; "" for that of the run."""
    return "" if run == path else run.relative_to(path).as_posix()


def runs_of(path: str | pathlib.Path) -> list[pathlib.Path]:
    """The runs of a directory: its own, or all of a study.

    Raises:
      UserError: no such directory, one without a run, one with a run that is damaged
        or being replaced, or a sweep, whose cells keep no model.
    """
    path = pathlib.Path(path)
    if (path / run_dir.MARK).exists():
        return [path]
    if not path.is_dir():
        raise _no_directory(path)
    if is_sweep(path):
        raise UserError(_sweep_sentence(path))
    if run_dir.is_unstarted(path):
        run_dir.read_mark(path)  # says how it was stopped
    runs, unmarked = _walk(path)
    if unmarked:
        raise UserError(
            f"{unmarked[0]} holds the result of a run and no {run_dir.MARK}: it is "
            "damaged, or being replaced; move it away, or name another run."
        )
    if runs:
        return runs
    if is_study(path):
        raise UserError(
            f"none of the runs of {path} has begun; `jaxtl resume {path}` trains them."
        )
    if (path / "export.json").exists():
        raise UserError(
            f"{path} is an exported model, for `jaxtl predict`; name the directory of "
            "the run that it was written from."
        )
    raise UserError(f"{path} is no directory of a run: it holds no {run_dir.MARK}.")


def holds_runs(path: pathlib.Path) -> bool:
    """Whether a path is a directory of runs or of a sweep, or would be in a study.

    For commands that take files or directories of another kind, too.
    """
    if not path.exists():
        return any(is_study(parent) for parent in path.parents)
    return is_study(path) or is_sweep(path) or bool(runs_in(path))


def one_run(path: str | pathlib.Path, *, hint: str = "") -> pathlib.Path:
    """The run of a directory that holds a single one: itself, or a study's only run.

    Args:
      path: the directory.
      hint: what else can be done with several runs, for the message.

    Raises:
      SeveralRuns: it holds several.
      UserError: as `runs_of`.
    """
    path, runs = pathlib.Path(path), runs_of(path)
    if len(runs) == 1 and (runs[0] == path or is_study(path)):
        return runs[0]
    if len(runs) == 1:
        raise UserError(
            f"{path} is no directory of a run: it holds no {run_dir.MARK}, but "
            f"{runs[0]} does; name that one."
        )
    raise SeveralRuns(
        f"{path} holds {len(runs)} runs: {_names(runs, path)}; name one of them, such "
        f"as {runs[0]}{hint}."
    )


def find_runs(paths: Iterable[str | pathlib.Path]) -> list[pathlib.Path]:
    """Lists the runs of some directories, each once.

    Raises:
      UserError: as `runs_of`, or a run named twice.
    """
    runs = [run for path in paths for run in runs_of(path)]
    resolved = [run.resolve() for run in runs]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise UserError(f"the run {runs[i]} is named twice.")
    return runs


def is_study(path: pathlib.Path) -> bool:
    """Whether a directory is that of a study: the runs of one file."""
    return (path / run_dir.STUDY).exists()


def is_sweep(path: pathlib.Path) -> bool:
    """Whether a directory is that of a sweep, or of the workers of a search."""
    return (path / run_dir.SWEEP).exists() or (
        not is_study(path) and any(path.glob(f"worker-*/{run_dir.SWEEP}"))
    )


def _sweep_sentence(path: pathlib.Path) -> str:
    sources = runs_in(path / "sources")
    more = f" (its sources are runs: {_names(sources, path)})" if sources else ""
    return (
        f"{path} is a sweep, which keeps the results of its cells and not their "
        f"models{more}: `jaxtl report {path}` shows the results, and `jaxtl run FILE "
        "a.b=c` trains one setting as a run."
    )


def _no_directory(path: pathlib.Path) -> UserError:
    """The error for a path that is no directory, with the runs that lie beside it."""
    if path.suffix == ".py":
        return UserError(
            f"{path} is an experiment file: `jaxtl run {path}` trains it and writes "
            "the directory to name here."
        )
    if path.exists():
        return UserError(f"{path} is a file; expected the directory of a run.")
    above = next((p for p in path.parents if is_study(p)), None)
    runs = runs_in(above) if above else []
    if above is None or not runs:
        return UserError(
            f"{path} is no directory of a run: there is no {run_dir.MARK}, nor a "
            "directory of this name."
        )
    name = path.relative_to(above).as_posix()
    close = nearest(name, [name_of(run, above) for run in runs]) or "."
    return UserError(
        f"there is no run {name!r} in {above} (its runs: {_names(runs, above)}){close}"
    )


def _names(runs: Sequence[pathlib.Path], path: pathlib.Path) -> str:
    names = [name_of(run, path) for run in runs]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
