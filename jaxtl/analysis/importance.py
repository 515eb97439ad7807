"""Importance of a trained model's parameters: computed for a run, stored beside it."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import pretrained
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Batch, Network, PyTree
from jaxtl.data import lazy_array, preprocess, streams
from jaxtl.optim import optimizer
from jaxtl.terms.regularizers import dense_layers, importance_file
from jaxtl.terms.regularizers import fisher as equations
from jaxtl.terms.regularizers import kfac as factors
from jaxtl.training import build, experiment_file, run_dir
from jaxtl.training.experiment import Experiment


def fisher(network: Network, params, stats, batches, *, task, key):
    """The Fisher information's diagonal, labels being the model's own."""

    def equation(params, stats, x, y, key, chunk):
        f = _logits(network, stats)
        return equations.diagonal_fisher(f, params, x, task=task, key=key, chunk=chunk)

    return equations.mean(equation, params, stats, batches, key)


def empirical(network: Network, params, stats, batches, *, task, key):
    """The Fisher information's diagonal with the data's labels ("empirical")."""

    def equation(params, stats, x, y, key, chunk):
        f = _logits(network, stats)
        return equations.diagonal_fisher(f, params, x, y, task=task, chunk=chunk)

    return equations.mean(equation, params, stats, batches, key)


def mas(network: Network, params, stats, batches, *, task, key):
    """Memory-aware synapses; needs no labels."""

    def equation(params, stats, x, y, key, chunk):
        return equations.mas(_logits(network, stats), params, x, task=task, chunk=chunk)

    return equations.mean(equation, params, stats, batches, key)


def kfac(network: Network, params, stats, batches, *, task, key):
    """Kronecker factors of the Fisher information, its diagonal for other leaves."""
    if network.taps is None or not dense_layers.paths(params):
        raise UserError(
            "--kind kfac is about dense layers, and this model shows none; use "
            "--kind fisher."
        )

    def equation(params, stats, x, y, key, chunk):
        return factors.fisher(
            network, params, stats, x, task=task, key=key, chunk=chunk
        )

    return equations.mean(equation, params, stats, batches, key)


# kind -> function of (network, params, stats, batches, *, task, key) that returns
# {name: numpy array}; a diagonal kind names its arrays by the leaves' paths. `batches`
# yields {"x": preprocessed, "y"}, each example once; the last one may be smaller.
KINDS: dict[str, Callable[..., Mapping[str, np.ndarray]]] = {
    "fisher": fisher,
    "empirical": empirical,
    "mas": mas,
    "kfac": kfac,
}


def _logits(network: Network, stats: PyTree):
    return lambda params, x: network.apply(params, stats, x).logits


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model and its data, as importance reads them.

    Attributes:
      parts: what the experiment was assembled to; its initial weights are those whose
        importance is asked for.
      exp: the experiment, of which nothing is left that concerns training.
    """

    parts: Any
    exp: Experiment

    @property
    def fresh(self) -> list[str]:
        """Paths of the parameters that have no source, but random values."""
        known = set(trees.flatten(self.parts.fixed.source.params))
        return [
            p for p in trees.flatten(self.parts.model.base_params) if p not in known
        ]

    def batches(self, rows: np.ndarray, split: str) -> Iterator[Batch]:
        """Yields the rows' examples once, preprocessed."""
        dataset = self.parts.datasets["target"]
        labels = dataset.y if split == "train" else dataset.y_clean
        for at in range(0, len(rows), self.exp.evaluate_batch):
            chunk = rows[at : at + self.exp.evaluate_batch]
            x = lazy_array.gather(dataset.x, chunk)
            x = preprocess.apply(self.parts.model.preprocess["target"], x)
            yield {"x": x, "y": jnp.asarray(labels[chunk])}


def of_run(out: str | pathlib.Path) -> Model:
    """Returns a finished run's model at its best weights.

    Raises:
      UserError: if there is no run, or it can't be read.
    """
    exp = run_dir.read_experiment(pathlib.Path(out))
    return of_experiment(dataclasses.replace(exp, init=pretrained.FromRun(str(out))))


def of_experiment(exp: Experiment) -> Model:
    """Returns an experiment's model at the weights that its init= loads.

    Raises:
      UserError: if it starts from scratch, or can't be assembled.
    """
    if exp.init is None:
        raise UserError(
            "this experiment starts from scratch, so there are no trained weights "
            "whose importance could be computed; give it an init=."
        )
    # Its terms may themselves read the importance that is to be computed.
    bare = dataclasses.replace(
        exp,
        streams={},
        terms={},
        optim=optimizer.SGD(momentum=0.0),
        steps=0,
        batch=1,
        accumulate=1,
        dtype="float32",
        devices=1,
        param_shards=1,
        device_bytes=0,
    )
    return Model(build.assemble(bare), bare)


def compute(
    model: Model,
    kind: str = "fisher",
    split: str = "train",
    examples: int | None = None,
) -> importance_file.Importance:
    """Computes importance, in evaluation mode and float32.

    Args:
      model: from `of_run` or `of_experiment`.
      kind: one of `KINDS`.
      split: of the target data.
      examples: how many of them, drawn by the experiment's seed; None takes all.

    Raises:
      UserError: for an unknown kind or split, more examples than there are, or
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
    arrays = KINDS[kind](
        parts.model.network,
        parts.model.base_params,
        parts.model.stats,
        model.batches(rows, split),
        task=parts.program.task,
        key=jax.random.key(model.exp.seed),
    )
    arrays = {name: np.asarray(x) for name, x in arrays.items()}
    broken = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    if broken:
        raise UserError(
            f"the importance of {broken[0]!r} holds NaN or infinity, so nothing was "
            "written; are the model's outputs finite?"
        )
    digests = importance_file.digests(parts.model.base_params)
    return importance_file.Importance(kind, arrays, digests, len(rows), split)


def check_kind(kind: str) -> None:
    """Raises UserError for a kind that is not known."""
    if kind not in KINDS:
        raise UserError(
            f"--kind {kind!r} is unknown{nearest(kind, KINDS)} "
            f"(known: {', '.join(KINDS)})."
        )


def _rows(model: Model, split: str, examples: int | None) -> np.ndarray:
    dataset = model.parts.datasets["target"]
    rows = streams.split_rows(dataset, split)
    if len(rows) == 0:
        raise UserError(f"the split {split!r} is empty.")
    if examples is None:
        return rows
    if not 1 <= examples <= len(rows):
        raise UserError(
            f"--examples {examples}: expected a number from 1 to {len(rows)}, which is "
            f"what the split {split!r} has."
        )
    drawn = np.random.default_rng(model.exp.seed).permutation(len(rows))[:examples]
    return rows[np.sort(drawn)]


def refuse(path: pathlib.Path, model: Model) -> None:
    """Raises UserError if a file lies there that is not this model's importance."""
    if not path.exists():
        return
    again = "pass --overwrite to replace it, or choose another --out"
    try:
        found = importance_file.read(path)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; {again}.") from None
    ours = importance_file.digests(model.parts.model.base_params)
    other = importance_file.difference(ours, found.digests)
    if other is not None:
        raise UserError(
            f"{path} holds importance from another model (the leaf {other!r} differs); "
            f"{again}."
        )


def read_file(path: pathlib.Path, overrides, variant: str | None) -> Experiment:
    """Returns the one experiment of a file that is meant.

    Raises:
      UserError: if the file has several and none was named, or not that one.
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
