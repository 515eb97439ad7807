"""The best model of a run, from the run's directory alone.

The model is rebuilt from the stored experiment and the checkpoint. The data are read if
they can be; nothing depends on it.
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

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
from jaxtl.training import result
from jaxtl.training.experiment import Experiment
from jaxtl.training.run_dir import (
    MARK,
    STUDY,
    read_experiment,
    read_json,
    same_experiment,
)

HALF = ("bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a run's directory says of its best model.

    Attributes:
      directory: the run's.
      network: the model.
      weights: "params/…" and "stats/…" -> array.
      like: {"params", "stats"} as trees of shapes.
      meta: of the checkpoint.
      preprocess: stored values to the model's input.
      half: whether it computes, or keeps weights, in 16 bits.
      data: options of the data, None where they lived in memory only.
      dataset: the data with the run's splits, None where they can't be read now.
    """

    directory: pathlib.Path
    network: Network
    weights: dict[str, np.ndarray]
    like: PyTree
    meta: dict
    preprocess: Preprocess
    half: bool
    data: Data | None
    dataset: Dataset | None


def read_trained_model(
    run_dir: pathlib.Path, exp: Experiment | None = None
) -> TrainedModel:
    """Reads the best model of a run from its directory.

    Raises:
      UserError: no trained run, or one whose model or input can't be rebuilt.
    """
    folder = run_dir / "checkpoints"
    at = checkpoint.latest(folder)
    if at is None:
        raise UserError(_untrained(run_dir))
    model, dtype, seed, data, peft = _parts(run_dir, exp)
    found = pretrained.FromRun(str(run_dir)).read()
    dataset = _dataset(run_dir, data, seed, found.meta.get("preprocess", {}))
    meta = _complete(run_dir, found.meta, dataset)
    network = precision.compute_in(_network(model, meta["outputs"]), dtype)
    pre = from_json(meta["preprocess"])
    x = {
        n: jnp.zeros((1, *s.shape[1:]), s.dtype)
        for n, s in input_specs(meta, 1).items()
    }
    x = apply(pre, x["x"] if meta["single"] else x)
    params, stats = jax.eval_shape(network.init, jax.random.key(0), x)
    if peft is not None and not peft.deployable:
        network, params = peft.network(network), _merged(peft, params)
    like = {"params": params, "stats": stats}
    stored = trees.flatten({"params": found.params, "stats": found.stats})
    _compare(run_dir, like, stored)
    kinds = [dtype, getattr(model, "dtype", None), *(x.dtype for x in stored.values())]
    return TrainedModel(
        directory=run_dir,
        network=network,
        weights={p: np.asarray(jnp.asarray(x)) for p, x in stored.items()},
        like=like,
        meta=meta,
        preprocess=pre,
        half=any(str(k) in HALF for k in kinds),
        data=data,
        dataset=dataset,
    )


def _merged(peft, params: PyTree) -> PyTree:
    """Returns the shapes of the parameters that a reparametrization makes of some."""

    def build(params):
        delta = peft.init(jax.random.key(0), params)
        return peft.merge(params, delta, peft.constants(params))

    return jax.eval_shape(build, params)


def _untrained(run_dir: pathlib.Path) -> str:
    if (run_dir / STUDY).exists():
        runs = sorted(p.parent.name for p in run_dir.glob(f"*/{MARK}"))
        return f"{run_dir} holds several runs; name one of them: {', '.join(runs)}."
    if (run_dir / MARK).exists():
        return f"{run_dir} holds no checkpoint yet: train it first."
    return f"{run_dir} is no directory of a run: it holds no {MARK}."


def _parts(run_dir: pathlib.Path, exp: Experiment | None) -> tuple:
    """Returns (model, dtype, seed, data, peft), data None if in memory only."""
    if exp is not None:
        same_experiment(run_dir, exp)
    else:
        with contextlib.suppress(UserError):
            exp = read_experiment(run_dir)
    if exp is not None:
        return exp.model, exp.dtype, exp.seed, exp.data, exp.peft
    stored = read_json(run_dir / MARK)["experiment"]
    try:
        return (
            serialization.from_json(stored["model"]),
            stored["dtype"],
            stored["seed"],
            None,
            serialization.from_json(stored.get("peft")),
        )
    except UserError as error:
        raise UserError(
            f"the model of {run_dir} can't be rebuilt from what is stored; export it "
            "in the program that made it, with exp= (its tl.Experiment). The cause: "
            f"{error}"
        ) from None


def _dataset(run_dir: pathlib.Path, data, seed: int, pre) -> Dataset | None:
    if data is None:
        return None
    if data.size is None and pre.get("size"):
        # What the pretrained weights wanted, where the data left it open.
        wanted = {name: pre.get(name) for name in ("size", "shortest")}
        data = dataclasses.replace(data, **wanted)
    try:
        return splits.load_splits(run_dir / "splits.npz", prepare(data, seed))
    except (UserError, OSError, ImportError):
        return None


def _complete(run_dir: pathlib.Path, meta: dict, dataset) -> dict:
    """Returns the checkpoint's meta with what older versions did not store."""
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


def _network(model: Any, outputs: int) -> Network:
    if isinstance(model, Network):
        return model
    if model.outputs is None:
        model = dataclasses.replace(model, outputs=outputs)
    return model.pure()


def input_specs(meta: dict, batch) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns {input name: shape and dtype of a batch}, from a checkpoint's meta."""
    return {
        name: jax.ShapeDtypeStruct(
            (batch, *spec["shape"]), jax.dtypes.canonicalize_dtype(spec["dtype"])
        )
        for name, spec in meta["inputs"].items()
    }


def _compare(run_dir, like: PyTree, stored: dict) -> None:
    """Raises UserError where the checkpoint is not of this model."""
    here = {p: tuple(x.shape) for p, x in trees.flatten(like).items()}
    there = {p: tuple(x.shape) for p, x in stored.items()}
    wrong = [p for p in {**here, **there} if here.get(p) != there.get(p)]
    if wrong:
        path = wrong[0]
        raise UserError(
            f"the checkpoint of {run_dir} is not of its model: {len(wrong)} arrays "
            f"differ, {path} for one is {there.get(path, 'missing')} in the checkpoint "
            f"and {here.get(path, 'missing')} in the model."
        )
