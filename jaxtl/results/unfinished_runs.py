"""The runs at and below a directory that have no result: they failed, were interrupted,
still run, or wait.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxtl.results.database import FAILED, INTERRUPTED, RUNNING, WAITING
from jaxtl.training import run_dir, run_paths, variants
from jaxtl.training.metrics_log import curve


class UnfinishedRun(NamedTuple):
    """A run without a result.

    Attributes:
      folder: its directory, which may not exist yet.
      status: "failed", "interrupted", "running", or "waiting" for a run of a study
        that has not begun.
      stored: "file", "variant" and "experiment", as its experiment.json holds them.
      reason: why a run failed, how far an interrupted one came; else "".
    """

    folder: pathlib.Path
    status: str
    stored: Mapping[str, Any]
    reason: str = ""


def read(path: pathlib.Path) -> Iterator[UnfinishedRun]:
    """Yields the runs without a result at and below a directory, each once.

    Raises:
      UserError: a file of a run or a study is damaged.
    """
    marks = (run_dir.STUDY, run_dir.FAILURES)
    studies = sorted({file.parent for name in marks for file in path.rglob(name)})
    failed = {run.folder: run for study in studies for run in _failed(study)}
    yield from failed.values()
    begun = set(run_paths.runs_in(path))
    for run in sorted(begun - set(failed)):
        if not (run / "result.json").exists():
            yield _begun(run)
    for folder in studies:
        study = run_dir.read_study(folder)
        for name in study.get("runs", []):
            run = folder / name
            if run in begun or run in failed or (run / "result.json").exists():
                continue
            yield UnfinishedRun(run, WAITING, _planned(folder, study, run))


def _failed(folder: pathlib.Path) -> Iterator[UnfinishedRun]:
    """The runs of a study that failed; it stores why."""
    file = folder / run_dir.FAILURES
    if not file.exists():
        return
    study = run_dir.read_study(folder)
    for failure in run_dir.read_json(file, list):
        run = folder / failure["run"]
        if not (run / "result.json").exists():
            stored = _stored(study, failure["variant"], failure["seed"])
            yield UnfinishedRun(run, FAILED, stored, failure["error"])


def _begun(run: pathlib.Path) -> UnfinishedRun:
    """A run that has begun and has no result."""
    stored = run_dir.read_json(run / run_dir.MARK)
    if run_dir.is_running(run):
        return UnfinishedRun(run, RUNNING, stored)
    steps = curve(run / "metrics.jsonl")["step"]
    where = f"after step {steps[-1]}" if steps else "before its first logged step"
    reason = f"interrupted {where}; `jaxtl resume {run}` goes on with it."
    return UnfinishedRun(run, INTERRUPTED, stored, reason)


def _planned(
    folder: pathlib.Path, study: Mapping[str, Any], run: pathlib.Path
) -> dict[str, Any]:
    """What the mark of a run that has not begun will hold."""
    number = run.name.removeprefix("seed")
    if not number.isdecimal():  # a damaged name
        return {"file": study.get("file")}
    seed = int(number)
    names = study.get("variants", [])
    matching = (n for n in names if variants.run_folder(folder, n, seed) == run)
    return _stored(study, next(matching, ""), seed)


def _stored(study: Mapping[str, Any], variant: str, seed: int) -> dict[str, Any]:
    """What the mark of a study's run holds, as far as the study tells it."""
    experiment = study.get("experiments", {}).get(variant, {})
    return {
        "file": study.get("file"),
        "variant": variant,
        "experiment": {**experiment, "seed": seed},
    }
