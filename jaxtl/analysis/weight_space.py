"""Weight space on runs: the line from θ₀ to what was trained, and soups of runs."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from jaxtl.core import checkpoint, config, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data import preprocess
from jaxtl.evaluation import evaluate
from jaxtl.evaluation.batch_norm import refresh_statistics
from jaxtl.evaluation.metrics import higher_is_better, main, monitored
from jaxtl.models import merging
from jaxtl.pretrained import describe
from jaxtl.training.wise_ft import between

FREE = ("remat", "stochnorm")  # settings that no evaluation depends on
ALPHAS = tuple(i / 10 for i in range(11))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """What `wise_ft` found.

    Attributes:
      alphas: from θ₀ (0) to the fine-tuned weights (1), rising.
      metrics: the task's metrics at each α, on `split`.
      split: what the metrics are of.
      monitor: the metric that chose.
      best: the chosen α, by `monitor` on val; of equal ones the largest.
      distance: ‖θ − θ₀‖ at α = 1 over parameters that have a source; α times that
        elsewhere.
      fresh: stages with parameters that have no source, the fine-tuned at every α.
      test: metrics of the chosen α on test, None where the run leaves test alone.
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
        from jaxtl.results.plots import base  # matplotlib takes a second to import

        base.wise_ft(self, pathlib.Path(path), title=title)


def wise_ft(
    run,
    alphas: Iterable[float] = ALPHAS,
    *,
    split: str = "val",
    which: str = "best",
    refresh: bool = False,
) -> Curve:
    """Evaluates (1 − α)·θ₀ + α·θ for each α, chooses one on val, and tests that once.

    Parameters without a source (a new head) are the fine-tuned ones at every α, so
    α = 0 is then θ₀ under the fine-tuned head. Statistics of BatchNorm are interpolated
    like parameters.

    Args:
      run: a trained run that began from a source.
      alphas: numbers in [0, 1].
      split: what the curve shows, "val" or "train"; the choice is made on val anyway.
      which: "best" or "current" fine-tuned weights.
      refresh: estimate the statistics of BatchNorm anew for each α, from train rows,
        instead of interpolating them.

    Raises:
      UserError: a run from scratch, an α outside [0, 1], split="test".

    References:
      Wortsman et al., Robust Fine-Tuning of Zero-Shot Models (WiSE-FT), CVPR 2022.
    """
    alphas = _checked(run, alphas, split)
    tuned = run.weights(which)

    def at(alpha: float) -> tuple[PyTree, PyTree]:
        params, stats = between(run, tuned, alpha)
        return params, refresh_statistics(run, params, stats) if refresh else stats

    found = {split: [measured(run, *at(alpha), split) for alpha in alphas]}
    if split != "val":
        found["val"] = [measured(run, *at(alpha), "val") for alpha in alphas]
    name = monitor(run)
    scores = [score(values, name) for values in found["val"]]
    best = max(zip(scores, alphas))[1]
    params, stats = trees.copy(at(best))
    start = trees.like(tuned[0], run.source.params)
    apart = trees.sub(tuned[0], start)
    return Curve(
        alphas=alphas,
        metrics=tuple(found[split]),
        split=split,
        monitor=name,
        best=best,
        distance=math.sqrt(float(trees.sum_squares(apart))),
        fresh=_unsourced(run.network, tuned[0], start),
        test=tested(run, params, stats),
        params=params,
        stats=stats,
    )


def _checked(run, alphas, split: str) -> tuple[float, ...]:
    if not jax.tree.leaves(run.source.params):
        raise UserError(
            "wise_ft: this run began from scratch, so there is no θ₀ to interpolate "
            "from; give its experiment an init=."
        )
    if split not in ("val", "train"):
        raise UserError(
            f"split={split!r}: expected 'val' or 'train'; test is for the chosen α."
        )
    alphas = tuple(sorted({float(alpha) for alpha in alphas}))
    wrong = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if wrong or not alphas:
        shown = wrong[0] if wrong else "()"
        raise UserError(f"alphas: {shown} is given; expected numbers in [0, 1].")
    return alphas


def _unsourced(network: Network, params: PyTree, source: PyTree) -> tuple[str, ...]:
    known = trees.flatten(source)
    lacking = {p.split("/")[0] for p in trees.flatten(params) if p not in known}
    return tuple(stage for stage in network.stages if stage in lacking)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Soup:
    """What `soup` made.

    Attributes:
      names: of the runs, in the order they were given.
      single: the task's metrics of every run by itself, on the first run's val.
      members: indices of the runs in the soup, in the order they were taken.
      monitor: the metric that chose.
      val: metrics of the soup on val.
      test: metrics of the soup on test, None where the first run leaves test alone.
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
    runs: Sequence,
    *,
    greedy: bool = True,
    which: str = "best",
    refresh: bool = True,
    names: Sequence[str] = (),
) -> Soup:
    """Averages the weights of runs of one model; on val, and tested once.

    Args:
      runs: of the same model, classes and preprocessing. Data, dtype and devices of the
        first are those of the evaluation.
      greedy: take runs from best to worst, each where val gets no worse; False
        averages all.
      which: "best" or "current" weights of the runs.
      refresh: estimate the statistics of BatchNorm anew for every average, from the
        first run's train rows; False averages them too.
      names: of the runs, for messages; () takes their directories.

    Raises:
      UserError: runs that can't be averaged, or of which one trained on rows that
        choose or test another.

    References:
      Wortsman et al., Model Soups, ICML 2022.
    """
    runs = list(runs)
    names, first = _alike(runs, names), runs[0]
    name, mesh = monitor(first), first.program.mesh
    pairs = [dict(zip(("params", "stats"), run.weights(which))) for run in runs]
    singles = [sharding.place(pair, mesh) for pair in pairs]

    def served(tree) -> tuple[PyTree, PyTree]:
        params, stats = tree["params"], tree["stats"]
        # A run's own statistics are right for its own weights.
        if refresh and not any(tree is single for single in singles):
            stats = refresh_statistics(first, params, stats)
        return params, stats

    def judged(tree) -> float:
        return score(measured(first, *served(tree), "val"), name)

    if greedy:
        tree, members = merging.greedy_soup(singles, judged)[:2]
    else:
        members = tuple(range(len(runs)))
        tree = merging.uniform_soup(singles)
    params, stats = trees.copy(served(tree))
    return Soup(
        names=names,
        single=tuple(measured(first, *served(tree), "val") for tree in singles),
        members=members,
        monitor=name,
        val=measured(first, params, stats, "val"),
        test=tested(first, params, stats),
        params=params,
        stats=stats,
    )


def _alike(runs: list, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the runs' names; UserError where they can't be averaged."""
    if not runs:
        raise UserError("a soup needs at least one run; got none.")
    own = [str(run.directory or f"run {i}") for i, run in enumerate(runs)]
    names = tuple(names or own)
    one, targets = runs[0], [run.parts.datasets["target"] for run in runs]
    for name, run, target in zip(names, runs, targets):
        models = [r.parts.model.config for r in (one, run)]
        if _essence(models[0]) != _essence(models[1]):
            raise UserError(
                f"{names[0]} and {name} are runs of different models: "
                f"{_written(models[0])} and {_written(models[1])}; a soup averages "
                "the weights of one."
            )
        classes = [(t.task, tuple(t.class_names)) for t in (targets[0], target)]
        if classes[0] != classes[1]:
            raise UserError(
                f"{names[0]} and {name} have other classes: {_kind(targets[0])} and "
                f"{_kind(target)}; a soup needs the same, in the same order."
            )
        if config.key(one.preprocess) != config.key(run.preprocess):
            raise UserError(
                f"{names[0]} and {name} read their inputs differently: "
                f"{preprocess.to_json(one.preprocess)} and "
                f"{preprocess.to_json(run.preprocess)}."
            )
        _no_leak(names[0], targets[0], name, target)
    return names


def _essence(model):
    """Returns what weights mean to a model: its settings but those of training."""
    if isinstance(model, Network):
        return config.key(model)
    kept = [n for n in config.fields(model) if "dropout" not in n and n not in FREE]
    return type(model), tuple((n, config.key(getattr(model, n))) for n in kept)


def _written(model) -> str:
    return (
        "a tl.Network"
        if isinstance(model, Network)
        else describe.model_expression(model)
    )


def _kind(target) -> str:
    names = ", ".join(map(str, target.class_names[:6]))
    more = ", …" if len(target.class_names) > 6 else ""
    return f"{target.task} of {len(target.class_names)} ({names}{more})"


def _no_leak(first: str, ours, other: str, theirs) -> None:
    """Raises UserError where a run trained on rows that the first holds back."""
    if ours.fingerprint != theirs.fingerprint:
        return
    for split in ("val", "test"):
        held = np.intersect1d(ours.rows.get(split, ()), theirs.rows["train"])
        if len(held):
            raise UserError(
                f"{other} trained on {len(held)} of the {split} examples of {first}, "
                "so they can't judge a soup of both; give the data of all runs one "
                "split_seed."
            )


def monitor(run) -> str:
    """Returns the metric that chooses: the run's own, or its task's main one."""
    return run.monitor or main(run.program.task)


def measured(run, params: PyTree, stats: PyTree, split: str) -> dict[str, float]:
    """Returns the task's metrics of some weights on a split of the run's data."""
    return evaluate.evaluate_weights(run, params, stats, split)


def score(found: dict[str, float], name: str) -> float:
    """Returns a metric so that larger is better; NaN is worse than anything."""
    value = monitored(found, name)
    value = value if higher_is_better(name) else -value
    return -math.inf if math.isnan(value) else value


def tested(run, params: PyTree, stats: PyTree) -> dict[str, float] | None:
    """Returns the metrics on test, None where the run leaves it alone or has none."""
    there = len(run.parts.datasets["target"].rows.get("test", ()))
    return measured(run, params, stats, "test") if run.exp.test and there else None


def save(path: str | pathlib.Path, run, params: PyTree, stats: PyTree) -> None:
    """Writes weights for `pretrained.FromCheckpoint(path)`, preprocessing included.

    Args:
      path: a folder that doesn't exist.
      run: whose preprocessing they need.
      params, stats: what to write.

    Raises:
      UserError: there is something at the path.
    """
    meta = {"preprocess": preprocess.to_json(run.preprocess)}
    checkpoint.write_tree(pathlib.Path(path), {"params": params, "stats": stats}, meta)
