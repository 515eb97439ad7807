"""What a few-shot study reads: an experiment file, a run, or a folder of images."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxtl import pretrained
from jaxtl.analysis import linear_probe
from jaxtl.core import sharding
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data.dataset import Data
from jaxtl.data.sources.at_path import at_path
from jaxtl.data.sources.image_folder import ImageFolder
from jaxtl.evaluation import forward
from jaxtl.terms.domain.domain_pair import stage_vectors
from jaxtl.training import run_dir, run_paths, setup
from jaxtl.training.experiment import Experiment
from jaxtl.training.load_model import TrainedModel
from jaxtl.training.run import Run


def open_target(
    target: Run | TrainedModel | Experiment | str | pathlib.Path,
    *,
    overrides: Sequence[str] = (),
    variant: str | None = None,
    data: str | None = None,
    weights: str | None = None,
) -> Run | TrainedModel:
    """Sets up the network and the data of a study.

    Args:
      target: a run or experiment; the path of an experiment file, of a run's directory
        or of a folder of images, one folder per class.
      overrides: of an experiment file.
      variant: name of the file's experiment, where it has several.
      data: with a run, other files or another folder, read as the run's own data; its
        classes may be others.
      weights: with a folder of images, pretrained weights: a file, a directory, a run's
        directory or "hf:OWNER/NAME".

    Raises:
      UserError: options that don't go with the target, or what `setup` refuses.
    """
    if not isinstance(target, str | pathlib.Path):
        options = {"variant": variant, "data": data, "weights": weights}
        _refuse("an experiment or run in memory", overrides=overrides, **options)
        return linear_probe.open_run(target)
    path = pathlib.Path(target)
    if path.is_file() or path.suffix == ".py":
        _refuse("an experiment file", data=data, weights=weights)
        return linear_probe.open_run(path, *overrides, variant=variant)
    is_run = run_paths.holds_runs(path)
    kind = "a run" if is_run else "a folder of images"
    _refuse(kind, overrides=overrides, variant=variant)
    if not is_run:
        _refuse(kind, data=data)
        return setup.setup(_of_images(path, weights))
    _refuse(kind, weights=weights)
    directory = run_paths.one_run(path)
    if data is None:
        return linear_probe.open_run(directory)
    other = at_path(run_dir.read_experiment(directory).data, data)
    # All rows are read, so none has to be a test row of the run's own classes.
    return setup.setup(_of_run(directory, dataclasses.replace(other, val=0, test=0)))


def features(run: Run | TrainedModel, stage: str, rows: np.ndarray) -> np.ndarray:
    """Computes features (n, width) of rows of the target data, in evaluation mode.

    Those of the last stage before the head are what the head reads
    (`Network.reduce`: the average of a feature map).
    """
    model = run.evaluation_model()
    return forward.predict(
        model,
        sharding.place(run.weights("best"), model.mesh),
        run.datasets["target"],
        rows,
        functools.partial(_vectors, stage=stage),
    )


def _vectors(
    network: Network,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
    task: str,
    *,
    stage: str,
) -> jax.Array:
    out = network.apply(*weights, x, stop=stage).features[stage]
    return stage_vectors(network, stage, out)


def _of_images(path: pathlib.Path, weights: str | None) -> Experiment:
    """An experiment on a folder of images with the network of pretrained weights."""
    if not path.is_dir():
        raise UserError(f"there is no file or folder {str(path)!r}.")
    if weights is None:
        raise UserError(
            f"{path} is no experiment file and no run; for a folder of images "
            "--weights names pretrained weights (a file, a run's directory, or "
            "hf:OWNER/NAME)."
        )
    images = ImageFolder(str(path.absolute()), val=0, test=0)
    source = pathlib.Path(weights)
    if source.is_dir() and run_paths.holds_runs(source):
        return _of_run(run_paths.one_run(source), images)
    is_file = source.suffix != "" and not weights.startswith("hf:")
    kind = (
        pretrained.FromFile if is_file and not source.is_dir() else pretrained.FromHub
    )
    init = kind(weights, reset="head")
    return Experiment(model=init.model(outputs=None), data=images, init=init)


def _of_run(directory: pathlib.Path, data: Data) -> Experiment:
    """An experiment on other data with the network that a run trained."""
    exp = run_dir.read_experiment(directory)
    init = pretrained.FromRun(str(directory), reset="head")
    settings = {"model": exp.model, "peft": exp.peft, "dtype": exp.dtype}
    return Experiment(**settings, data=data, init=init)


def _refuse(kind: str, **options: Any) -> None:
    """Raises UserError for an option that this kind of target does not read."""
    for name, value in options.items():
        if value:
            option = f"{name} {' '.join(value)}" if name == "overrides" else f"--{name}"
            raise UserError(f"{option} does not go with {kind}; leave it out.")
