"""The training loop of lanes: what `training` does for one run, for many at once."""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.evaluation import metrics, selection_cost
from jaxtl.sweep import vectorized_eval
from jaxtl.sweep.vectorized_runs import VectorizedRuns, rounded
from jaxtl.training import metrics_log
from jaxtl.training import result as train_result


class Finished(NamedTuple):
    """What became of one lane.

    Attributes:
      status: "done", "failed" or "stopped" (by successive halving).
      result: as in result.json; {} where it failed.
      curve: as `Run.curve`.
      error: why it failed.
    """

    status: str
    result: dict
    curve: dict
    error: str = ""


def train_vectorized(
    lanes: VectorizedRuns,
    *,
    halving=None,
    settings: Sequence[Hashable] = (),
    asked_to_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[int], None] = lambda at: None,
) -> list[Finished] | None:
    """Trains lanes to their end; evaluates, keeps the best weights, tests once.

    Args:
      lanes: as made.
      halving: a `sweep.Halving`, or None.
      settings: of each lane: lanes of one setting differ in their seed alone.
      asked_to_stop: looked at between dispatches.
      tell: called with the number of steps taken.

    Returns:
      what became of each lane; None where it was asked to stop.
    """
    exp, begin = lanes.exp, time.perf_counter()
    every = exp.evaluate_every or max(1, math.ceil(exp.steps / 10))
    rungs = list(halving.rungs) if halving is not None else []
    while lanes.at < exp.steps and lanes.active:
        if asked_to_stop():
            return None
        target = min((lanes.at // every + 1) * every, exp.steps)
        table = lanes.advance(target - lanes.at, every)
        _watch(lanes, table, target - len(table[0]))
        lanes.evaluate()
        tell(lanes.at)
        while rungs and lanes.at >= rungs[0] * exp.steps and lanes.at < exp.steps:
            rungs.pop(0)
            lanes.stop(_worst(lanes, halving.keep, settings))
    seconds = (time.perf_counter() - begin) / len(lanes.runs)
    return _finish(lanes, seconds)


def _watch(lanes: VectorizedRuns, table: np.ndarray, begin: int) -> None:
    """Notes the losses of some steps; drops the lanes whose are not finite."""
    names, window = lanes.names, lanes.exp.log_every or max(1, lanes.exp.steps // 100)
    loss, norm = names.index("loss"), names.index("grad_norm")
    bad = ~np.isfinite(table[:, :, [loss, norm]]).all(-1)
    ends = [i for i in range(table.shape[1]) if (begin + i + 1) % window == 0]
    ends = sorted({*ends, table.shape[1] - 1})
    for lane in list(lanes.active):
        at = int(bad[lane].argmax()) if bad[lane].any() else table.shape[1]
        curve, last = lanes.curves[lane], 0
        for end in (end for end in ends if end < at):
            mean = float(table[lane, last : end + 1, loss].mean())
            curve["step"].append(begin + end + 1)
            curve["loss"].append(rounded({"loss": mean})["loss"])
            last = end + 1
        if at < table.shape[1]:
            row = dict(zip(names, table[lane, at].tolist()))
            lanes.failures[lane] = str(
                metrics_log.blew_up(lanes.runs[lane], begin + at, row)
            )
            lanes.drop([lane])


def _worst(
    lanes: VectorizedRuns, keep: float, settings: Sequence[Hashable]
) -> list[int]:
    """Returns the lanes of the settings that are not among the best on val so far."""
    monitor = lanes.runs[0].monitor
    if monitor is None:
        return []
    sign = 1 if metrics.higher_is_better(monitor) else -1
    values: dict[Hashable, list[float]] = {}
    for lane in lanes.active:
        value = lanes.curves[lane]["val"][-1][monitor]
        values.setdefault(settings[lane], []).append(sign * value)
    means = {name: np.nan_to_num(np.mean(v), nan=-np.inf) for name, v in values.items()}
    left = max(1, math.ceil(keep * len(means)))
    going_on = sorted(means, key=means.__getitem__, reverse=True)[:left]
    return [lane for lane in lanes.active if settings[lane] not in going_on]


def _finish(lanes: VectorizedRuns, seconds: float) -> list[Finished]:
    """Measures what was kept, on test for the first and only time."""
    alive = [i for i in range(len(lanes.runs)) if i not in lanes.failures]
    kept = lanes.kept if lanes.runs[0].monitor is not None else lanes._weights()
    unmeasured = [i for i in alive if lanes.best[i] is None]
    vals = vectorized_eval.scores(lanes, kept, "val", unmeasured)
    blind = vectorized_eval.criteria_of(lanes, kept, list(vals))
    done = [i for i in alive if i not in lanes.stopped]
    tests = vectorized_eval.scores(lanes, kept, "test", done) if lanes.exp.test else {}
    if not tests:  # then the details are of val
        vals = {**vals, **vectorized_eval.scores(lanes, kept, "val", done)}
    apart = vectorized_eval.drift(lanes, kept) if alive else None
    found = []
    for lane, run in enumerate(lanes.runs):
        if lane in lanes.failures:
            curve = lanes.curves[lane]
            found.append(Finished("failed", {}, curve, lanes.failures[lane]))
            continue
        drift = None if apart is None else float(apart[lane])
        measured = _measured(lanes, lane, vals, tests, blind.get(lane, {}))
        result = _result(lanes, run, lane, measured, drift, seconds)
        status = "stopped" if lane in lanes.stopped else "done"
        found.append(Finished(status, result, lanes.curves[lane]))
    return found


def _measured(
    lanes: VectorizedRuns, lane: int, vals: dict, tests: dict, blind: dict
) -> dict:
    """Returns {"val", "test", "details"} of a lane, as far as they were measured."""
    task, best = lanes.program.task, lanes.best[lane]
    names = lanes.runs[lane].parts.datasets["target"].class_names
    found = {}
    if best is not None:
        found["val"] = best["metrics"]
    elif lane in vals:
        found["val"] = {**metrics.compute(task, *vals[lane]), **blind}
    if lane in tests:
        found["test"] = metrics.compute(task, *tests[lane])
    for split, there in (("test", tests), ("val", vals)):
        seen = metrics.details(task, *there[lane], names) if lane in there else {}
        if seen:
            found["details"] = {"split": split, **seen}
            break
    return found


def _result(
    lanes: VectorizedRuns, run, lane: int, measured: dict, drift, seconds
) -> dict:
    """Returns what `facts.result` says of a run that trained as a lane."""
    steps = lanes.exp.steps if lane not in lanes.stopped else _last(lanes, lane)
    took = lanes.seconds / len(lanes.runs)
    best = lanes.best[lane]
    curve = lanes.curves[lane]["val"] or [{"step": steps, **measured.get("val", {})}]
    blind = selection_cost.of_run(curve, run.monitor, lanes.program.task)
    return train_result.result(
        run,
        measured,
        **({"choosing": blind} if blind else {}),
        drift=drift,
        steps=steps,
        chosen=best["step"] if best else steps,
        steps_per_second=steps / took if took > 0 else None,
        train_seconds=took,
        seconds=seconds,
        compile_seconds=lanes.compile_seconds / len(lanes.runs),
        lanes=len(lanes.runs),
    )


def _last(lanes: VectorizedRuns, lane: int) -> int:
    curve = lanes.curves[lane]["step"]
    return curve[-1] if curve else 0
