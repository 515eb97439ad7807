"""The training loop: evaluate, log, keep checkpoints, stop at any moment."""

import math
import pathlib
import signal
import threading
import time
from typing import Any

from jaxtl.core import process_group, resource_errors
from jaxtl.core.errors import Stopped, UserError
from jaxtl.evaluation import evaluate
from jaxtl.training import checkpointing, metrics_log, result, run_dir, wise_ft
from jaxtl.training.metrics_log import Log
from jaxtl.training.progress import Progress
from jaxtl.training.run import Run

MINUTE = 60.0  # seconds between checkpoints where save_every is None
PAUSE = 1.0  # seconds of training at most before Ctrl-C and the clock are checked


def train(run: Run, *, progress: bool | None = None) -> dict:
    """Takes the remaining steps, evaluates, keeps checkpoints, tests once.

    Args:
      run: from `tl.setup` or `tl.resume`.
      progress: show a progress bar, or in a notebook one output that is drawn again;
        None shows it on a terminal and in a notebook, elsewhere a line a minute.

    Returns:
      The result, as stored in result.json: metrics of the chosen checkpoint on "val"
      and "test", costs and versions. A notebook shows its metrics as a table.

    Raises:
      UserError: if the loss, a parameter or an output on val or test stops being
        finite (with the step and the term), or the disk is full; the last good
        checkpoint is kept.
      Stopped: after Ctrl-C or SIGTERM, when a last checkpoint was written.
    """
    if run.directory is None:
        return _train(run, progress)
    with run_dir.lock_for_job(run.directory):
        stored = run.directory / "result.json"
        if process_group.first_value(stored.exists() and _is_done(run)):
            return result.TrainingResult(run_dir.read_json(stored))
        try:
            return _train(run, progress)
        except OSError as error:
            sentence = resource_errors.disk_sentence(error, run.directory)
            # A file without the permission may be one of the data, which are read.
            is_read = isinstance(error, PermissionError) and not pathlib.Path(
                error.filename or ""
            ).is_relative_to(run.directory)
            if not sentence or is_read:
                raise
            raise UserError(
                f"{sentence} after step {run.steps_done}; its last checkpoint is kept."
            ) from error


def _train(run: Run, progress: bool | None) -> dict:
    _check_patience(run)
    exp, log, evaluate_every = run.exp, Log(run), _evaluate_every(run)
    log_every = exp.log_every or max(1, exp.steps // 100)
    intervals = [log_every, evaluate_every, exp.save_every or exp.steps]
    saved, pace = time.monotonic(), 1
    with log, Interrupt() as interrupt, Progress(run, progress) as bar:
        if not _is_done(run):
            run.compile()
        while not _is_done(run) and not interrupt.is_agreed:
            target = min(*((run.steps_done // n + 1) * n for n in intervals), exp.steps)
            count = min(target - run.steps_done, pace)
            seconds = take_steps(run, count, log, bar)
            pace = max(1, round(count * PAUSE / max(seconds, 1e-9)))
            late = exp.save_every is None and time.monotonic() - saved > MINUTE
            pace, late = process_group.first_value((pace, late))
            if interrupt.agree() or run.steps_done == target or late:
                log.write()
            if run.steps_done % evaluate_every == 0 or run.steps_done == exp.steps:
                _evaluate(run, log, bar)
            due = exp.save_every is not None and run.steps_done % exp.save_every == 0
            if run.directory and (due or late) and run.steps_done < exp.steps:
                checkpointing.save(run)
                saved = time.monotonic()
        if interrupt.is_agreed and not _is_done(run):
            raise _stopped(run, interrupt.signal_number)
        metrics_log.check_weights(run)
        content = _finish(run)
        log.result(content)
        return content


def _evaluate_every(run: Run) -> int:
    """Steps between evaluations on val."""
    return run.exp.evaluate_every or max(1, math.ceil(run.exp.steps / 10))


def _is_done(run: Run) -> bool:
    """Whether all steps are taken, or patience has ended."""
    return run.steps_done >= run.exp.steps or _is_out_of_patience(run)


def _is_out_of_patience(run: Run) -> bool:
    """Whether the last `patience` evaluations on val were no better than one before."""
    if run.exp.patience is None or run.best is None:
        return False
    every = _evaluate_every(run)
    evaluations = run.steps_done // every - run.best["step"] // every
    return evaluations >= run.exp.patience


def _check_patience(run: Run) -> None:
    """Raises UserError where nothing could be better or worse."""
    if run.exp.patience is None:
        return
    if run.monitor is None:
        raise UserError(
            f"patience={run.exp.patience}: needs a metric on val that chooses the best "
            "checkpoint, but there is none (see monitor and val)."
        )
    if len(run.parts.phases) > 1:
        raise UserError(
            f"patience={run.exp.patience} would end the first of several phases and "
            "skip the others; leave it out, or train in one phase."
        )


def take_steps(run: Run, count: int, log: Log, bar: Progress) -> float:
    """Takes `count` steps, logs their metrics, and returns the seconds they took.

    Raises:
      UserError: at the first step whose loss or gradient is not finite.
    """
    start, first_step = time.perf_counter(), run.steps_done
    rows = run.advance(count)
    seconds = time.perf_counter() - start
    run.seconds += seconds
    run.session_seconds += seconds
    log.rows(first_step, rows, seconds)
    bar.update(rows, seconds)
    return seconds


def _evaluate(run: Run, log: Log, bar: Progress) -> None:
    if len(run.parts.datasets["target"].rows.get("val", ())) == 0:
        return
    values = evaluate.evaluate(run, "val")
    metrics_log.check_evaluation(run, "val", values, run.steps_done)
    better = run.monitor is not None and run.update_best(values)
    log.evaluation(values, better)
    bar.evaluated(values, better)


def _stopped(run: Run, signal_number: int) -> Stopped:
    if run.directory is None:
        message = f"stopped after step {run.steps_done}; nothing is stored."
        return Stopped(message, signal_number)
    checkpointing.save(run)
    return Stopped(
        f"stopped after step {run.steps_done} of {run.exp.steps}; a checkpoint is "
        f"written. Go on with: jaxtl resume {run.directory}",
        signal_number,
    )


def _finish(run: Run) -> dict:
    """Evaluates the chosen checkpoint, on test for the first and only time."""
    if run.steps_done == 0 and run.monitor is not None:
        run.update_best(evaluate.evaluate(run, "val"))
    if run.exp.wise_ft and run.steps_done:
        run.notes["wise_ft"] = f"α = {wise_ft.choose(run):g} chosen on val"
    if run.exp.threshold is not None:
        result.choose_thresholds(run)
    evaluations = {
        split: evaluate.evaluate_with_details(run, split, "best")
        for split in (("val", "test") if run.exp.test else ("val",))
        if len(run.parts.datasets["target"].rows.get(split, ()))
    }
    for split, (values, _) in evaluations.items():
        metrics_log.check_evaluation(run, split, values, run.steps_done)
    if run.steps_done < run.exp.steps:
        run.notes["patience"] = (
            f"stopped after step {run.steps_done} of {run.exp.steps}: "
            f"{run.exp.patience} evaluations without a better {run.monitor} on val"
        )
    content = result.TrainingResult(result.finish(run, evaluations, _val_curve(run)))
    if run.directory is not None:
        checkpointing.save(run)
        path = run.directory / "result.json"
        process_group.on_first(lambda: run_dir.write_json(path, content))
    return content


def _val_curve(run: Run) -> list[dict]:
    """Evaluations on val during training; of a stored run those of all sessions."""
    if run.directory is None or not process_group.is_first():
        return run.curve["val"]
    return metrics_log.curve(run.directory / "metrics.jsonl")["val"]


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_REQUEST = 2.0  # seconds


class Interrupt:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a request to stop between steps.

    SIGTERM is what a cluster sends before it takes a machine away, and SIGHUP what a
    closed terminal sends. A second signal stops at once, but not SIGTERM or SIGHUP soon
    after the first: a cluster that signals all processes of a job reaches the processes
    of `jaxtl launch` twice, which passes it on. A signal that nobody acted on, as
    the training had ended, is sent again when the context ends: what follows in the
    program (another run, say) is told as well.

    Attributes:
      requested: whether a signal came to this process.
      signal_number: the signal that came, SIGINT before.
    """

    def __init__(self) -> None:
        self.requested = self._agreed = False
        self.signal_number = int(signal.SIGINT)
        self._requested_at = -math.inf

    def __enter__(self) -> "Interrupt":
        self.old: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores one
                    self.old[number] = signal.signal(number, self._request)
        return self

    @property
    def is_agreed(self) -> bool:
        """Whether training is to stop here: all processes of a job stop together."""
        return self._agreed if process_group.count() > 1 else self.requested

    def agree(self) -> bool:
        """Asks all processes whether a signal came to one; returns `is_agreed`."""
        signals = process_group.all_values(self.signal_number if self.requested else 0)
        if not self._agreed and any(signals):
            self._agreed = True
            self.signal_number = next(number for number in signals if number)
        return self.is_agreed

    def _request(self, number: int, _frame: object) -> None:
        elapsed = time.monotonic() - self._requested_at
        if number != signal.SIGINT and elapsed < _SAME_REQUEST:
            return
        if self.requested:
            raise Stopped("stopped at once, by a second signal.", number)
        self.requested, self.signal_number = True, number
        self._requested_at = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        if self.requested and kind is None:
            signal.raise_signal(self.signal_number)
