"""Searches: instead of all cells of a sweep, some settings, drawn by Optuna.

The space is the sweep's axes: a `Range` is all numbers between its ends, whatever else
is a choice of one; a `When` is drawn only where its condition holds. The seeds are not
searched: every trial runs all of them, and its value is the mean of the monitored
metric on val.

References:
  Akiba et al., Optuna, KDD 2019; Bergstra et al., Algorithms for Hyper-Parameter
  Optimization, NeurIPS 2011 (TPE); Li et al., A System for Massively Parallel
  Hyperparameter Tuning, MLSys 2020 (asynchronous successive halving).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import metrics
from jaxtl.sweep import axes, optuna_storage, runner
from jaxtl.sweep.cell_key import experiment_digest
from jaxtl.sweep.grid import build_cells
from jaxtl.training.experiment_file import File
from jaxtl.training.run import Run

RANDOM, TPE, HALVING = "random", "tpe", "halving"
# Trials asked for at once: they train side by side. TPE learns from those before.
BATCH = {RANDOM: 8, TPE: 4, HALVING: 8}


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """A search in a folder.

    Attributes:
      made: the sweep whose axes are searched; it has no cells beforehand.
      kind: "random", "tpe" or "halving".
      seed: of what is drawn.
      batch: trials asked for at once.
      metric: monitored, of which a trial's value is the mean.
    """

    made: runner.Sweep
    kind: str
    seed: int
    batch: int
    metric: str


def check(kind: str, grid: axes.Grid, total: int | None, batch: int | None) -> None:
    """Raises UserError for a search that can't be."""
    if kind not in BATCH:
        raise UserError(
            f"search={kind!r}: expected random, tpe or halving{nearest(kind, BATCH)}."
        )
    if total is not None and total < 1:
        raise UserError(f"trials={total}: expected at least 1.")
    if batch is not None and batch < 1:
        raise UserError(f"batch={batch}: expected at least 1.")
    if not set(grid.axes) - {axes.SEED}:
        raise UserError(
            "there is nothing to search: the sweep has no axis besides seed; try "
            "'optim.lr=log(1e-4,1e-2,5)'."
        )


def space(file: File, grid: axes.Grid) -> dict[str, dict[str, Any]]:
    """Returns axis -> what is drawn of it, as JSON.

    Either {"low", "high", "log", "whole"} or {"choices"}; and "when" of conditional
    axes.
    """
    found = {}
    for axis, values in grid.axes.items():
        if axis == axes.SEED:
            continue
        drawn, one = {}, values.values if isinstance(values, axes.When) else values
        if isinstance(one, axes.Range):
            drawn = {"low": one.low, "high": one.high, "log": one.log}
            drawn["whole"] = _whole(file, axis, one)
        else:
            drawn["choices"] = list(_options(axis, one))
        if isinstance(values, axes.When):
            drawn["when"] = {name: _plain(x) for name, x in values.condition.items()}
        found[axes.axis_name(axis)] = drawn
    return found


def _plain(labels: Any) -> Any:
    many = isinstance(labels, tuple | list | set)
    return [str(x) for x in labels] if many else str(labels)


def _whole(file: File, axis: str, values: axes.Range) -> bool:
    """Whether the field takes whole numbers only, as far as the experiments tell."""
    between = values.low + (values.high - values.low) * 0.4142
    for exp in file.variants.values():
        for value, fits in ((math.ceil(values.low), True), (between, False)):
            try:
                config.override(exp, axis, value)
            except UserError:
                if fits:
                    break
                return True
    return False


def _options(axis, values) -> dict[str, tuple[Any, Any]]:
    """Returns the name of a choice -> (its label, an axis of it alone)."""
    if isinstance(values, Mapping):
        rows = [(label, {label: change}) for label, change in values.items()]
    elif isinstance(axis, tuple):
        rows = [(", ".join(str(axes.label_of(x)) for x in v), [v]) for v in values]
    else:
        rows = [(axes.label_of(value), [value]) for value in values]
    found: dict[str, tuple[Any, Any]] = {}
    for label, one in rows:
        name = str(label)
        found[name if name not in found else f"{name} ({len(found)})"] = label, one
    return found


def draw(trial, file: File, grid: axes.Grid, known: Mapping[str, dict]) -> list:
    """Returns the cells of a trial, one per seed; none where they are excluded.

    Args:
      trial: an Optuna trial, of which the parameters are asked in the axes' order.
      file, grid: of the sweep.
      known: from `space`.
    """
    chosen, labels = {}, {}
    for axis, values in grid.axes.items():
        if axis == axes.SEED:
            chosen[axis] = values
            continue
        if isinstance(values, axes.When):
            if not values.holds(labels):
                continue
            values = values.values
        name = axes.axis_name(axis)
        if isinstance(values, axes.Range):
            label = _number(trial, name, known[name])
            chosen[axis] = [label]
        else:
            options = _options(axis, values)
            picked = trial.suggest_categorical(name, tuple(options))
            label, chosen[axis] = options[picked]
        labels[name] = label
    made = build_cells(file, axes.Grid(chosen))
    return [
        c
        for c in made
        if not any(axes.matches_rule(c.labels, rule) for rule in grid.exclude)
    ]


def _number(trial, name: str, drawn: Mapping[str, Any]) -> float:
    low, high, log = drawn["low"], drawn["high"], drawn["log"]
    if drawn["whole"]:
        return trial.suggest_int(name, math.ceil(low), math.floor(high), log=log)
    # Of six digits, so that the setting is what tables show.
    return float(f"{trial.suggest_float(name, low, high, log=log):.6g}")


def metric_of(made: runner.Sweep) -> str:
    """Returns what the experiments monitor on val; sets the first one up for it.

    Raises:
      UserError: experiments without it, or that differ in it.
    """
    asked = {exp.monitor for exp in made.file.variants.values()}
    if len(asked) > 1:
        raise UserError(
            f"the variants monitor {', '.join(map(repr, sorted(asked, key=str)))}; a "
            "search needs one metric for all."
        )
    [monitor] = asked
    if monitor == "auto":
        first = next(iter(made.file.variants.values()))
        monitor = Run(runner.resolved(first, made)).monitor
    if monitor is None:
        raise UserError(
            "a search chooses by the monitored metric on val, but monitor=None; give "
            'monitor="auto" and a val split.'
        )
    return monitor


def facts(search: Search, found: Mapping[str, dict]) -> dict[str, Any]:
    """Returns what processes that share a study must agree in."""
    digests = {n: experiment_digest(e) for n, e in search.made.file.variants.items()}
    seeds = search.made.grid.axes.get(axes.SEED)
    return {
        "metric": search.metric,
        "space": dict(found),
        "seeds": None if seeds is None else [int(s) for s in seeds],
        "excluded": [
            {k: _plain(v) for k, v in r.items()} for r in search.made.grid.exclude
        ],
        "experiments": digests,
    }


def direction(metric: str) -> str:
    """Returns "maximize" or "minimize"."""
    return "maximize" if metrics.higher_is_better(metric) else "minimize"


def sampler(kind: str, seed: int, number: int):
    """Returns what draws the parameters of the trial of a number.

    A sampler of its own for each trial: processes of one seed would otherwise all draw
    the same.
    """
    samplers = optuna_storage.optuna().samplers
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if kind == TPE:
        return samplers.TPESampler(seed=own, constant_liar=True)
    return samplers.RandomSampler(seed=own)


def goes_on(value: float, others: Sequence[float], keep: float, higher: bool) -> bool:
    """Whether a trial passes a rung of asynchronous successive halving.

    It does where it is among the best share `keep` of all that came there so far, at
    least one. (Optuna's own pruner rounds the share to 1/n, and judges the trials that
    reach a rung together one by one, the first ones without their companions.)

    Args:
      value: of the trial at this rung.
      others: of all trials that came there, itself among them.
      keep: share that goes on.
      higher: whether more is better.

    References:
      Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.
    """
    if math.isnan(value):
        return False
    better = sum(x > value if higher else x < value for x in others)
    return better < max(1, math.ceil(keep * len(others)))
