"""The log of a run: metrics.jsonl, TensorBoard events, and the watch for NaN."""

import json
import math
import pathlib
from typing import Any

import numpy as np

from jaxtl.core import checkpoint, text_files
from jaxtl.core.errors import UserError
from jaxtl.training import run_dir
from jaxtl.training.run import Run


def curve(path: pathlib.Path) -> dict:
    """Reads metrics.jsonl in the form of `Record.curve`; empty if there is no file."""
    steps, losses, evaluations = [], [], []
    for line in text_files.read_lines(path) if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the line that was being written when the run was killed
            continue
        kind = row.pop("kind", "")
        if kind == "train":
            steps.append(row["step"])
            losses.append(row["loss"])
        elif kind == "val":
            row.pop("best", None)
            evaluations.append(row)
    return {"step": steps, "loss": losses, "val": evaluations}


class Log:
    """Writes metrics.jsonl (and TensorBoard events if asked), and watches for NaN."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.file: Any = None
        self.board: Any = None
        self.waiting: list[dict] = []
        self.seconds = 0.0

    def __enter__(self) -> "Log":
        run = self.run
        if run.directory is None:
            return self
        path = run.directory / "metrics.jsonl"
        # Lines after the checkpoint that a resumed run starts from are logged again.
        lines_before = []
        if path.exists():
            lines = text_files.read_lines(path)
            lines_before = [line for line in lines if _step_of(line) <= run.steps_done]
        run_dir.write_text(path, "".join(line + "\n" for line in lines_before))
        self.file = open(path, "a")
        if run.exp.tensorboard:
            self.board = _board(run.directory)
        return self

    def __exit__(self, *_: object) -> None:
        for writer in (self.file, self.board):
            if writer is not None:
                writer.close()

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
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{kind}/{name}", value, self.run.steps_done)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # the half-written last line of a killed process


def _board(directory: pathlib.Path):
    try:
        import tensorboardX
    except ImportError:
        raise UserError(
            "tensorboard=True needs the extra: pip install 'jaxtl[track]'."
        ) from None
    return tensorboardX.SummaryWriter(str(directory / "tensorboard"))


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
    note = ""
    if run.directory is not None:
        last = checkpoint.latest(run.directory / "checkpoints")
        note = (
            f" The checkpoint of step {last} is kept."
            if last is not None
            else " No checkpoint was written yet."
        )
    return UserError(
        f"training stopped at step {step_number}: {what}. A smaller optim.lr or an "
        f"optim.clip is the usual remedy.{note}"
    )
