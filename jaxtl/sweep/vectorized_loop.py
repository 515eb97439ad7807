"""The training loop of vectorized runs: `training.loop` for many runs at once."""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.sweep import vectorized_eval
from jaxtl.sweep.axes import Halving
from jaxtl.sweep.vectorized_runs import VectorizedRuns
from jaxtl.training import metrics_log, result


class TrainedReplica(NamedTuple):
    """The outcome of one replica's training.

    Attributes:
      status: "done", "failed" or "stopped" (by successive halving).
      result: as in result.json; {} where it failed.
      curve: as `Run.curve`.
      error: why it failed.
    """

    status: str
    result: dict[str, Any]
    curve: dict[str, list]
    error: str = ""


def train_vectorized(
    replicas: VectorizedRuns,
    *,
    halving: Halving | None = None,
    settings: Sequence[Hashable] = (),
    should_stop: Callable[[], bool] = lambda: False,
    on_evaluation: Callable[[int], None] = lambda steps_done: None,
) -> list[TrainedReplica] | None:
    """Trains all replicas to the end; evaluates, keeps the best weights, tests once.

    Args:
      replicas: the vectorized runs, not begun.
      halving: stops the worst settings early; None stops none.
      settings: of each replica; replicas of one setting differ in their seed only.
      should_stop: called between dispatches; True ends the training.
      on_evaluation: called after every evaluation with the number of steps taken; it
        may stop replicas.

    Returns:
      The outcome of each replica; None if `should_stop` ended the training.
    """
    exp, start = replicas.exp, time.perf_counter()
    evaluate_every = exp.evaluate_every or max(1, math.ceil(exp.steps / 10))
    rungs = list(halving.rungs) if halving is not None else []
    while replicas.steps_done < exp.steps and replicas.active:
        if should_stop():
            return None
        first = replicas.steps_done
        target = min((first // evaluate_every + 1) * evaluate_every, exp.steps)
        table = replicas.advance(target - first, evaluate_every)
        _log_losses(replicas, table, first)
        _evaluate(replicas)
        on_evaluation(replicas.steps_done)
        while rungs and rungs[0] * exp.steps <= replicas.steps_done < exp.steps:
            rungs.pop(0)
            replicas.stop(_worst(replicas, halving.keep, settings))
    _fail_bad_weights(replicas)
    seconds = (time.perf_counter() - start) / len(replicas.runs)
    return _finish(replicas, seconds)


def _log_losses(replicas: VectorizedRuns, table: np.ndarray, first: int) -> None:
    """Adds mean losses to the curves; fails the replicas whose losses are not finite.

    Args:
      replicas: the vectorized runs.
      table: the metrics of some steps, float32 (replicas, steps, metrics).
      first: number of steps taken before them.
    """
    names, steps = replicas.metric_names, table.shape[1]
    window = replicas.exp.log_every or max(1, replicas.exp.steps // 100)
    loss, norm = names.index("loss"), names.index("grad_norm")
    is_bad = ~np.isfinite(table[:, :, [loss, norm]]).all(-1)
    ends = [i for i in range(steps) if (first + i + 1) % window == 0]
    ends = sorted({*ends, steps - 1})
    for replica in list(replicas.active):
        finite = int(is_bad[replica].argmax()) if is_bad[replica].any() else steps
        curve, start = replicas.curves[replica], 0
        for end in (end for end in ends if end < finite):
            mean = float(table[replica, start : end + 1, loss].mean())
            curve["step"].append(first + end + 1)
            curve["loss"].append(six_digits(mean))
            start = end + 1
        if finite < steps:
            row = dict(zip(names, table[replica, finite].tolist()))
            run = replicas.runs[replica]
            error = metrics_log.not_finite(run, first + finite, row)
            replicas.fail(replica, str(error))


def _evaluate(replicas: VectorizedRuns) -> None:
    """Evaluates the active replicas on val and keeps the weights that are best."""
    evaluations = vectorized_eval.evaluate_vectorized(
        replicas, replicas.weights(), "val", replicas.active
    )
    for replica, (values, _) in evaluations.items():
        _fail_if_not_finite(replicas, replica, "val", values)
    evaluations = {i: e for i, e in evaluations.items() if i not in replicas.failures}
    for replica, (values, _) in evaluations.items():
        row = {"step": replicas.steps_done, **rounded(values)}
        replicas.curves[replica]["val"].append(row)
    replicas.note_best({i: values for i, (values, _) in evaluations.items()})


def _fail_if_not_finite(
    replicas: VectorizedRuns, replica: int, split: str, values: dict[str, float]
) -> None:
    run, steps_done = replicas.runs[replica], replicas.steps_done
    try:
        metrics_log.check_evaluation(run, split, values, steps_done)
    except UserError as error:
        replicas.fail(replica, str(error))


def _fail_bad_weights(replicas: VectorizedRuns) -> None:
    """Fails the replicas whose last update left a weight or a state not finite."""
    is_finite = vectorized_eval.all_finite(replicas.states)
    for replica in list(replicas.active):
        if not is_finite[replica]:
            run, steps_done = replicas.runs[replica], replicas.steps_done
            error = metrics_log.not_finite_weights(run, steps_done)
            replicas.fail(replica, str(error))


def _worst(
    replicas: VectorizedRuns, keep: float, settings: Sequence[Hashable]
) -> list[int]:
    """Active replicas whose settings are not among the best share `keep` on val.

    A setting of which a seed has failed comes behind all others: the mean of the other
    seeds says too much, and reports choose among settings with all of their seeds.
    """
    monitor = replicas.runs[0].monitor
    if monitor is None:
        return []
    values: dict[Hashable, list[float]] = {}
    for replica in replicas.active:
        value = replicas.curves[replica]["val"][-1][monitor]
        values.setdefault(settings[replica], []).append(value)
    directions = replicas.runs[0].directions
    failed = {settings[replica] for replica in replicas.failures}
    ranks = {
        setting: (
            setting not in failed,
            metrics.score(monitor, float(np.mean(v)), directions),
        )
        for setting, v in values.items()
    }
    count = max(1, math.ceil(keep * len(ranks)))
    best = sorted(ranks, key=ranks.__getitem__, reverse=True)[:count]
    return [i for i in replicas.active if settings[i] not in best]


def _finish(replicas: VectorizedRuns, seconds: float) -> list[TrainedReplica]:
    """Evaluates the chosen weights, on test for the first and only time."""
    trained = [i for i in range(len(replicas.runs)) if i not in replicas.failures]
    evaluations = _evaluations(replicas, trained)
    for replica in trained:
        for split, (values, _) in evaluations[replica].items():
            if replica not in replicas.failures:
                _fail_if_not_finite(replicas, replica, split, values)
    weights = replicas.chosen_weights()
    drift = vectorized_eval.drift(replicas, weights) if trained else None
    outcomes = []
    for replica, curve in enumerate(replicas.curves):
        if replica in replicas.failures:
            error = replicas.failures[replica]
            outcomes.append(TrainedReplica("failed", {}, curve, error))
            continue
        distance = None if drift is None else float(drift[replica])
        content = _result(replicas, replica, evaluations[replica], distance, seconds)
        status = "stopped" if replica in replicas.stopped else "done"
        outcomes.append(TrainedReplica(status, content, curve))
    return outcomes


def _evaluations(
    replicas: VectorizedRuns, trained: Sequence[int]
) -> dict[int, dict[str, tuple[dict, dict]]]:
    """Computes {replica: {split: (metrics, details)}} of the chosen weights.

    Metrics on val are those of the best evaluation during training, where there is one.
    """
    evaluate = vectorized_eval.evaluate_vectorized
    weights = replicas.chosen_weights()
    done = [i for i in trained if i not in replicas.stopped]
    test = {}
    if replicas.exp.test:
        test = evaluate(replicas, weights, "test", done, with_details=True)
    indices = {i for i in trained if replicas.best[i] is None}
    if not test:  # details are then those of val, which training does not compute
        indices.update(done)
    val = evaluate(replicas, weights, "val", sorted(indices), with_details=True)
    evaluations: dict[int, dict] = {}
    for replica in trained:
        splits, best = {}, replicas.best[replica]
        values, details = val.get(replica, (None, {}))
        if best is not None:
            values = best["metrics"]
        if values is not None:
            splits["val"] = values, details
        if replica in test:
            splits["test"] = test[replica]
        evaluations[replica] = splits
    return evaluations


def _result(
    replicas: VectorizedRuns,
    replica: int,
    evaluations: dict[str, tuple[dict, dict]],
    drift: float | None,
    seconds: float,
) -> dict[str, Any]:
    """Assembles the result of one replica; times are its share of the replicas'."""
    curve, count = replicas.curves[replica], len(replicas.runs)
    steps = replicas.exp.steps
    if replica in replicas.stopped:
        steps = curve["step"][-1] if curve["step"] else 0
    best, train_seconds = replicas.best[replica], replicas.seconds / count
    return result.finish(
        replicas.runs[replica],
        evaluations,
        curve["val"],
        drift=drift,
        steps=steps,
        chosen=best["step"] if best else steps,
        steps_per_second=steps / train_seconds if train_seconds > 0 else None,
        train_seconds=train_seconds,
        seconds=seconds,
        compile_seconds=replicas.compile_seconds / count,
        lanes=count,
    )


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Rounds metrics to six digits, as the curves of a sweep are stored."""
    return {name: six_digits(value) for name, value in values.items()}


def six_digits(value: float) -> float:
    """Rounds a number to six significant digits."""
    return float(f"{value:.6g}")
