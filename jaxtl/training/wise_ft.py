"""The line from θ₀ to what was trained, as a last choice of a run."""

from typing import Any

import jax

from jaxtl.core import sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.evaluation import evaluate, metrics
from jaxtl.models import merging


def between(
    run: Any, tuned: tuple[PyTree, PyTree], alpha: float
) -> tuple[PyTree, PyTree]:
    """(1 − α)·θ₀ + α·θ and the statistics between, likewise.

    What has no source (a new head) is as it was tuned at every α.

    Args:
      run: whose source is θ₀.
      tuned: θ and its statistics.
      alpha: α in [0, 1].
    """
    start = (run.source.params, run.source.stats)
    start_leaves = trees.flatten(start)
    sourced = trees.map_with_path(lambda p, x: x if p in start_leaves else None, tuned)
    start = trees.like(tuned, start)
    mixed = trees.fill(_interpolate(start, sourced, alpha), tuned)
    return sharding.place(mixed, run.program.mesh, run.program.tensor_rules)


_interpolate = jax.jit(merging.interpolate)


def choose(run: Any) -> float:
    """Puts the best point of the line on val in the place of the best weights.

    Of equal ones the largest α is taken. Returns α.

    References:
      Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022.
    """
    tuned = run.weights("best")
    monitor = run.monitor or metrics.main_metric(run.program.task)
    candidates = []
    for alpha in sorted(run.exp.wise_ft):
        params, stats = between(run, tuned, alpha)
        values = evaluate.evaluate_weights(run, params, stats, "val")
        value = metrics.monitored_value(values, monitor)
        candidates.append(
            (metrics.score(monitor, value, run.directions), alpha, values)
        )
    _, alpha, values = max(candidates, key=lambda candidate: candidate[:2])
    run.set_best(between(run, tuned, alpha), values[monitor], values)
    return alpha
