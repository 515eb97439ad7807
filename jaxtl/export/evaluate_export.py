"""Evaluation of an exported model on data: the metrics and thresholds of its run."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import lazy_array
from jaxtl.data.dataset import Data, Dataset
from jaxtl.data.text_columns import TextData
from jaxtl.evaluation.forward import EvaluationModel
from jaxtl.export import bundle
from jaxtl.export.predictor import BATCH, SINGLE_INPUT, Predictor
from jaxtl.training import inputs, other_data

_TASKS = ("classification", "multilabel", "regression")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ExportedModel:
    """An exported model with data to evaluate it on.

    Attributes:
      predictor: the model.
      dataset: the data, in the order of the model's classes and columns.
      thresholds: of the logits, None for ½.
      metrics: none beyond the task's.
      notes: what an evaluation has to tell of its metrics.
    """

    predictor: Predictor
    dataset: Dataset
    thresholds: np.ndarray | None
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    cached: None = None

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """{"target": the data}, as a run's."""
        return {"target": self.dataset}

    def evaluation_model(self, data: str = "target") -> EvaluationModel:
        """Raises UserError: the program of an export has no stages."""
        raise UserError(f"{self.predictor.name} is an export, which is no network.")

    def weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """(parameters, {}), in one set."""
        return self.predictor.weights, {}

    def predict(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(logits or outputs (n, outputs) float32, labels) of a split, in its order."""
        dataset = self.dataset
        rows = dataset.rows.get(split, np.zeros(0, np.int32))
        if len(rows) == 0:
            present = ", ".join(n for n, r in dataset.rows.items() if len(r))
            raise UserError(f"the data have no split {split!r}; they have {present}.")
        parts = []
        for start in progress.track(range(0, len(rows), BATCH), "evaluating, batches"):
            x = lazy_array.gather(dataset.x, rows[start : start + BATCH])
            if not isinstance(x, dict) and dataset.preprocess.offset is not None:
                x = np.asarray(x, np.float64) + np.asarray(dataset.preprocess.offset)
            outputs = self.predictor.outputs(
                x if isinstance(x, dict) else np.asarray(x)
            )
            name = "outputs" if dataset.task == "regression" else "logits"
            parts.append(outputs[name])
        return np.concatenate(parts).astype(np.float32), dataset.y_clean[rows]


def load(folder: str | pathlib.Path, data: Data) -> ExportedModel:
    """Loads an export, with data to evaluate it on.

    Args:
      folder: as `jaxtl export` wrote it.
      data: the source; classes and columns are matched by name.

    Raises:
      UserError: a damaged export, a task without metrics of its outputs, or data that
        the model can't read.
    """
    folder = pathlib.Path(folder)
    predictor = bundle.load(folder)
    if predictor.task not in _TASKS:
        raise UserError(
            f"{folder}: an export for the task {predictor.task} is not evaluated; "
            "evaluate its run, jaxtl eval RUN --data."
        )
    meta = _as_meta(predictor)
    data = inputs.with_framing(data, meta["preprocess"])
    if isinstance(data, TextData) and data.reads_texts():
        data = dataclasses.replace(data, tokenizer=predictor.tokenizer("data="))
    dataset = other_data.read(data, folder, meta, None, 0)
    stored = predictor.thresholds
    thresholds = None if stored is None else special.logit(np.asarray(stored))
    return ExportedModel(predictor=predictor, dataset=dataset, thresholds=thresholds)


def _as_meta(predictor: Predictor) -> dict[str, Any]:
    """The content of export.json, in the form of the meta data of a checkpoint."""
    metadata = predictor.metadata
    columns, encoding = metadata.get("columns"), None
    if columns is not None:
        encoding = {"columns": columns, **metadata.get("cells", {})}
    # The program takes and gives values in the units of the data.
    offsets = ("offset", "target_offset")
    preprocess = {k: v for k, v in metadata["preprocess"].items() if k not in offsets}
    return {
        "task": predictor.task,
        "output_names": list(predictor.class_names),
        "encoding": encoding,
        "preprocess": preprocess,
        "inputs": metadata["inputs"],
        "single": set(predictor.inputs) == {SINGLE_INPUT},
    }
