"""Other data than a run's own, read as its model was trained to read them."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.data import alignment, preparation, trained_names
from jaxtl.data.dataset import Data, Dataset
from jaxtl.data.image_sets import ImageFiles
from jaxtl.pretrained.from_run import FromRun, stored_names
from jaxtl.training import inputs, result
from jaxtl.training.experiment import Experiment

# Tasks that a source may be told by its option task=.
_NAMED_TASKS = ("classification", "regression", "multilabel")


def read(
    data: Data,
    directory: pathlib.Path,
    meta: Mapping[str, Any],
    model: Any,
    seed: int,
) -> Dataset:
    """Reads data in the terms of a stored run's model: its classes, columns and sizes.

    Args:
      data: the source; an option that it leaves open is as it was in training.
      directory: of the run.
      meta: of the run's checkpoint.
      model: of the run, as configuration.
      seed: of splits.

    Raises:
      UserError: data that the model can't read.
    """
    data = _as_trained(data, meta)
    exp = Experiment(model=model, data=data, init=FromRun(str(directory)), seed=seed)
    dataset = preparation.prepare(inputs.sources(exp)["target"], seed)
    names = stored_names(meta)["output_names"]
    trained = trained_names.TrainedNames.from_meta(str(directory), meta, names)
    dataset = alignment.align(dataset, trained)
    _check_inputs(dataset, directory, meta)
    return dataset


def _as_trained(data: Data, meta: Mapping[str, Any]) -> Data:
    """The source with the task, channels and width that the model was trained on."""
    options = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)}
    changes: dict[str, Any] = {}
    task, specs = meta["task"], meta.get("inputs", {})
    if task in _NAMED_TASKS and options.get("task", task) is None:
        changes["task"] = task
    channels = (meta.get("preprocess") or {}).get("channels")
    if isinstance(data, ImageFiles) and data.channels is None and channels:
        changes["channels"] = channels
    if options.get("n_features", 0) is None and "x" in specs:
        [changes["n_features"]] = specs["x"]["shape"]
    return dataclasses.replace(data, **changes)


def _check_inputs(
    dataset: Dataset, directory: pathlib.Path, meta: Mapping[str, Any]
) -> None:
    """Raises UserError for examples of other shapes, or columns of other names."""
    columns = stored_names(meta)["feature_names"]
    if columns and dataset.feature_names and columns != dataset.feature_names:
        raise UserError(
            f"the model of {directory} reads the columns {', '.join(columns)}, and the "
            f"data have {', '.join(dataset.feature_names)}."
        )
    specs, data_inputs = meta.get("inputs"), result.inputs(dataset)
    if specs is None:
        return
    if specs.keys() != data_inputs.keys():
        raise UserError(
            f"the model of {directory} reads the inputs {', '.join(specs)}, and the "
            f"data have {', '.join(data_inputs)}."
        )
    for name, spec in specs.items():
        # Texts are as long as the longest.
        if meta["single"] and spec["shape"] != data_inputs[name]["shape"]:
            raise UserError(
                f"the model of {directory} reads examples of the shape "
                f"{tuple(spec['shape'])}, and those of the data have "
                f"{tuple(data_inputs[name]['shape'])}; for pictures size= and channels="
                " bring them to it."
            )


def with_shared_files(
    dataset: Dataset, trained: Data | None, directory: pathlib.Path
) -> Dataset:
    """Notes the files that the run's own data are read from, too.

    Args:
      dataset: other data than the run's.
      trained: the source of the run's own, None where it can't be rebuilt.
      directory: of the run.
    """
    trained_files = (
        [] if trained is None else [path.resolve() for path in trained.files()]
    )
    files = {path.resolve(): path.name for path in dataset.files}
    shared = [
        name
        for file, name in files.items()
        if any(
            file.is_relative_to(path) or path.is_relative_to(file)
            for path in trained_files
        )
    ]
    if not shared:
        return dataset
    note = (
        f"{directory} was trained on rows of {', '.join(shared)}, which may be among "
        "these"
    )
    return dataclasses.replace(dataset, notes=(*dataset.notes, note))
