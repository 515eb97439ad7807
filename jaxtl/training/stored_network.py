"""The network of a stored run with its weights, from the run's directory alone.

The network is rebuilt from the stored model and checked against the checkpoint. The
run's data are not read.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import checkpoint, files, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, first_line
from jaxtl.core.types import Network, PyTree
from jaxtl.data import preprocess
from jaxtl.data.tokenizer import TOKENIZER
from jaxtl.pretrained import initial_weights
from jaxtl.pretrained.from_run import FromRun, stored_names
from jaxtl.pretrained.match import Weights
from jaxtl.pretrained.trained_network import TrainedNetwork
from jaxtl.training import run_dir, run_paths
from jaxtl.training.experiment import Experiment


def check_trained(directory: pathlib.Path) -> None:
    """Raises UserError for a run that holds no checkpoint."""
    if checkpoint.latest(directory / "checkpoints") is None:
        raise UserError(
            f"{directory} holds no checkpoint yet: train it first, with `jaxtl resume "
            f"{directory}`."
        )


def stored_settings(
    directory: pathlib.Path, exp: Experiment | None = None
) -> dict[str, Any]:
    """The fields of a run's experiment that its model needs; "data" None if in memory.

    "notes" tell the metrics that can't be rebuilt here.

    Args:
      directory: of the run.
      exp: the experiment, for one that can't be rebuilt from the directory.

    Raises:
      UserError: the model can't be rebuilt.
    """
    names = ("model", "peft", "data", "dtype", "seed", "evaluate_batch", "device_bytes")
    notes = {}
    if exp is not None:
        run_dir.same_experiment(directory, exp)
    else:
        with contextlib.suppress(UserError):
            exp, lost = run_dir.read_without_lost_metrics(directory)
            notes = {n: f"not measured: {first_line(e)}" for n, e in lost.items()}
    if exp is not None:
        settings = {name: getattr(exp, name) for name in (*names, "metrics")}
        return {**settings, "notes": notes}
    stored = run_dir.read_mark(directory)
    settings = {name: stored["experiment"].get(name) for name in names}
    try:
        for name in ("model", "peft"):
            settings[name] = run_dir.rebuild(
                directory, stored, stored["file"], settings[name]
            )
    except UserError as error:
        raise UserError(
            f"the model of {directory} can't be rebuilt from what is stored; load it "
            "in the program that made it, with exp= (its tl.Experiment). The cause: "
            f"{error}"
        ) from None
    return {**settings, "data": None, "metrics": {}, "notes": {}}


def input_specs(meta: Mapping[str, Any], batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """{input name: shape and dtype of a batch in stored units}, of `TrainedModel.meta`.

    Args:
      meta: of the checkpoint.
      batch: number of examples, an int or a symbolic dimension.
    """
    return {
        name: jax.ShapeDtypeStruct(
            (batch, *spec["shape"]), jax.dtypes.canonicalize_dtype(spec["dtype"])
        )
        for name, spec in meta["inputs"].items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class StoredNetwork:
    """A run's network with one set of its weights.

    Attributes:
      config: the model as configuration, its number of outputs filled in.
      network: its pure functions.
      params, stats: parameters and BatchNorm statistics, stage -> subtree.
    """

    config: Any
    network: Network
    params: PyTree
    stats: PyTree


def build(
    directory: pathlib.Path,
    settings: Mapping[str, Any],
    pre: preprocess.Preprocess,
    weights: Weights,
    meta: Mapping[str, Any],
) -> StoredNetwork:
    """The network of a run with weights of its checkpoint, placed on the device.

    Args:
      directory: of the run.
      settings: of `stored_settings`.
      pre: its preprocessing.
      weights: of the checkpoint.
      meta: of the checkpoint, with the shapes of the inputs.

    Raises:
      UserError: the weights are not of the model.
    """
    config, network = _network(settings["model"], meta["outputs"])
    network, shapes = _weight_shapes(network, settings["peft"], pre, meta)
    leaves = trees.flatten({"params": weights.params, "stats": weights.stats})
    _check_shapes(directory, shapes, leaves)
    tree = trees.map_with_path(
        lambda path, leaf: jnp.asarray(leaves[path], leaf.dtype), shapes
    )
    params, stats = sharding.place((tree["params"], tree["stats"]), sharding.mesh())
    return StoredNetwork(config, network, params, stats)


def read(source: FromRun) -> TrainedNetwork:
    """The network of a run as another run uses it; read once while its files stay.

    Raises:
      UserError: no trained run, or one whose model can't be rebuilt.
    """
    path = pathlib.Path(source.path)
    if not path.is_dir():
        source.read()  # says that there is none
    directory = run_paths.one_run(path)
    check_trained(directory)
    step = checkpoint.latest(directory / "checkpoints")
    states = files.states([directory / "checkpoints" / str(step)])
    network = _read(directory.absolute(), source.which, states)
    names = initial_weights.named_outputs(source)
    return (
        network if names is None else dataclasses.replace(network, output_names=names)
    )


@functools.lru_cache(maxsize=8)
def _read(
    directory: pathlib.Path, which: Any, states: tuple[files.FileState, ...]
) -> TrainedNetwork:
    # Cached so that the terms and the seeds of a study share one network. The states
    # of its files are an argument so that a run that was trained again is read again.
    weights = FromRun(str(directory), which=which).read()
    meta, settings = weights.meta, stored_settings(directory)
    if "inputs" not in meta:
        raise UserError(
            f"{directory} does not store the shape of its inputs, as runs of older "
            "versions of jaxtl don't; train it again."
        )
    pre = preprocess.from_json(meta["preprocess"])
    stored = build(directory, settings, pre, weights, meta)
    names, file = stored_names(meta), directory / TOKENIZER
    return TrainedNetwork(
        params=stored.params,
        stats=stored.stats,
        network=stored.network,
        where=str(directory),
        preprocess=pre,
        task=meta["task"],
        output_names=names["output_names"],
        feature_names=names["feature_names"],
        inputs=tuple((n, tuple(v["shape"])) for n, v in meta["inputs"].items()),
        tokenizer=file.read_text(encoding="utf-8") if file.is_file() else "",
    )


def _network(config: Any, outputs: int) -> tuple[Any, Network]:
    if isinstance(config, Network):
        return config, config
    if config.outputs is None:
        config = dataclasses.replace(config, outputs=outputs)
    return config, config.pure()


def _weight_shapes(
    network: Network,
    peft: Any,
    pre: preprocess.Preprocess,
    meta: Mapping[str, Any],
) -> tuple[Network, PyTree]:
    """(The network as it was stored, {"params", "stats"} as trees of shapes).

    A deployable reparametrization is stored merged, as the model's own parameters; any
    other changes the network.
    """
    x = {
        name: jnp.zeros((1, *shape.shape[1:]), shape.dtype)
        for name, shape in input_specs(meta, 1).items()
    }
    x = preprocess.apply(pre, x["x"] if meta["single"] else x)
    network = network.for_inputs(x)
    params, stats = jax.eval_shape(network.init, jax.random.key(0), x)
    if peft is not None and not peft.deployable:

        def merged(params: PyTree) -> PyTree:
            peft_params = peft.init(jax.random.key(0), params)
            return peft.merge(params, peft_params, peft.constants(params))

        network, params = peft.network(network), jax.eval_shape(merged, params)
    return network, {"params": params, "stats": stats}


def _check_shapes(
    directory: pathlib.Path, shapes: PyTree, leaves: Mapping[str, Any]
) -> None:
    """Raises UserError where the checkpoint is not of this model."""
    in_model = {p: tuple(x.shape) for p, x in trees.flatten(shapes).items()}
    stored = {p: tuple(x.shape) for p, x in leaves.items()}
    wrong = [p for p in {**in_model, **stored} if in_model.get(p) != stored.get(p)]
    if wrong:
        path = wrong[0]
        raise UserError(
            f"the checkpoint of {directory} is not of its model: {len(wrong)} arrays "
            f"differ, {path} for one is {stored.get(path, 'missing')} in the "
            f"checkpoint and {in_model.get(path, 'missing')} in the model."
        )
