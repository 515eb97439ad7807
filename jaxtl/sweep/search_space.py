"""The space of a search: the axes of a sweep, of which Optuna draws settings.

A `Range` is all numbers between its ends, every other axis a choice of one of its
values; a `When` is drawn only where its condition holds. The seeds are not searched:
every trial runs all of them, and its value is the mean of the monitored metric on val.

References:
  Akiba et al., Optuna, KDD 2019; Bergstra et al., Algorithms for Hyper-Parameter
  Optimization, NeurIPS 2011 (TPE); Li et al., A System for Massively Parallel
  Hyperparameter Tuning, MLSys 2020 (asynchronous successive halving).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import config, limits
from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import metrics
from jaxtl.evaluation.metrics import experiment_metrics
from jaxtl.sweep import optuna_storage
from jaxtl.sweep.axes import SEED, Grid, Range, When, axis_name, label_of, matches_rule
from jaxtl.sweep.cell_key import experiment_digest
from jaxtl.sweep.cells import Axis, Cell, build_cells
from jaxtl.sweep.sources import with_trained_source
from jaxtl.sweep.sweep_folder import Sweep
from jaxtl.training.experiment_file import File
from jaxtl.training.run import Run

RANDOM, TPE, HALVING = "random", "tpe", "halving"
# Trials drawn at once, which train side by side. TPE learns from earlier trials only.
BATCH = {RANDOM: 8, TPE: 4, HALVING: 8}


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """A search in a folder.

    Attributes:
      sweep: the sweep whose axes are searched; it has no cells in advance.
      kind: "random", "tpe" or "halving".
      seed: of the sampler.
      batch: number of trials that are drawn at once.
      metric: the monitored metric, of which a trial's value is the mean over seeds.
    """

    sweep: Sweep
    kind: str
    seed: int
    batch: int
    metric: str


def check(kind: str, grid: Grid, total: int | None, batch: int | None) -> None:
    """Checks the settings of a search.

    Args:
      kind: of the search.
      grid: the axes.
      total: number of trials, None where it is not given.
      batch: number of trials at once, None where it is not given.

    Raises:
      UserError: an unknown kind, no trials, no batch, or no axis to search.
    """
    if kind not in BATCH:
        raise UserError(
            f"search={kind!r}: expected random, tpe or halving{nearest(kind, BATCH)}."
        )
    if total is not None and total < 1:
        raise UserError(f"trials={total}: expected at least 1.")
    if total is not None:
        seeds = len(grid.axes.get(SEED, (0,)))
        limits.check_runs(total * seeds, f"trials={total}")
    if batch is not None and batch < 1:
        raise UserError(f"batch={batch}: expected at least 1.")
    if not set(grid.axes) - {SEED}:
        raise UserError(
            "there is nothing to search: the sweep has no axis besides seed; try "
            "'optim.lr=log(1e-4,1e-2,5)'."
        )


def space(file: File, grid: Grid) -> dict[str, dict[str, Any]]:
    """Describes the space of a search, as JSON.

    Returns:
      axis -> {"low", "high", "log", "whole"} of a range or {"choices"}; conditional
      axes have "when" as well.
    """
    distributions: dict[str, dict[str, Any]] = {}
    for axis, values in grid.axes.items():
        if axis == SEED:
            continue
        condition = values.condition if isinstance(values, When) else None
        values = values.values if isinstance(values, When) else values
        distribution: dict[str, Any]
        if isinstance(values, Range):
            distribution = {"low": values.low, "high": values.high, "log": values.log}
            distribution["whole"] = _takes_whole_numbers(file, axis, values)
        else:
            distribution = {"choices": list(_options(axis, values))}
        if condition is not None:
            distribution["when"] = {k: _as_text(v) for k, v in condition.items()}
        distributions[axis_name(axis)] = distribution
    return distributions


def _as_text(labels: Any) -> str | list[str]:
    if isinstance(labels, tuple | list | set):
        return [str(x) for x in labels]
    return str(labels)


def _takes_whole_numbers(file: File, axis: str, values: Range) -> bool:
    """Whether a field takes whole numbers only, by what the experiments accept."""
    between = values.low + (values.high - values.low) * 0.4142  # rarely a whole number
    for exp in file.variants.values():
        for value, is_whole in ((math.ceil(values.low), True), (between, False)):
            try:
                config.override(exp, axis, value)
            except UserError:
                if is_whole:
                    break  # this experiment has no such field
                return True
    return False


class _Option(NamedTuple):
    """One choice of an axis: its label, and the axis's values reduced to it."""

    label: Any
    values: Any


def _options(axis: Axis, values: Any) -> dict[str, _Option]:
    """The choices of an axis by unique names."""
    if isinstance(values, Mapping):
        options = [_Option(label, {label: change}) for label, change in values.items()]
    elif isinstance(axis, tuple):
        options = [_Option(", ".join(str(label_of(x)) for x in v), [v]) for v in values]
    else:
        options = [_Option(label_of(value), [value]) for value in values]
    named: dict[str, _Option] = {}
    for option in options:
        name = str(option.label)
        named[name if name not in named else f"{name} ({len(named)})"] = option
    return named


def draw(
    trial: Any, file: File, grid: Grid, distributions: Mapping[str, dict]
) -> list[Cell]:
    """Draws the setting of a trial.

    Args:
      trial: an Optuna trial, which suggests the parameters in the axes' order.
      file: the experiments.
      grid: the axes.
      distributions: from `space`.

    Returns:
      A cell of the setting for each seed, without those that are excluded.
    """
    axes, labels = {}, {}
    for axis, values in grid.axes.items():
        if axis == SEED:
            axes[axis] = values
            continue
        if isinstance(values, When):
            if not values.holds(labels):
                continue
            values = values.values
        name = axis_name(axis)
        if isinstance(values, Range):
            label = _suggest_number(trial, name, distributions[name])
            axes[axis] = [label]
        else:
            options = _options(axis, values)
            choice = trial.suggest_categorical(name, tuple(options))
            label, axes[axis] = options[choice]
        labels[name] = label
    return [
        cell
        for cell in build_cells(file, Grid(axes))
        if not any(matches_rule(cell.labels, rule) for rule in grid.exclude)
    ]


def _suggest_number(trial: Any, name: str, distribution: Mapping[str, Any]) -> float:
    low, high, log = (distribution[key] for key in ("low", "high", "log"))
    if distribution["whole"]:
        return trial.suggest_int(name, math.ceil(low), math.floor(high), log=log)
    # Six digits, so that the value that runs is the one that tables show.
    return float(f"{trial.suggest_float(name, low, high, log=log):.6g}")


def metric_of(sweep: Sweep) -> str:
    """The metric on val that the experiments monitor; sets one up where it is "auto".

    Raises:
      UserError: experiments that monitor nothing, or that differ in it.
    """
    monitors = {exp.monitor for exp in sweep.file.variants.values()}
    if len(monitors) > 1:
        raise UserError(
            f"the variants monitor {', '.join(map(repr, sorted(monitors, key=str)))}; "
            "a search needs one metric for all."
        )
    [monitor] = monitors
    if monitor == "auto":
        exp = next(iter(sweep.file.variants.values()))
        monitor = Run(with_trained_source(exp, sweep)).monitor
    if monitor is None:
        raise UserError(
            "a search chooses by the monitored metric on val, but monitor=None; give "
            'monitor="auto" and a val split.'
        )
    return monitor


def shared_settings(
    search: Search, distributions: Mapping[str, dict]
) -> dict[str, Any]:
    """The settings in which processes that share a study must agree, as JSON."""
    file, grid = search.sweep.file, search.sweep.grid
    seeds = grid.axes.get(SEED)
    return {
        "metric": search.metric,
        "space": dict(distributions),
        "seeds": None if seeds is None else [int(s) for s in seeds],
        "excluded": [{k: _as_text(v) for k, v in r.items()} for r in grid.exclude],
        "experiments": {n: experiment_digest(e) for n, e in file.variants.items()},
    }


def higher_is_better(search: Search) -> bool:
    """Whether larger values of the search's metric are better.

    Raises:
      UserError: the variants disagree.
    """
    variants = search.sweep.file.variants
    answers = {
        metrics.higher_is_better(
            search.metric, experiment_metrics.directions(exp.metrics)
        )
        for exp in variants.values()
    }
    if len(answers) > 1:
        raise UserError(
            f"larger values of {search.metric!r} are better in some variants and worse "
            "in others; a search needs one metric for all."
        )
    return answers.pop()


def direction(search: Search) -> str:
    """Optuna's direction of a search's metric: "maximize" or "minimize"."""
    return "maximize" if higher_is_better(search) else "minimize"


def sampler(kind: str, seed: int, number: int) -> Any:
    """The Optuna sampler that draws the parameters of one trial.

    Every setting has its own, seeded by its number: otherwise all processes with one
    seed would draw the same parameters.

    Args:
      kind: of the search.
      seed: of the search.
      number: of the setting, from 0.
    """
    samplers = optuna_storage.optuna().samplers
    trial_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if kind == TPE:
        return samplers.TPESampler(seed=trial_seed, constant_liar=True)
    return samplers.RandomSampler(seed=trial_seed)
