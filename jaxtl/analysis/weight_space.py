"""Weight averaging on runs: the line from θ₀ to the trained weights, and soups."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core import checkpoint, config, progress, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.names import listing
from jaxtl.core.types import Network, PyTree
from jaxtl.data import preprocess
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation.batch_norm import refresh_statistics
from jaxtl.evaluation.evaluate import evaluate_weights
from jaxtl.evaluation.metrics import main_metric, monitored_value, score
from jaxtl.models import merging
from jaxtl.pretrained import describe
from jaxtl.training.run import Run
from jaxtl.training.wise_ft import between

ALPHAS = tuple(i / 10 for i in range(11))
# Settings of a model that evaluation does not depend on, besides those of dropout.
_TRAINING_SETTINGS = ("remat", "stochnorm")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WiseFTCurve:
    """Metrics on the line from θ₀ to the fine-tuned weights, and its best point.

    Attributes:
      alphas: from θ₀ (0) to the fine-tuned weights (1), ascending.
      metrics: the task's metrics at each α, on `split`.
      split: that the metrics are measured on.
      monitor: the metric that α is chosen by.
      best: the chosen α, by `monitor` on val; of equal ones the largest.
      distance: ‖θ − θ₀‖ at α = 1 over parameters that have a source; at other α it is α
        times that.
      fresh: stages with parameters that have no source; these are the fine-tuned ones
        at every α.
      test: metrics of the chosen α on test; None where the run does not read test.
      params, stats: of the chosen α.
    """

    alphas: tuple[float, ...]
    metrics: tuple[dict[str, float], ...]
    split: str
    monitor: str
    best: float
    distance: float
    fresh: tuple[str, ...]
    test: dict[str, float] | None
    params: PyTree
    stats: PyTree

    def plot(self, path: str | pathlib.Path, *, title: str = "") -> None:
        """Draws the curve to a PNG."""
        from jaxtl.results.plots import analyses  # matplotlib imports slowly

        analyses.wise_ft(self, pathlib.Path(path), title=title)


def wise_ft(
    run: Run,
    alphas: Iterable[float] = ALPHAS,
    *,
    split: str = "val",
    which: str = "best",
    refresh: bool = False,
) -> WiseFTCurve:
    """Evaluates (1 − α)·θ₀ + α·θ for each α, chooses one on val, and tests it once.

    Parameters without a source (a new head) are the fine-tuned ones at every α, so
    α = 0 is then θ₀ with the fine-tuned head. Statistics of BatchNorm are interpolated
    like parameters.

    Args:
      run: a trained run that started from a source.
      alphas: numbers in [0, 1].
      split: that the curve is measured on, "val" or "train"; α is always chosen on val.
      which: "best" or "current" fine-tuned weights.
      refresh: whether statistics of BatchNorm are estimated from train rows for each α,
        instead of interpolated.

    Raises:
      UserError: a run from scratch, an α outside [0, 1], split="test".

    References:
      Wortsman et al., Robust Fine-Tuning of Zero-Shot Models (WiSE-FT), CVPR 2022.
    """
    alphas = _check_alphas(run, alphas, split)
    tuned = run.weights(which)

    def interpolated(alpha: float) -> tuple[PyTree, PyTree]:
        params, stats = between(run, tuned, alpha)
        return params, refresh_statistics(run, params, stats) if refresh else stats

    metrics = {
        name: [
            evaluate_weights(run, *interpolated(alpha), name)
            for alpha in progress.track(alphas, f"evaluating every α on {name}")
        ]
        for name in dict.fromkeys((split, "val"))
    }
    monitor = _monitor(run)
    scores = [_score(values, monitor, run) for values in metrics["val"]]
    if max(scores) == -math.inf:
        raise UserError(f"{monitor} on val is not finite at any α of {alphas}.")
    best = max(zip(scores, alphas))[1]
    params, stats = trees.copy(interpolated(best))
    source = trees.like(tuned[0], run.source.params)
    difference = trees.sub(tuned[0], source)
    return WiseFTCurve(
        alphas=alphas,
        metrics=tuple(metrics[split]),
        split=split,
        monitor=monitor,
        best=best,
        distance=math.sqrt(float(trees.sum_squares(difference))),
        fresh=_stages_without_source(run.network, tuned[0], source),
        test=_test_metrics(run, params, stats),
        params=params,
        stats=stats,
    )


def _check_alphas(run: Run, alphas: Iterable[float], split: str) -> tuple[float, ...]:
    """Sorts the α, each once; UserError for invalid ones, or a run without a source."""
    if not jax.tree.leaves(run.source.params):
        raise UserError(
            "wise_ft: this run began from scratch, so there is no θ₀ to interpolate "
            "from; give its experiment an init=."
        )
    if split not in ("val", "train"):
        raise UserError(
            f"split={split!r}: expected 'val' or 'train'; only the chosen α is tested."
        )
    alphas = tuple(sorted({float(alpha) for alpha in alphas}))
    wrong = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if wrong or not alphas:
        shown = wrong[0] if wrong else "()"
        raise UserError(f"alphas: {shown} is given; expected numbers in [0, 1].")
    return alphas


def _stages_without_source(
    network: Network, params: PyTree, source: PyTree
) -> tuple[str, ...]:
    """Names of the stages that have parameters without a source."""
    sourced = trees.flatten(source)
    fresh = {p.split("/")[0] for p in trees.flatten(params) if p not in sourced}
    return tuple(stage for stage in network.stages if stage in fresh)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Soup:
    """Averaged weights of several runs, and their metrics.

    Attributes:
      names: of the runs, in the order of the argument.
      single: the task's metrics of every single run, on the first run's val.
      members: indices of the runs in the soup, in the order of their addition.
      monitor: the metric that runs are compared by.
      val: metrics of the soup on val.
      test: metrics of the soup on test; None where the first run does not read test.
      params, stats: of the soup.
    """

    names: tuple[str, ...]
    single: tuple[dict[str, float], ...]
    members: tuple[int, ...]
    monitor: str
    val: dict[str, float]
    test: dict[str, float] | None
    params: PyTree
    stats: PyTree


def soup(
    runs: Sequence[Run],
    *,
    greedy: bool = True,
    which: str = "best",
    refresh: bool = True,
    names: Sequence[str] = (),
) -> Soup:
    """Averages the weights of runs of one model, and tests the average once.

    Args:
      runs: of the same model, classes and preprocessing. The first run's data, dtype
        and devices are used for the evaluation.
      greedy: whether runs are added from best to worst, each only where the metric on
        val does not get worse; False averages all.
      which: "best" or "current" weights of the runs.
      refresh: whether statistics of BatchNorm are estimated for every average, from the
        first run's train rows; False averages them too.
      names: of the runs, for messages; () takes their directories.

    Raises:
      UserError: runs that can't be averaged, or a run that trained on rows of the
        first run's val or test.

    References:
      Wortsman et al., Model Soups, ICML 2022.
    """
    names = _check_runs(runs, names)
    first, monitor = runs[0], _monitor(runs[0])
    weights = [dict(zip(("params", "stats"), run.weights(which))) for run in runs]
    mesh, rules = first.program.mesh, first.program.tensor_rules
    singles = [sharding.place(pair, mesh, rules) for pair in weights]

    def with_statistics(tree: Mapping[str, PyTree]) -> tuple[PyTree, PyTree]:
        params, stats = tree["params"], tree["stats"]
        # The statistics of a single run belong to its weights already.
        if refresh and not any(tree is single for single in singles):
            stats = refresh_statistics(first, params, stats)
        return params, stats

    def metrics(tree: Mapping[str, PyTree]) -> dict[str, float]:
        return evaluate_weights(first, *with_statistics(tree), "val")

    if greedy:
        tree, members = merging.greedy_soup(
            singles, lambda tree: _score(metrics(tree), monitor, first)
        )[:2]
    else:
        members = tuple(range(len(runs)))
        tree = merging.uniform_soup(singles)
    params, stats = trees.copy(with_statistics(tree))
    val = evaluate_weights(first, params, stats, "val")
    if math.isnan(monitored_value(val, monitor)):
        averaged = ", ".join(names[i] for i in members)
        raise UserError(f"{monitor} on val is not finite for the soup of {averaged}.")
    return Soup(
        names=names,
        single=tuple(
            metrics(single) for single in progress.track(singles, "evaluating each run")
        ),
        members=members,
        monitor=monitor,
        val=val,
        test=_test_metrics(first, params, stats),
        params=params,
        stats=stats,
    )


def _check_runs(runs: Sequence[Run], names: Sequence[str]) -> tuple[str, ...]:
    """Names of the runs; UserError where their weights can't be averaged."""
    if not runs:
        raise UserError("a soup needs at least one run; got none.")
    defaults = [str(run.directory or f"run {i}") for i, run in enumerate(runs)]
    names = tuple(names or defaults)
    first, targets = runs[0], [run.parts.datasets["target"] for run in runs]
    for name, run, target in zip(names, runs, targets):
        models = [r.parts.model.config for r in (first, run)]
        if _evaluation_key(models[0]) != _evaluation_key(models[1]):
            raise UserError(
                f"{names[0]} and {name} are runs of different models: "
                f"{_model_text(models[0])} and {_model_text(models[1])}; a soup "
                "averages weights of the same model."
            )
        _check_names(names[0], targets[0], name, target)
        if config.key(first.preprocess) != config.key(run.preprocess):
            raise UserError(
                f"{names[0]} and {name} read their inputs differently: "
                f"{preprocess.to_json(first.preprocess)} and "
                f"{preprocess.to_json(run.preprocess)}."
            )
        _check_leak(names[0], targets[0], name, target)
    return names


def _check_names(
    first_name: str, first: Dataset, second_name: str, second: Dataset
) -> None:
    """Raises UserError where classes, targets or columns differ in name or order."""
    if (first.task, first.output_names) != (second.task, second.output_names):
        raise UserError(
            f"{first_name} and {second_name} have different classes: "
            f"{_class_text(first)} and {_class_text(second)}; a soup needs the same "
            "classes in the same order."
        )
    if first.feature_names != second.feature_names:
        raise UserError(
            f"{first_name} and {second_name} read different columns: "
            f"({listing(first.feature_names)}) and ({listing(second.feature_names)}); "
            "a soup needs the same columns in the same order."
        )


def _evaluation_key(model: Any) -> Any:
    """Hashable key of a model's settings that its evaluation depends on."""
    if isinstance(model, Network):
        return config.key(model)
    names = [
        name
        for name in config.fields(model)
        if "dropout" not in name and name not in _TRAINING_SETTINGS
    ]
    return type(model), tuple((n, config.key(getattr(model, n))) for n in names)


def _model_text(model: Any) -> str:
    return (
        "a tl.Network"
        if isinstance(model, Network)
        else describe.model_expression(model)
    )


def _class_text(target: Dataset) -> str:
    """Task, number and first names of a data set's classes, for messages."""
    return f"{target.task} of {target.outputs} ({listing(target.output_names)})"


def _check_leak(
    first_name: str, first: Dataset, second_name: str, second: Dataset
) -> None:
    """Raises UserError where a run trained on val or test rows of the first run."""
    if first.fingerprint != second.fingerprint:
        return
    for split in ("val", "test"):
        leaked = np.intersect1d(first.rows.get(split, ()), second.rows["train"])
        if len(leaked):
            raise UserError(
                f"{second_name} trained on {len(leaked)} of the {split} examples of "
                f"{first_name}, so they can't evaluate a soup of both; give the data "
                "of all runs the same split_seed."
            )


def _monitor(run: Run) -> str:
    """Metric that weights are compared by: the run's, or its task's main one."""
    return run.monitor or main_metric(run.program.task)


def _score(metrics: Mapping[str, float], monitor: str, run: Run) -> float:
    """The monitored metric, signed so that larger is better; −∞ for NaN."""
    return score(monitor, monitored_value(metrics, monitor), run.directions)


def _test_metrics(run: Run, params: PyTree, stats: PyTree) -> dict[str, float] | None:
    """Metrics on test; None where the run has no test rows or does not read them."""
    rows = run.parts.datasets["target"].rows.get("test", ())
    if not run.exp.test or not len(rows):
        return None
    return evaluate_weights(run, params, stats, "test")


def save(path: str | pathlib.Path, run: Run, params: PyTree, stats: PyTree) -> None:
    """Writes weights, names and preprocessing for `pretrained.FromCheckpoint(path)`.

    Args:
      path: a folder that doesn't exist.
      run: whose names and preprocessing the weights have.
      params, stats: the weights.

    Raises:
      UserError: the path exists.
    """
    meta = {
        "preprocess": preprocess.to_json(run.preprocess),
        "output_names": list(run.parts.model.output_names),
        "feature_names": list(run.parts.datasets["target"].feature_names),
    }
    checkpoint.write_tree(pathlib.Path(path), {"params": params, "stats": stats}, meta)
