"""A live view of a run, or of the runs of a study, read from their directories."""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxtl.core import console
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results.format_number import format_metric, metric_unit
from jaxtl.training import metrics_log, run_dir, run_paths
from jaxtl.training.experiment import Experiment

if TYPE_CHECKING:
    import rich.console
    import rich.table

DONE, RUNNING, STOPPED, WAITING = "done", "running", "stopped", "waiting"


class RunState(NamedTuple):
    """The state of a run at one moment.

    Attributes:
      name: of the run in the directory that is watched, or that directory.
      status: "done", "running", "stopped" (`jaxtl resume` goes on with it) or
        "waiting" (a run of a study that has not begun).
      step: the last that its log has, or that result.json has where the log is lost.
      steps: steps that it takes in all; None where that is unknown.
      loss: the last one, None before.
      val: the last evaluation on val, "accuracy 81.3 %", "" before.
    """

    name: str
    status: str
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    val: str = ""


def read_states(folder: pathlib.Path) -> list[RunState]:
    """Reads the states of a run, or of all runs of a study, in their order.

    Raises:
      UserError: a directory of neither.
    """
    planned = []
    if run_paths.is_study(folder):
        planned = run_dir.read_json(folder / run_dir.STUDY).get("runs", [])
    if planned and not run_paths.runs_in(folder):
        return [RunState(name, WAITING) for name in planned]
    runs = run_paths.runs_of(folder)
    states = {
        name: _read_state(run, name or str(folder))
        for run in runs
        for name in [run_paths.name_of(run, folder)]
    }
    waiting = {name: RunState(name, WAITING) for name in planned}
    return list({**waiting, **states}.values())


def _read_state(run: pathlib.Path, name: str) -> RunState:
    curve = metrics_log.curve(run / "metrics.jsonl")
    experiment = run_dir.read_mark(run)["experiment"]
    step = curve["step"][-1] if curve["step"] else 0
    status = DONE
    if not (run / "result.json").exists():
        status = RUNNING if run_dir.is_running(run) else STOPPED
    elif not step:  # the log was lost
        step = run_dir.read_json(run / "result.json").get("steps", 0)
    return RunState(
        name,
        status,
        step,
        experiment.get("steps", _default_steps()),
        curve["loss"][-1] if curve["loss"] else None,
        _evaluation(curve["val"][-1]) if curve["val"] else "",
    )


def _default_steps() -> int | None:
    [default] = [f.default for f in dataclasses.fields(Experiment) if f.name == "steps"]
    return default if isinstance(default, int) else None


def _evaluation(row: dict) -> str:
    """The main metric of an evaluation on val, in words."""
    names = [n for n in row if n != "step" and metrics.is_finite_number(row[n])]
    name = next((n for n in names if n == "accuracy"), names[0] if names else "")
    return f"{name} {format_metric(name, row[name])}{metric_unit(name)}" if name else ""


def render(states: Sequence[RunState]) -> "rich.table.Table":
    """A row per run: its status, its steps, its loss, and its metric on val."""
    rows = [
        (
            state.name,
            state.status,
            f"{state.step:,}/{state.steps:,}" if state.steps else f"{state.step:,}",
            "–" if state.loss is None else f"{state.loss:.4f}",
            state.val or "–",
        )
        for state in states
    ]
    counts = ", ".join(
        f"{number} {status}"
        for status in (DONE, RUNNING, STOPPED, WAITING)
        if (number := sum(state.status == status for state in states))
    )
    return console.table(counts, ("run", "", "steps", "loss", "on val"), rows, left=2)


def watch(
    folder: pathlib.Path,
    *,
    once: bool = False,
    interval: float = 2.0,
    terminal: "rich.console.Console | None" = None,
) -> None:
    """Shows a run or a study while a process trains it.

    Args:
      folder: of the run or the study.
      once: whether to print the state once and return, as where the output is no
        terminal.
      interval: seconds between updates.
      terminal: where to print; default: the standard output.

    Raises:
      UserError: the folder holds no run, or the interval is not above 0.
    """
    if not interval > 0:
        raise UserError(f"interval={interval!r} must be above 0 seconds.")
    terminal = terminal or console.console()
    states = read_states(folder)
    if once or not terminal.is_terminal:
        terminal.print(render(states))
        return
    from rich.live import Live

    with Live(render(states), console=terminal, auto_refresh=False) as live:
        while any(state.status == RUNNING for state in states):
            time.sleep(interval)
            states = read_states(folder)
            live.update(render(states), refresh=True)
