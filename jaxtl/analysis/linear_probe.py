"""Linear probes of a model: what can be read off its stages' frozen features."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from jaxtl.analysis import linear_probe_fit
from jaxtl.analysis.linear_probe_fit import STRENGTHS, Probe, linear_probe
from jaxtl.core import sharding
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree
from jaxtl.data import streams
from jaxtl.evaluation import forward
from jaxtl.terms.base import feature_stage
from jaxtl.training import experiment_file, run_dir, setup
from jaxtl.training.experiment import Experiment
from jaxtl.training.run import Run


def probe(
    target: Run | Experiment | str | pathlib.Path,
    stage: str | None = None,
    strengths: Iterable[float] = STRENGTHS,
    **settings,
) -> Probe:
    """Probes one stage of a model; see `probes`.

    Args:
      target: a run (its best weights), a run's directory, or an experiment or its file
        (the weights it starts from).
      stage: by name; None takes the last before the head.
      strengths: positive numbers.
      **settings: those of `probes`.
    """
    stages = None if stage is None else (stage,)
    return next(iter(probes(target, stages, strengths, **settings).values()))


def probes(
    target: Run | Experiment | str | pathlib.Path,
    stages: Iterable[str] | str | None = "all",
    strengths: Iterable[float] = STRENGTHS,
    *,
    test: bool = True,
    solver: str = "auto",
    standardize: bool = True,
    metric: str = "auto",
    batch: int | None = None,
) -> dict[str, Probe]:
    """Probes stages of a model on its target data: fit on train, choose on val, test.

    One pass over the data gives all stages' features, in evaluation mode and without
    augmentation. They are kept on the host, as `core.vectors` makes them.

    Args:
      target: as in `probe`.
      stages: names; "all" for every stage before the head, None for the last of them.
      strengths, solver, standardize, metric: as in `linear_probe`.
      test: whether to look at the test split.
      batch: examples per forward pass; None takes the experiment's evaluate_batch.

    Returns:
      {stage: Probe}, in the model's order.

    Raises:
      UserError: an unknown stage, a task without linear probes, or no val split.
    """
    run = opened(target)
    strengths = linear_probe_fit.positive(strengths)
    stages = _stages(run.network, stages)
    dataset = run.parts.datasets["target"]
    task = dataset.task
    solver = linear_probe_fit.solver_for(task, solver)
    there = [n for n in ("val", "test") if len(dataset.rows.get(n, ()))]
    linear_probe_fit.metric_for(task, solver, metric, "val" in there)
    splits = ["train", *(n for n in there if test or n != "test")]
    found = features(run, stages, splits, batch=batch)
    y = {n: dataset.y_clean[dataset.rows[n]] for n in splits}
    y["train"] = dataset.y[dataset.rows["train"]]
    return {
        stage: linear_probe(
            found["train"][stage],
            y["train"],
            strengths,
            **{n: (found[n][stage], y[n]) for n in splits if n != "train"},
            task=task,
            outputs=dataset.outputs,
            solver=solver,
            standardize=standardize,
            metric=metric,
            stage=stage,
        )
        for stage in stages
    }


def opened(
    target: Run | Experiment | str | pathlib.Path,
    *overrides: str,
    variant: str | None = None,
) -> Run:
    """Returns a run, set up from an experiment or its file, or read from its directory.

    Args:
      target: what to open.
      *overrides: "data.val=0.2", of an experiment file.
      variant: which of the file's experiments, where it gives several.

    Raises:
      UserError: several runs or variants where one is needed, or none.
    """
    if isinstance(target, Run):
        return target
    if isinstance(target, Experiment):
        return setup.setup(target)
    path = pathlib.Path(target)
    if path.is_dir():
        return _reopened(path)
    variants = experiment_file.read_file(path, *overrides).variants
    if variant is None and len(variants) == 1:
        return setup.setup(next(iter(variants.values())))
    if variant not in variants:
        asked = "" if variant is None else f"variant={variant!r}: "
        raise UserError(
            f"{asked}{path} gives the experiments {', '.join(variants)}; choose one"
            f"{nearest(variant, variants)}."
        )
    return setup.setup(variants[variant])


def _reopened(path: pathlib.Path) -> Run:
    if not (path / run_dir.MARK).exists() and (path / run_dir.STUDY).exists():
        runs = sorted(str(p.parent.relative_to(path)) for p in path.rglob(run_dir.MARK))
        raise UserError(f"{path} holds several runs; name one of {', '.join(runs)}.")
    return setup.reopen(path)


def _stages(network: Network, stages) -> tuple[str, ...]:
    names = network.stages
    if stages is None:
        return (feature_stage(names),)
    if stages == "all":
        return names[:-1] or names
    stages = (stages,) if isinstance(stages, str) else tuple(stages)
    for stage in stages:
        if stage not in names:
            raise UserError(
                f"stage={stage!r}: the model has no such stage{nearest(stage, names)} "
                f"(stages: {', '.join(names)}, or all)."
            )
    return tuple(name for name in names if name in stages)


def features(
    run: Run,
    stages: Iterable[str],
    splits: Iterable[str] | Mapping[str, np.ndarray] = ("train",),
    *,
    batch: int | None = None,
    data: str = "target",
    weights: tuple[PyTree, PyTree] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Returns {split: {stage: (n, width)}}, of a run's best weights.

    Args:
      run: a run.
      stages: of the model.
      splits: names of splits, rows in the split's order; or any rows, by name.
      batch: examples per forward pass; None takes the experiment's evaluate_batch.
      data: the data set, "target" or one of the experiment's streams.
      weights: (parameters, statistics) in place of the best.
    """
    dataset = run.parts.datasets[data]
    if not isinstance(splits, Mapping):
        splits = {name: streams.split_rows(dataset, name) for name in splits}
    model = forward.predictor(run, data)
    if batch is not None:
        model = dataclasses.replace(model, batch=batch)
    ordered = tuple(name for name in run.network.stages if name in set(stages))
    return forward.predict_splits(
        model,
        sharding.place(weights or run.weights("best"), model.mesh),
        dataset,
        splits,
        functools.partial(forward.stage_vectors, stages=ordered),
    )
