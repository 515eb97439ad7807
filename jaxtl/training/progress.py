"""Progress of training: loss, validation metric, examples per second, time left.

A bar on a terminal, one output of the cell in a notebook, elsewhere now and then a line
on standard error.
"""

import contextlib
import dataclasses
import html
import sys
import time
from typing import Any, Protocol

from jaxtl.core import notebook, progress
from jaxtl.evaluation.metrics import main_metric

_FIRST_LINE, _NEXT_LINES = 30.0, 60.0  # seconds, where nothing can be drawn again


@dataclasses.dataclass
class Status:
    """The state of training that is shown.

    Attributes:
      step: steps that are taken.
      steps: of the run.
      first: step at which this session began.
      loss: mean of the last steps; None before the first.
      speed: examples per second.
      val: the latest evaluation on val, in words.
      evaluations: (step, loss, metric's value, whether it is the best) of each.
      began: when the session began, on the monotonic clock.
      has_ended: whether training has ended, also before the last step.
    """

    step: int
    steps: int
    first: int
    loss: float | None = None
    speed: float = 0.0
    val: str = ""
    evaluations: list[tuple[int, float | None, float, bool]] = dataclasses.field(
        default_factory=list
    )
    began: float = dataclasses.field(default_factory=lambda: time.monotonic())
    has_ended: bool = False

    def describe(self) -> str:
        """The last steps in words: "loss 0.5331  val accuracy 0.8120*  …"."""
        if self.loss is None:
            return "compiling"
        return f"loss {self.loss:.4f}{self.val}  {self.speed:,.0f} examples/s"

    def left(self) -> str:
        """The time that remains at the session's pace, or that it has taken."""
        seconds = time.monotonic() - self.began
        done = self.step - self.first
        if self.has_ended or self.step >= self.steps or not done:
            return progress.duration(seconds)
        remaining = seconds * (self.steps - self.step) / done
        return f"about {progress.duration(remaining)} left"

    def line(self) -> str:
        """All of it as one line."""
        return f"step {self.step:,} of {self.steps:,}: {self.describe()}, {self.left()}"


class _View(Protocol):
    """A way to show the state of training."""

    def draw(self, status: Status) -> None:
        """Shows a state."""

    def end(self, status: Status) -> None:
        """Shows the last one."""


class Progress:
    """The progress of a run, shown as its surroundings allow.

    Args:
      run: the run to follow.
      show: True or False; None shows a bar or a cell's output where there is a
        terminal or a notebook, else a line now and then.
    """

    def __init__(self, run: Any, show: bool | None = None) -> None:
        self.run, self.show = run, show
        self.view: _View | None = None
        self.silence = contextlib.ExitStack()  # evaluations show no lines of their own
        self.status = Status(run.steps_done, run.exp.steps, run.steps_done)

    def __enter__(self) -> "Progress":
        is_silent = progress.is_silent()
        self.silence.enter_context(progress.silenced())
        if self.show is False or self.run.steps_done >= self.run.exp.steps:
            return self
        if notebook.is_running():
            self.view = _Cell(self.metric)
        elif self.show or (sys.stderr is not None and sys.stderr.isatty()):
            self.view = _Bar()
        elif not is_silent:
            self.view = _Lines()
        if self.view is not None:
            self.view.draw(self.status)
        return self

    @property
    def metric(self) -> str:
        """The metric on val that is shown."""
        return self.run.monitor or main_metric(self.run.parts.program.task)

    def update(self, rows: list[dict], seconds: float) -> None:
        """Shows the mean loss of some steps and their speed."""
        if self.view is None:
            return
        batch = sum(self.run.parts.program.batch_sizes.values())
        self.status.step = self.run.steps_done
        self.status.loss = sum(float(r["loss"]) for r in rows) / len(rows)
        self.status.speed = len(rows) * batch / max(seconds, 1e-9)
        self.view.draw(self.status)

    def evaluated(self, values: dict[str, float], better: bool) -> None:
        """Shows the validation metric, marked where it is the best so far."""
        if self.metric not in values:
            return
        value, status = values[self.metric], self.status
        status.val = f"  val {self.metric} {value:.4f}{'*' if better else ''}"
        status.evaluations.append((self.run.steps_done, status.loss, value, better))

    def __exit__(self, *_: object) -> None:
        self.silence.close()
        self.status.has_ended = True
        if self.view is not None:
            self.view.end(self.status)


class _Bar:
    """A rich bar on a terminal."""

    def __init__(self) -> None:
        self.bar: Any = None

    def draw(self, status: Status) -> None:
        if self.bar is None:
            self._start(status)
        self.bar.update(self.task, completed=status.step, text=status.describe())

    def _start(self, status: Status) -> None:
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
            "train", total=status.steps, completed=status.first, text="compiling"
        )

    def end(self, status: Status) -> None:
        self.bar.stop()


class _Cell:
    """One output of a notebook's cell: a bar, and a row per evaluation on val."""

    def __init__(self, metric: str) -> None:
        self.metric, self.output = metric, notebook.CellOutput()

    def draw(self, status: Status) -> None:
        self.output.draw(self._html(status), status.line())

    def end(self, status: Status) -> None:
        self.output.draw(self._html(status), status.line(), now=True)

    def _html(self, status: Status) -> str:
        bar = notebook.bar(status.step, status.steps)
        count = f"step {status.step:,} of {status.steps:,}"
        # The table says how the evaluations went.
        text = dataclasses.replace(status, val="").describe()
        return (
            f'<div style="white-space:nowrap;overflow-x:auto">{bar} {count} · '
            f"{html.escape(text)} · {status.left()}</div>{self._table(status)}"
        )

    def _table(self, status: Status) -> str:
        if not status.evaluations:
            return ""
        cells = [
            (f"{step:,}", "" if loss is None else f"{loss:.4f}", f"{value:.4f}", better)
            for step, loss, value, better in status.evaluations[-20:]
        ]
        rows = "".join(
            f"<tr><td>{step}</td><td>{loss}</td><td>{value}</td>"
            f"<td>{'best so far' if better else ''}</td></tr>"
            for step, loss, value, better in cells
        )
        metric = html.escape(f"val {self.metric}")
        return (
            "<table><thead><tr><th>step</th><th>train loss</th>"
            f"<th>{metric}</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
        )


class _Lines:
    """Lines on standard error now and then, for logs of long runs."""

    def __init__(self) -> None:
        self.due = time.monotonic() + _FIRST_LINE

    def draw(self, status: Status) -> None:
        now = time.monotonic()
        if now >= self.due and status.loss is not None:
            self.due = now + _NEXT_LINES
            print(status.line(), file=sys.stderr, flush=True)

    def end(self, status: Status) -> None:
        pass
