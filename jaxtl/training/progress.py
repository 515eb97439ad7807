"""The progress line: loss, validation metric, examples per second, time left."""

import contextlib
import sys
from typing import Any

from jaxtl.core import progress
from jaxtl.evaluation.metrics import main_metric


class Progress:
    """A rich progress bar on a terminal; silent elsewhere unless asked for.

    Args:
      run: the run to follow.
      show: True or False; None shows it if standard error is a terminal.
    """

    def __init__(self, run: Any, show: bool | None = None) -> None:
        self.run = run
        self.show = sys.stderr.isatty() if show is None else show
        self.bar: Any = None
        self.silence = contextlib.ExitStack()  # evaluations show no lines of their own
        self.val = ""

    def __enter__(self) -> "Progress":
        self.silence.enter_context(progress.silenced())
        if not self.show or self.run.steps_done >= self.run.exp.steps:
            return self
        from rich import console
        from rich import progress as bars

        self.bar = bars.Progress(
            bars.TextColumn("step {task.completed:>6.0f}/{task.total:.0f}"),
            bars.BarColumn(bar_width=24),
            bars.TextColumn("{task.fields[text]}"),
            bars.TimeRemainingColumn(compact=True),
            console=console.Console(stderr=True),
        )
        self.bar.start()
        self.task = self.bar.add_task(
            "train",
            total=self.run.exp.steps,
            completed=self.run.steps_done,
            text="compiling",
        )
        return self

    def update(self, rows: list[dict], seconds: float) -> None:
        """Shows the mean loss of some steps and their speed."""
        if self.bar is None:
            return
        loss = sum(float(r["loss"]) for r in rows) / len(rows)
        batch = sum(self.run.parts.program.batch_sizes.values())
        speed = len(rows) * batch / max(seconds, 1e-9)
        text = f"loss {loss:.4f}{self.val}  {speed:,.0f} examples/s"
        self.bar.update(self.task, completed=self.run.steps_done, text=text)

    def evaluated(self, values: dict[str, float], better: bool) -> None:
        """Shows the validation metric, marked where it is the best so far."""
        name = self.run.monitor or main_metric(self.run.parts.program.task)
        if name in values:
            self.val = f"  val {name} {values[name]:.4f}{'*' if better else ''}"

    def __exit__(self, *_: object) -> None:
        self.silence.close()
        if self.bar is not None:
            self.bar.stop()
