"""Linear probes of a model: linear models of the frozen features of its stages."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxtl.analysis import linear_probe_fit
from jaxtl.analysis.linear_probe_fit import STRENGTHS, Probe, linear_probe
from jaxtl.core import progress, sharding
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree
from jaxtl.data import episodic, streams
from jaxtl.evaluation import forward
from jaxtl.terms.base import feature_stage
from jaxtl.training import experiment_file, setup
from jaxtl.training.experiment import Experiment
from jaxtl.training.load_model import TrainedModel, load_model
from jaxtl.training.run import Run


def probe(
    target: Run | TrainedModel | Experiment | str | pathlib.Path,
    stage: str | None = None,
    strengths: Iterable[float] = STRENGTHS,
    **settings: Any,
) -> Probe:
    """Fits a linear probe to one stage of a model; see `probes`.

    Args:
      target: a run or its directory (its best weights), or an experiment or its file
        (the weights that it starts from).
      stage: name of the stage; None takes the last before the head.
      strengths: positive numbers.
      **settings: those of `probes`.
    """
    stages = None if stage is None else (stage,)
    return next(iter(probes(target, stages, strengths, **settings).values()))


def probes(
    target: Run | TrainedModel | Experiment | str | pathlib.Path,
    stages: Iterable[str] | str | None = "all",
    strengths: Iterable[float] = STRENGTHS,
    *,
    test: bool = True,
    solver: str = "auto",
    standardize: bool = True,
    metric: str = "auto",
    batch: int | None = None,
) -> dict[str, Probe]:
    """Fits linear probes to stages of a model, on the splits of its target data.

    Models are fitted on train, chosen on val, and tested once. One pass over the data
    computes the features of all stages, in evaluation mode and without augmentation, as
    vectors on the host (`forward.stage_vectors`).

    Args:
      target: as in `probe`.
      stages: names; "all" for every stage before the head, None for the last of them.
      strengths, solver, standardize, metric: as in `linear_probe`.
      test: whether to read the test split.
      batch: examples per forward pass; None takes the experiment's evaluate_batch.

    Returns:
      {stage: Probe}, in the model's order.

    Raises:
      UserError: an unknown stage, a task without linear probes, or no val split.
    """
    run = open_run(target)
    episodic.refuse(run.datasets["target"].episodes is not None, "a linear probe")
    strengths = linear_probe_fit.check_strengths(strengths)
    stages = _stages(run.network, stages)
    dataset = run.datasets["target"]
    dataset.check_unweighted("a linear probe")
    dataset.check_labelled("a linear probe")
    solver = linear_probe_fit.resolve_solver(dataset.task, solver)
    splits = [n for n in ("train", "val", "test") if len(dataset.rows.get(n, ()))]
    linear_probe_fit.resolve_metric(dataset.task, solver, metric, "val" in splits)
    splits = [n for n in splits if test or n != "test"]
    x = features(run, stages, splits, batch=batch)
    y = {n: dataset.y_clean[dataset.rows[n]] for n in splits}
    y["train"] = dataset.y[dataset.rows["train"]]
    return {
        stage: linear_probe(
            x["train"][stage],
            y["train"],
            strengths,
            **{n: (x[n][stage], y[n]) for n in splits if n != "train"},
            task=dataset.task,
            outputs=dataset.outputs,
            solver=solver,
            standardize=standardize,
            metric=metric,
            stage=stage,
        )
        for stage in progress.track(stages, "fitting linear models, by stage")
    }


def open_run(
    target: Run | TrainedModel | Experiment | str | pathlib.Path,
    *overrides: str,
    variant: str | None = None,
) -> Run | TrainedModel:
    """Sets up a run of an experiment or its file, or loads a stored run's model.

    Args:
      target: a run or stored model, which is returned as it is; the directory of a
        run; an experiment; or the path of an experiment file.
      *overrides: of an experiment file, such as "data.val=0.2".
      variant: name of the file's experiment, where it has several.

    Raises:
      UserError: several runs or variants where one is needed, or none.
    """
    if isinstance(target, Run | TrainedModel):
        return target
    if isinstance(target, Experiment):
        return setup.setup(target)
    path = pathlib.Path(target)
    if path.is_dir():
        return load_model(path)
    variants = experiment_file.read_file(path, *overrides).variants
    if variant is None and len(variants) == 1:
        return setup.setup(next(iter(variants.values())))
    if variant not in variants:
        prefix = "" if variant is None else f"variant={variant!r}: "
        raise UserError(
            f"{prefix}{path} gives the experiments {', '.join(variants)}; choose one"
            f"{nearest(variant, variants)}."
        )
    return setup.setup(variants[variant])


def _stages(network: Network, stages: Iterable[str] | str | None) -> tuple[str, ...]:
    """Names of stages to probe, in the model's order; UserError for unknown ones."""
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
    run: Run | TrainedModel,
    stages: Iterable[str],
    splits: Iterable[str] | Mapping[str, np.ndarray] = ("train",),
    *,
    batch: int | None = None,
    data: str = "target",
    weights: tuple[PyTree, PyTree] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Computes the features of stages, one vector per example, in evaluation mode.

    Args:
      run: the run, or stored model, whose network and data are used.
      stages: names of the stages.
      splits: names of splits; or {name: rows} for any rows.
      batch: examples per forward pass; None takes the experiment's evaluate_batch.
      data: the data set, "target" or one of the experiment's streams.
      weights: (parameters, statistics); None takes the run's best.

    Returns:
      {split: {stage: (n, width)}}, in the order of the rows.
    """
    dataset = run.datasets[data]
    if not isinstance(splits, Mapping):
        splits = {name: streams.split_rows(dataset, name) for name in splits}
    model = run.evaluation_model(data)
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
