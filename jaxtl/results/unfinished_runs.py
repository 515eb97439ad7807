"""The runs at and below a directory that have no result: interrupted, running, waiting.

Runs that failed are not among them: their study stores why (`run_dir.FAILURES`).
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxtl.results.database import INTERRUPTED, RUNNING, WAITING
from jaxtl.training import run_dir, run_paths, variants
from jaxtl.training.metrics_log import curve


class UnfinishedRun(NamedTuple):
    """A run without a result.

    Attributes:
      folder: its directory, which may not exist yet.
      status: "interrupted", "running", or "waiting" for a run of a study that has not
        begun.
      stored: "file", "variant" and "experiment", as its experiment.json holds them.
      reason: what is known of an interrupted run; else "".
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
    begun = run_paths.runs_in(path)
    for run in begun:
        if not (run / "result.json").exists():
            yield _begun(run)
    for file in sorted(path.rglob(run_dir.STUDY)):
        study = run_dir.read_json(file)
        for name in study.get("runs", []):
            run = file.parent / name
            if run not in begun and not (run / "result.json").exists():
                yield UnfinishedRun(run, WAITING, _planned(file.parent, study, run))


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
    """What the mark of a study's run will hold, as far as the study tells it."""
    number = run.name.removeprefix("seed")
    if not number.isdecimal():  # a damaged name
        return {"file": study.get("file")}
    seed = int(number)
    names = study.get("variants", [])
    matching = (n for n in names if variants.run_folder(folder, n, seed) == run)
    variant = next(matching, "")
    experiment = study.get("experiments", {}).get(variant, {})
    stored = {"file": study.get("file"), "variant": variant}
    return {**stored, "experiment": {**experiment, "seed": seed}}
