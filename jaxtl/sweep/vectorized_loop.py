"""The training loop of lanes: what `training` does for one run, for many at once."""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.evaluation import metrics
from jaxtl.sweep import vectorized_eval
from jaxtl.sweep.vectorized_runs import VectorizedRuns, rounded
from jaxtl.training import metrics_log, result


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
    """Evaluates the chosen weights, on test for the first and only time."""
    alive = [i for i in range(len(lanes.runs)) if i not in lanes.failures]
    evaluations = _evaluations(lanes, alive)
    weights = lanes.chosen_weights()
    drift = vectorized_eval.drift(lanes, weights) if alive else None
    finished = []
    for lane in range(len(lanes.runs)):
        if lane in lanes.failures:
            curve = lanes.curves[lane]
            finished.append(Finished("failed", {}, curve, lanes.failures[lane]))
            continue
        distance = None if drift is None else float(drift[lane])
        content = _result(lanes, lane, evaluations[lane], distance, seconds)
        status = "stopped" if lane in lanes.stopped else "done"
        finished.append(Finished(status, content, lanes.curves[lane]))
    return finished


def _evaluations(lanes: VectorizedRuns, alive: list[int]) -> dict[int, dict]:
    """Computes {lane: {split: (metrics, details)}} of the chosen weights.

    Metrics on val that training measured already are taken from there.
    """
    weights, task = lanes.chosen_weights(), lanes.program.task
    unmeasured = [i for i in alive if lanes.best[i] is None]
    val = vectorized_eval.scores(lanes, weights, "val", unmeasured)
    criteria = vectorized_eval.criteria_of(lanes, weights, list(val))
    done = [i for i in alive if i not in lanes.stopped]
    test = {}
    if lanes.exp.test:
        test = vectorized_eval.scores(lanes, weights, "test", done)
    if not test:  # the details are those of val, so its logits are needed
        val = {**val, **vectorized_eval.scores(lanes, weights, "val", done)}
    evaluations: dict[int, dict] = {}
    for lane in alive:
        names = lanes.runs[lane].parts.datasets["target"].class_names
        best, splits = lanes.best[lane], {}
        if best is not None:
            splits["val"] = best["metrics"], {}
        elif lane in val:
            values = metrics.compute(task, *val[lane])
            splits["val"] = {**values, **criteria.get(lane, {})}, {}
        if lane in val:
            splits["val"] = splits["val"][0], metrics.details(task, *val[lane], names)
        if lane in test:
            splits["test"] = (
                metrics.compute(task, *test[lane]),
                metrics.details(task, *test[lane], names),
            )
        evaluations[lane] = splits
    return evaluations


def _result(
    lanes: VectorizedRuns,
    lane: int,
    evaluations: dict[str, tuple[dict, dict]],
    drift: float | None,
    seconds: float,
) -> dict:
    """Assembles the result of one lane; times are its share of all lanes' time."""
    steps = lanes.exp.steps if lane not in lanes.stopped else _last(lanes, lane)
    best = lanes.best[lane]
    train_seconds = lanes.seconds / len(lanes.runs)
    return result.finish(
        lanes.runs[lane],
        evaluations,
        lanes.curves[lane]["val"],
        drift=drift,
        steps=steps,
        chosen=best["step"] if best else steps,
        steps_per_second=steps / train_seconds if train_seconds > 0 else None,
        train_seconds=train_seconds,
        seconds=seconds,
        compile_seconds=lanes.compile_seconds / len(lanes.runs),
        lanes=len(lanes.runs),
    )


def _last(lanes: VectorizedRuns, lane: int) -> int:
    curve = lanes.curves[lane]["step"]
    return curve[-1] if curve else 0
