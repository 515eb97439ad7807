"""The log of a run: metrics.jsonl, its loggers, and the watch for NaN."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.core import atomic, checkpoint, process_group, text_files
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.training import loggers
from jaxtl.training.run import Run


def curve(path: pathlib.Path) -> dict:
    """Reads metrics.jsonl in the form of `Record.curve`; empty if there is no file."""
    steps, losses, evaluations = [], [], []
    for line in text_files.read_lines(path) if path.exists() else ():
        row = _row(line)
        kind = row.pop("kind", "")
        if kind == "train" and {"step", "loss"} <= row.keys():
            steps.append(row["step"])
            losses.append(row["loss"])
        elif kind == "val" and "step" in row:
            row.pop("best", None)
            evaluations.append(row)
    return {"step": steps, "loss": losses, "val": evaluations}


def _row(line: str) -> dict[str, Any]:
    """A line's values; {} for the line that a kill or a full disk cut."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


class Log:
    """Writes metrics.jsonl, feeds the loggers, and watches for NaN."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.file: Any = None
        self.loggers: loggers.Loggers | None = None
        self.waiting: list[dict] = []
        self.seconds = 0.0

    def __enter__(self) -> "Log":
        run = self.run
        if run.directory is None or not process_group.is_first():
            return self
        path = run.directory / "metrics.jsonl"
        # Lines after the checkpoint that a resumed run starts from are logged again.
        lines_before = []
        if path.exists():
            lines = text_files.read_lines(path)
            lines_before = [line for line in lines if _step_of(line) <= run.steps_done]
        atomic.write_text(path, "".join(line + "\n" for line in lines_before))
        self.file = open(path, "a")
        self.loggers = loggers.Loggers(run)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        if self.loggers is None:
            return
        is_stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        ended = loggers.STOPPED if is_stopped else loggers.FAILED
        self.loggers.close(loggers.FINISHED if kind is None else ended)

    def rows(self, first_step: int, rows: list[dict], seconds: float) -> None:
        """Collects the metrics of some steps, until `write` logs their mean.

        Raises:
          UserError: at the first step whose loss or gradient is not finite.
        """
        for i, row in enumerate(rows):
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                raise not_finite(self.run, first_step + i, row)
        self.waiting += rows
        self.seconds += seconds

    def write(self) -> None:
        """Logs the mean of the waiting steps' metrics."""
        rows, seconds = self.waiting, self.seconds
        self.waiting, self.seconds = [], 0.0
        means = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
        batch = sum(self.run.parts.program.batch_sizes.values())
        means["examples_per_second"] = len(rows) * batch / max(seconds, 1e-9)
        self.run.curve["step"].append(self.run.steps_done)
        self.run.curve["loss"].append(means["loss"])
        self._write(means, "train")

    def evaluation(self, values: dict[str, float], better: bool) -> None:
        """Logs an evaluation on val; `better` marks the best so far."""
        self.run.curve["val"].append({"step": self.run.steps_done, **values})
        self._write(values, "val", best=better)

    def _write(self, values: dict[str, float], kind: str, **more: bool) -> None:
        if self.file is not None:
            line = {"step": self.run.steps_done, "kind": kind, **values, **more}
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        if self.loggers is not None:
            self.loggers.scalars(kind, values)

    def result(self, content: Mapping[str, Any]) -> None:
        """Feeds the loggers the metrics of the chosen checkpoint, "best/test/nll"."""
        for split in ("val", "test"):
            if self.loggers is not None and split in content:
                self.loggers.scalars(f"best/{split}", content[split])


def _step_of(line: str) -> float:
    step = _row(line).get("step")
    return step if isinstance(step, int) else math.inf


def not_finite(run: Run, step_number: int, row: dict) -> UserError:
    """The error for a step whose loss or gradient is not finite."""
    terms = [n for n in run.parts.terms.terms if not np.isfinite(row[n])]
    if terms:
        values = ", ".join(f"{n} = {float(row[n])}" for n in terms)
        what = f"the term {values} is not finite"
    elif not np.isfinite(row["loss"]):
        what = f"the loss is {float(row['loss'])} though every term is finite"
    else:
        what = f"the gradient's norm is {float(row['grad_norm'])}"
    return UserError(f"training stopped at step {step_number}: {what}. {_remedy(run)}")


def check_evaluation(
    run: Run, split: str, values: Mapping[str, float], steps_done: int
) -> None:
    """Checks the metrics of a split: they are NaN where an output is not finite.

    Args:
      run: the run, or what it would be without the replicas beside it.
      split: that was evaluated.
      values: its metrics.
      steps_done: number of steps that the evaluated weights have taken.

    Raises:
      UserError: a metric of the task is NaN.
    """
    task = run.parts.datasets["target"].task
    if not any(math.isnan(values[name]) for name in metrics.METRICS[task]):
        return
    what = f"the model's outputs on {split} are not finite"
    if steps_done == 0:
        raise UserError(
            f"{what} before the first step: the initial weights hold NaN or infinity, "
            "or the inputs are too large for them."
        )
    raise UserError(f"training stopped at step {steps_done}: {what}. {_remedy(run)}")


def check_weights(run: Run) -> None:
    """Checks the weights that a run ends with.

    Raises:
      UserError: a parameter, a statistic or a state is NaN or infinite.
    """
    parts = {"params": run.params, "stats": run.state.stats, "state": run.state}
    for part in parts.values():
        path = trees.first_not_finite(part)
        if path is not None:
            raise not_finite_weights(run, run.steps_done, path)


def not_finite_weights(run: Run, steps_done: int, path: str = "") -> UserError:
    """The error for a run that ends with a weight that is not finite.

    Args:
      run: the run.
      steps_done: number of steps that it has taken.
      path: of the weight, "" if it is not known.
    """
    where = f" ({path})" if path else ""
    if steps_done == 0:
        return UserError(
            f"an initial weight{where} is NaN or infinite, so the run has no result."
        )
    return UserError(
        f"a parameter or optimizer value{where} is NaN or infinite after step "
        f"{steps_done}, so the run has no result. {_remedy(run)}"
    )


def _remedy(run: Run) -> str:
    """What usually helps, and which checkpoint is kept."""
    advice = "A smaller optim.lr or an optim.clip is the usual remedy."
    if run.directory is None:
        return advice
    last = checkpoint.latest(run.directory / "checkpoints")
    if last is None:
        return f"{advice} No checkpoint was written yet."
    return f"{advice} The checkpoint of step {last} is kept."
