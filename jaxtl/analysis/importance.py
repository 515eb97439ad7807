"""Importance of the parameters of a trained model, from a run or an experiment."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import pretrained
from jaxtl.core import progress
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Batch, Network, PyTree
from jaxtl.data import lazy_array, preprocess, streams
from jaxtl.data.dataset import CONTRASTIVE, Dataset
from jaxtl.optim import optimizer
from jaxtl.terms.regularizers import dense_layers, fisher, importance_file, kfac
from jaxtl.training import build, experiment_file, inputs, run_dir, run_paths
from jaxtl.training.experiment import Experiment
from jaxtl.training.load_model import with_stored_inputs
from jaxtl.training.stored_network import check_trained


def _fisher(
    network: Network,
    task: str,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    y: jax.Array,
    key: jax.Array,
    chunk: int,
) -> PyTree:
    """Diagonal of the Fisher information, expected over the model's own labels."""
    f = _logits(network, stats)
    return fisher.diagonal_fisher(f, params, x, task=task, key=key, chunk=chunk)


def _empirical(
    network: Network,
    task: str,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    y: jax.Array,
    key: jax.Array,
    chunk: int,
) -> PyTree:
    """Diagonal of the empirical Fisher information, with the labels of the data."""
    f = _logits(network, stats)
    return fisher.diagonal_fisher(f, params, x, y, task=task, chunk=chunk)


def _mas(
    network: Network,
    task: str,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    y: jax.Array,
    key: jax.Array,
    chunk: int,
) -> PyTree:
    """Importance by memory-aware synapses, which needs no labels."""
    return fisher.mas(_logits(network, stats), params, x, task=task, chunk=chunk)


def _kfac(
    network: Network,
    task: str,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    y: jax.Array,
    key: jax.Array,
    chunk: int,
) -> PyTree:
    """Kronecker factors of the Fisher information; its diagonal for other leaves."""
    return kfac.block_fisher(network, params, stats, x, task=task, key=key, chunk=chunk)


def _mean(
    equation: Callable[..., PyTree],
    network: Network,
    params: PyTree,
    stats: PyTree,
    batches: Iterable[Batch],
    *,
    task: str,
    key: jax.Array,
) -> dict[str, np.ndarray]:
    """Computes an equation's mean over all examples, {name: array}.

    Args:
      equation: one of those above.
      network, params, stats: the model.
      batches: of {"x": preprocessed inputs, "y": labels}, each example once; the last
        one may be smaller.
      task: the model's task.
      key: of labels that are drawn.

    Raises:
      UserError: Kronecker factors of a model without dense layers.
    """
    if equation is _kfac and (network.taps is None or not dense_layers.paths(params)):
        raise UserError(
            "--kind kfac is about dense layers, and this model shows none; use "
            "--kind fisher."
        )
    bound = functools.partial(equation, network, task)
    return fisher.mean_over_batches(bound, params, stats, batches, key)


# Kind of importance -> function of the arguments of `_mean` but the equation. Diagonal
# kinds name their arrays by the paths of the leaves.
KINDS: dict[str, Callable[..., Mapping[str, np.ndarray]]] = {
    "fisher": functools.partial(_mean, _fisher),
    "empirical": functools.partial(_mean, _empirical),
    "mas": functools.partial(_mean, _mas),
    "kfac": functools.partial(_mean, _kfac),
}


def _logits(network: Network, stats: PyTree) -> Callable[[PyTree, PyTree], jax.Array]:
    """Function of (params, x) that computes the logits in evaluation mode."""
    return lambda params, x: network.apply(params, stats, x).logits


@dataclasses.dataclass(frozen=True, eq=False)
class ModelAndData:
    """A model whose importance is computed, and its data.

    Attributes:
      parts: the assembled experiment; its initial weights are those that importance is
        computed for.
      exp: the experiment without its settings of training.
    """

    parts: Any
    exp: Experiment

    @property
    def fresh(self) -> list[str]:
        """Paths of the parameters without a source, which have random values."""
        sourced = set(trees.flatten(self.parts.fixed.source.params))
        params = trees.flatten(self.parts.model.base_params)
        return [path for path in params if path not in sourced]

    def batches(self, rows: np.ndarray, split: str) -> Iterator[Batch]:
        """Yields the examples of some rows once, preprocessed.

        Args:
          rows: (n,) of the target data.
          split: of the rows; train has the given labels, other splits the clean ones.
        """
        dataset = self.parts.datasets["target"]
        labels = dataset.y if split == "train" else dataset.y_clean
        size = self.exp.evaluate_batch
        starts = range(0, len(rows), size)
        for start in progress.track(starts, "importance, in batches"):
            chunk = rows[start : start + size]
            x = lazy_array.gather(dataset.x, chunk)
            x = preprocess.apply(self.parts.model.preprocess["target"], x)
            yield {"x": x, "y": jnp.asarray(labels[chunk])}


def from_run(directory: str | pathlib.Path) -> ModelAndData:
    """Assembles the model of a finished run at its best weights.

    Raises:
      UserError: there is no run, or it can't be read.
      DataChanged: its data are no longer those that it was trained on.
    """
    directory = run_paths.one_run(directory)
    check_trained(directory)
    exp = run_dir.read_experiment(directory)
    init = pretrained.FromRun(str(directory))
    data = with_stored_inputs(exp.data, init.read().meta)
    dataset = inputs.load_target(data, exp.seed, directory)
    exp = dataclasses.replace(exp, data=data, init=init)
    return from_experiment(exp, {"target": dataset})


def from_experiment(
    exp: Experiment, datasets: Mapping[str, Dataset] | None = None
) -> ModelAndData:
    """Assembles the model of an experiment at the weights that its init= loads.

    Args:
      exp: the experiment.
      datasets: those of a stored run; None reads the experiment's.

    Raises:
      UserError: the experiment starts from scratch, or can't be assembled.
    """
    if exp.init is None:
        raise UserError(
            "this experiment starts from scratch, so there are no trained weights "
            "whose importance could be computed; give it an init=."
        )
    # Terms are left out: they may read the very importance that is to be computed.
    bare = dataclasses.replace(
        exp,
        streams={},
        terms={},
        optim=optimizer.SGD(momentum=0.0),
        steps=0,
        batch=2,  # losses of pairs compare two
        accumulate=1,
        dtype="float32",
        devices=1,
        param_shards=1,
        tensor_shards=1,
        device_bytes=0,
    )
    return ModelAndData(build.assemble(bare, datasets=datasets), bare)


def compute(
    model: ModelAndData,
    kind: str = "fisher",
    split: str = "train",
    examples: int | None = None,
) -> importance_file.Importance:
    """Computes importance, in evaluation mode and float32.

    Args:
      model: from `from_run` or `from_experiment`.
      kind: one of `KINDS`.
      split: of the target data.
      examples: number of examples, drawn by the experiment's seed; None takes all.

    Raises:
      UserError: an unknown kind or split, more examples than the split has, or
        importance that is not finite.
    """
    check_kind(kind)
    rows = _rows(model, split, examples)
    if kind == "empirical" and split == "unlabelled":
        raise UserError(
            "--kind empirical reads labels, which the split 'unlabelled' has not; "
            "use --kind fisher or mas."
        )
    parts = model.parts
    if parts.program.task == CONTRASTIVE:
        raise UserError(
            "importance is computed of one output vector for each example, and those "
            f"of the task {CONTRASTIVE!r} are embeddings of images and of texts."
        )
    arrays = KINDS[kind](
        parts.model.network,
        parts.model.base_params,
        parts.model.stats,
        model.batches(rows, split),
        task=parts.program.task,
        key=jax.random.key(model.exp.seed),
    )
    arrays = {name: np.asarray(x) for name, x in arrays.items()}
    not_finite = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    if not_finite:
        raise UserError(
            f"the importance of {not_finite[0]!r} holds NaN or infinity, so nothing "
            "was written; are the model's outputs finite?"
        )
    digests = importance_file.digests(parts.model.base_params)
    return importance_file.Importance(kind, arrays, digests, len(rows), split)


def check_kind(kind: str) -> None:
    """Raises UserError for a kind that is not one of `KINDS`."""
    if kind not in KINDS:
        raise UserError(
            f"--kind {kind!r} is unknown{nearest(kind, KINDS)} "
            f"(known: {', '.join(KINDS)})."
        )


def _rows(model: ModelAndData, split: str, examples: int | None) -> np.ndarray:
    """Rows of a split, or a number of them drawn by the experiment's seed, sorted."""
    dataset = model.parts.datasets["target"]
    rows = streams.split_rows(dataset, split)
    if len(rows) == 0:
        raise UserError(f"the split {split!r} is empty.")
    if examples is None:
        return rows
    if not 1 <= examples <= len(rows):
        raise UserError(
            f"--examples {examples}: expected a number from 1 to {len(rows)}, the size "
            f"of the split {split!r}."
        )
    drawn = np.random.default_rng(model.exp.seed).permutation(len(rows))[:examples]
    return rows[np.sort(drawn)]


def check_overwrite(path: pathlib.Path, model: ModelAndData) -> None:
    """Raises UserError where a file exists that is not this model's importance."""
    if not path.exists():
        return
    advice = "pass --overwrite to replace it, or choose another --out"
    try:
        stored = importance_file.read(path)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; {advice}.") from None
    digests = importance_file.digests(model.parts.model.base_params)
    leaf = importance_file.difference(digests, stored.digests)
    if leaf is not None:
        raise UserError(
            f"{path} holds importance from another model (the leaf {leaf!r} differs); "
            f"{advice}."
        )


def read_experiment(
    path: pathlib.Path, overrides: Sequence[str], variant: str | None
) -> Experiment:
    """Reads an experiment file, and chooses one of its experiments.

    Args:
      path: the file.
      overrides: such as "data.val=0.2".
      variant: name of the experiment; None takes the only one.

    Raises:
      UserError: several experiments and no name, or an unknown name.
    """
    variants = experiment_file.read_file(path, *overrides).variants
    if variant is None and len(variants) == 1:
        return next(iter(variants.values()))
    if variant not in variants:
        raise UserError(
            f"--variant {variant!r}: expected one of the experiments of {path}"
            f"{nearest(variant, variants)} ({', '.join(map(repr, variants))})."
        )
    return variants[variant]
