"""A stored run's model with its trained weights, from the run's directory alone.

The network is rebuilt from the stored model and checked against the checkpoint; what
the run started from and what only its training read need not exist any more. The data
are read if they can be, and only evaluation needs them.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from jaxtl.core import sharding
from jaxtl.core.errors import DataChanged, UserError
from jaxtl.core.names import listing
from jaxtl.core.types import Network, PyTree
from jaxtl.data import preprocess
from jaxtl.data.dataset import Data, Dataset
from jaxtl.evaluation.episodes import Learner
from jaxtl.evaluation.forward import EvaluationModel
from jaxtl.pretrained.from_run import FromRun, stored_names
from jaxtl.training import (
    evaluation_only,
    inputs,
    other_data,
    result,
    run_paths,
    source_defaults,
    stored_network,
)
from jaxtl.training.experiment import Experiment
from jaxtl.training.stored_learner import read_learner


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """The model of a run with one set of its weights, to evaluate, export or call.

    `tl.evaluate` takes it in place of a run.

    Attributes:
      directory: of the run.
      config: the model as configuration, its number of outputs filled in.
      network: its pure functions; `network.apply(params, stats, x)` for inputs x that
        `preprocess` made.
      params, stats: parameters and BatchNorm statistics, stage -> subtree.
      preprocess: turns stored examples into inputs.
      task: "classification", "multilabel", "regression" or "language".
      class_names: in label order; () without classes.
      dtype: that the run computed in.
      meta: what the checkpoint says: step, best metrics, shapes of the inputs, ….
      data: options of the target data, None where they can't be rebuilt.
      dataset: the target data with the run's splits, None where they can't be read.
      dataset_error: why they can't be read, or have changed; or None.
      batch, device_bytes: of the experiment's evaluation.
      metrics: the experiment's own, name -> metric or function.
      thresholds: of the probabilities, as the run chose them; None for ½.
      notes: what an evaluation has to tell of its metrics.
      stored_learner: what learns from the support of an episode, None for a run whose
        data are single examples.
    """

    directory: pathlib.Path
    config: Any
    network: Network
    params: PyTree
    stats: PyTree
    preprocess: preprocess.Preprocess
    task: str
    class_names: tuple[str, ...]
    dtype: str
    meta: Mapping[str, Any]
    data: Data | None
    dataset: Dataset | None
    dataset_error: Exception | None
    batch: int
    device_bytes: int
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    thresholds: np.ndarray | None = None
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    stored_learner: Learner | None = None

    cached: ClassVar[None] = None  # only training caches the features of stages

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """{"target": the data set}, as a run's.

        Raises:
          UserError: the data can't be read.
          DataChanged: they are no longer those that the run was trained on.
        """
        if isinstance(self.dataset_error, DataChanged):
            raise self.dataset_error
        if self.dataset is None:
            raise UserError(
                f"the data of {self.directory} can't be read: "
                f"{self.dataset_error or 'they lived in memory only'}"
            ) from self.dataset_error
        return {"target": self.dataset}

    def weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """(parameters, statistics): the ones that were loaded, whichever is named."""
        del which
        return self.params, self.stats

    def packed_weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """The same: a stored model is float throughout."""
        return self.weights(which)

    def learner(self, which: str = "current") -> Learner:
        """The stored learner, whichever weights are named."""
        del which
        if self.stored_learner is None:
            raise UserError(
                f"{self.directory} was trained on single examples, so it can't be "
                "evaluated on episodes; `jaxtl fewshot` does, with its features."
            )
        return self.stored_learner

    def evaluation_model(self, data: str = "target") -> EvaluationModel:
        """The model for evaluation on the target data."""
        del data
        return EvaluationModel(
            network=self.network,
            dtype=self.dtype,
            preprocess=self.preprocess,
            task=self.task,
            mesh=sharding.mesh(),
            batch=self.batch,
            device_bytes=self.device_bytes,
        )


def load_model(
    directory: str | pathlib.Path,
    which: Literal["best", "last"] = "best",
    *,
    exp: Experiment | None = None,
    data: Data | None = None,
) -> TrainedModel:
    """Loads the trained model of a stored run, without setting the run up.

    Args:
      directory: of the run.
      which: "best" for the weights with the best monitored value, or "last".
      exp: the experiment, for one that can't be rebuilt from the directory (a model
        made of functions in a notebook).
      data: to evaluate on in place of the run's own, matched by the names of classes
        and columns: `tl.data.CSV("new.csv", target="y", test=1.0)`.

    Returns:
      The network with its weights, preprocessing, metadata and data.

    Raises:
      UserError: no trained run, a model that can't be rebuilt, data it can't read.
    """
    directory = run_paths.one_run(directory)
    stored_network.check_trained(directory)
    settings = stored_network.stored_settings(directory, exp)
    weights = FromRun(str(directory), which=which).read()
    dataset, error = _read_dataset(directory, settings, weights.meta, data)
    check_names(directory, weights.meta, dataset)
    meta = _with_inputs(directory, weights.meta, dataset)
    pre = preprocess.from_json(meta["preprocess"])
    if dataset is not None:
        preprocess.check_targets(pre, dataset.preprocess)
        pre = preprocess.stored_like(pre, dataset.preprocess)
    stored = stored_network.build(directory, settings, pre, weights, meta)
    return TrainedModel(
        directory=directory,
        config=stored.config,
        network=stored.network,
        params=stored.params,
        stats=stored.stats,
        preprocess=pre,
        task=meta["task"],
        class_names=tuple(meta["class_names"]),
        dtype=settings["dtype"],
        meta=meta,
        data=data or settings["data"],
        dataset=dataset,
        dataset_error=error,
        batch=settings["evaluate_batch"],
        device_bytes=settings["device_bytes"],
        metrics=settings["metrics"],
        thresholds=_thresholds(meta, which),
        notes=settings["notes"],
        stored_learner=read_learner(directory, meta, which),
    )


def _thresholds(meta: Mapping[str, Any], which: str) -> np.ndarray | None:
    """The stored thresholds, which were chosen for the best weights."""
    values = meta.get("thresholds") if which == "best" else None
    return None if values is None else np.asarray(values, np.float64)


def check_names(
    directory: pathlib.Path, meta: Mapping[str, Any], dataset: Dataset | None
) -> None:
    """Checks that a run's data still have the classes and columns of its model.

    Args:
      directory: of the run.
      meta: of its checkpoint.
      dataset: its target data as they are now; None where they can't be read.

    Raises:
      UserError: other names, or another order.
    """
    if dataset is None:
        return
    names_of = stored_names(meta)
    outputs = names_of["output_names"][: dataset.outputs]
    for what, stored, names in (
        ("outputs", outputs, dataset.output_names),
        ("columns", names_of["feature_names"], dataset.feature_names),
    ):
        if stored and tuple(stored) != tuple(names):
            raise UserError(
                f"the data of {directory} have changed: the {what} of its model are "
                f"{listing(stored)}, those of the data are {listing(names)}."
            )


def _read_dataset(
    directory: pathlib.Path,
    settings: Mapping[str, Any],
    meta: Mapping[str, Any],
    other: Data | None,
) -> tuple[Dataset | None, Exception | None]:
    """(The target data with the run's splits, None) or (None, why they can't be).

    Other data take their place where they are given, and have to be readable.
    """
    data = settings["data"]
    if other is not None:
        model, seed = settings["model"], settings["seed"]
        dataset = other_data.read(other, directory, meta, model, seed)
        return other_data.with_shared_files(dataset, data, directory), None
    if data is None:
        return None, None
    data = with_stored_inputs(data, meta)
    try:
        target = inputs.load_target(data, settings["seed"], directory)
        return evaluation_only.aligned_to_run(target, directory, meta), None
    except (UserError, OSError, ImportError) as error:
        return None, error


def with_stored_inputs(data: Data, meta: Mapping[str, Any]) -> Data:
    """Data in the image size that a run used, where they name no size themselves.

    Then it was the size that the run's pretrained weights expect. Pairs of texts are
    tokenized each by itself where the run's were.
    """
    ids = meta.get("inputs", {}).get("input_ids", {})
    if len(ids.get("shape", ())) == 2:
        data = source_defaults.separate_pairs(data)
    return inputs.with_framing(data, meta.get("preprocess", {}))


def _with_inputs(
    directory: pathlib.Path, meta: Mapping[str, Any], dataset: Dataset | None
) -> Mapping[str, Any]:
    """A checkpoint's meta with the shapes that older versions did not store."""
    if "inputs" in meta:
        return meta
    if dataset is None:
        raise UserError(
            f"{directory} does not store the shape of its inputs, and its data can't "
            "be read; make the data available."
        )
    single = not isinstance(dataset.x, dict)
    inputs, outputs = result.inputs(dataset), dataset.outputs
    return {**meta, "inputs": inputs, "single": single, "outputs": outputs}
