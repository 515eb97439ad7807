"""The best model of a run, from the run's directory alone.

The model is rebuilt from the stored experiment and the checkpoint. The data are read if
they can be, for the example of an export; nothing else depends on them.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import pretrained
from jaxtl.core import checkpoint, serialization
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data import splits
from jaxtl.data.dataset import Data, Dataset
from jaxtl.data.preparation import prepare
from jaxtl.data.preprocess import Preprocess, apply, from_json
from jaxtl.models import precision
from jaxtl.peft.base import Reparametrization
from jaxtl.training import result
from jaxtl.training.experiment import Experiment
from jaxtl.training.run_dir import (
    MARK,
    STUDY,
    read_experiment,
    read_json,
    same_experiment,
)

_HALF_PRECISION = ("bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The best model of a run.

    Attributes:
      directory: the run's.
      network: the model.
      weights: "params/…" and "stats/…" -> array.
      shapes: {"params", "stats"} as trees of shapes and dtypes.
      meta: of the checkpoint.
      preprocess: stored values to the model's input.
      half_precision: whether it computes, or stores weights, in 16 bits.
      data: options of the data, None where they were in memory only.
      dataset: the data with the run's splits, None where they can't be read now.
    """

    directory: pathlib.Path
    network: Network
    weights: dict[str, np.ndarray]
    shapes: PyTree
    meta: dict[str, Any]
    preprocess: Preprocess
    half_precision: bool
    data: Data | None
    dataset: Dataset | None


def read_trained_model(
    run_dir: pathlib.Path, exp: Experiment | None = None
) -> TrainedModel:
    """Reads the best model of a run from its directory.

    Args:
      run_dir: the run's directory.
      exp: the run's experiment, where the stored one can't be rebuilt.

    Raises:
      UserError: no trained run, or one whose model or input can't be rebuilt.
    """
    if checkpoint.latest(run_dir / "checkpoints") is None:
        raise UserError(_untrained(run_dir))
    parts = _experiment_parts(run_dir, exp)
    stored = pretrained.FromRun(str(run_dir)).read()
    dataset = _read_dataset(run_dir, parts, stored.meta.get("preprocess", {}))
    meta = _with_inputs(run_dir, stored.meta, dataset)
    pre = from_json(meta["preprocess"])
    network, shapes = _network_and_shapes(parts, meta, pre)
    weights = trees.flatten({"params": stored.params, "stats": stored.stats})
    _check_shapes(run_dir, shapes, weights)
    dtypes = [parts.dtype, getattr(parts.model, "dtype", None)]
    dtypes += [x.dtype for x in weights.values()]
    return TrainedModel(
        directory=run_dir,
        network=network,
        weights={path: np.asarray(jnp.asarray(x)) for path, x in weights.items()},
        shapes=shapes,
        meta=meta,
        preprocess=pre,
        half_precision=any(str(dtype) in _HALF_PRECISION for dtype in dtypes),
        data=parts.data,
        dataset=dataset,
    )


def _untrained(run_dir: pathlib.Path) -> str:
    """The message for a directory without a checkpoint."""
    if (run_dir / STUDY).exists():
        runs = sorted(path.parent.name for path in run_dir.glob(f"*/{MARK}"))
        return f"{run_dir} holds several runs; name one of them: {', '.join(runs)}."
    if (run_dir / MARK).exists():
        return f"{run_dir} holds no checkpoint yet: train it first."
    return f"{run_dir} is no directory of a run: it holds no {MARK}."


class _ExperimentParts(NamedTuple):
    """The parts of an experiment that its model and data depend on."""

    model: Any
    dtype: str
    seed: int
    data: Data | None
    peft: Reparametrization | None


def _experiment_parts(
    run_dir: pathlib.Path, exp: Experiment | None
) -> _ExperimentParts:
    """Reads the experiment; data are None where they were in memory only."""
    if exp is not None:
        same_experiment(run_dir, exp)
    else:
        with contextlib.suppress(UserError):
            exp = read_experiment(run_dir)
    if exp is not None:
        return _ExperimentParts(exp.model, exp.dtype, exp.seed, exp.data, exp.peft)
    stored = read_json(run_dir / MARK)["experiment"]
    try:
        return _ExperimentParts(
            model=serialization.from_json(stored["model"]),
            dtype=stored["dtype"],
            seed=stored["seed"],
            data=None,
            peft=serialization.from_json(stored.get("peft")),
        )
    except UserError as error:
        raise UserError(
            f"the model of {run_dir} can't be rebuilt from the stored experiment; "
            "export it in the program that made it, with exp= (its tl.Experiment). The "
            f"cause: {error}"
        ) from None


def _read_dataset(
    run_dir: pathlib.Path, parts: _ExperimentParts, pre: Mapping[str, Any]
) -> Dataset | None:
    """Reads the data with the run's splits, None where that is not possible."""
    data = parts.data
    if data is None:
        return None
    if data.size is None and pre.get("size"):
        # The size that the pretrained weights asked for, where the data name none.
        framing = {name: pre.get(name) for name in ("size", "shortest")}
        data = dataclasses.replace(data, **framing)
    try:
        return splits.load_splits(run_dir / "splits.npz", prepare(data, parts.seed))
    except (UserError, OSError, ImportError):
        return None


def _with_inputs(
    run_dir: pathlib.Path, meta: dict[str, Any], dataset: Dataset | None
) -> dict[str, Any]:
    """The checkpoint's meta with the inputs that older versions did not store."""
    if "inputs" in meta:
        return meta
    if dataset is None:
        raise UserError(
            f"{run_dir} does not store the shape of its inputs, and its data can't be "
            "read: make them available for the export."
        )
    single = not isinstance(dataset.x, dict)
    inputs, outputs = result.inputs(dataset), dataset.outputs
    return {**meta, "inputs": inputs, "single": single, "outputs": outputs}


def _network_and_shapes(
    parts: _ExperimentParts, meta: Mapping[str, Any], pre: Preprocess
) -> tuple[Network, PyTree]:
    """Rebuilds the network, and the shapes of its parameters and statistics."""
    network = precision.compute_in(_network(parts.model, meta["outputs"]), parts.dtype)
    specs = input_specs(meta, 1)
    x = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}
    x = apply(pre, x["x"] if meta["single"] else x)
    params, stats = jax.eval_shape(network.init, jax.random.key(0), x)
    if parts.peft is not None and not parts.peft.deployable:
        network = parts.peft.network(network)
        params = _merged_shapes(parts.peft, params)
    return network, {"params": params, "stats": stats}


def _network(model: Any, outputs: int) -> Network:
    if isinstance(model, Network):
        return model
    if model.outputs is None:
        model = dataclasses.replace(model, outputs=outputs)
    return model.pure()


def _merged_shapes(peft: Reparametrization, params: PyTree) -> PyTree:
    """Shapes of the parameters after a reparametrization is merged into them."""

    def merge(params):
        delta = peft.init(jax.random.key(0), params)
        return peft.merge(params, delta, peft.constants(params))

    return jax.eval_shape(merge, params)


def input_specs(meta: Mapping[str, Any], batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of a batch of each input, by name.

    Args:
      meta: of a checkpoint.
      batch: number of examples, or a symbolic dimension of `jax.export`.
    """
    return {
        name: jax.ShapeDtypeStruct(
            (batch, *spec["shape"]), jax.dtypes.canonicalize_dtype(spec["dtype"])
        )
        for name, spec in meta["inputs"].items()
    }


def _check_shapes(
    run_dir: pathlib.Path, shapes: PyTree, weights: Mapping[str, Any]
) -> None:
    """Raises UserError where the checkpoint is not of this model."""
    model = {path: tuple(x.shape) for path, x in trees.flatten(shapes).items()}
    stored = {path: tuple(x.shape) for path, x in weights.items()}
    wrong = [
        path for path in {**model, **stored} if model.get(path) != stored.get(path)
    ]
    if wrong:
        path = wrong[0]
        raise UserError(
            f"the checkpoint of {run_dir} is not of its model: {len(wrong)} arrays "
            f"differ, for example {path}: {stored.get(path, 'missing')} in the "
            f"checkpoint and {model.get(path, 'missing')} in the model."
        )
