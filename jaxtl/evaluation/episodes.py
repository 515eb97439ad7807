"""Evaluation over few-shot episodes: a learner classifies the queries of each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation, config, serialization, sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import Network, PyTree
from jaxtl.data import class_splits, device_stream, preprocess
from jaxtl.data.episodic import Episodes
from jaxtl.evaluation import forward
from jaxtl.models.precision import compute_in
from jaxtl.terms.fewshot.base import EpisodeNetwork, EpisodicTerm, split_queries
from jaxtl.terms.fewshot.inner_loop import InnerLoopTerm
from jaxtl.terms.fewshot.protonet import ProtoNet

if TYPE_CHECKING:
    from jaxtl.evaluation.forward import Evaluable, EvaluationModel

INTERVAL = 1.96  # standard errors on each side of a 95 % interval


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """What classifies the queries of an episode from its support.

    Attributes:
      term: an experiment's first term over episodes.
      term_params: the term's own parameters.
      trainable: paths of the parameters that it may adapt to an episode.
      train_stages, frozen_stats: as in `terms.Program`, for a transductive term.
    """

    term: EpisodicTerm
    term_params: PyTree
    trainable: tuple[str, ...]
    train_stages: tuple[str, ...] = ()
    frozen_stats: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the term's parameters, as JSON."""
        return {
            "term": serialization.to_json(self.term),
            "trainable": list(self.trainable),
            "train_stages": list(self.train_stages),
            "frozen_stats": list(self.frozen_stats),
        }


def from_json(stored: Mapping[str, Any], term_params: PyTree) -> Learner:
    """The learner of `Learner.to_json`."""
    names = ("trainable", "train_stages", "frozen_stats")
    lists = {name: tuple(stored[name]) for name in names}
    return Learner(serialization.from_json(stored["term"]), term_params, **lists)


def learning_term(terms: Mapping[str, Any]) -> tuple[str, EpisodicTerm]:
    """(Name, term) of the first term over episodes; ProtoNet where there is none."""
    named = ((n, term) for n, term in terms.items() if isinstance(term, EpisodicTerm))
    return next(named, ("", ProtoNet()))


def predict(
    run: Evaluable, params: PyTree, stats: PyTree, split: str, which: str = "current"
) -> tuple[np.ndarray, np.ndarray]:
    """Classifies the queries of a split's episodes; a note of the accuracy is added.

    Args:
      run: whose target consists of episodes.
      params, stats: of the model.
      split: name of the split.
      which: "current" or "best", for the parameters of the term.

    Returns:
      (logits (episodes · ways · queries, ways) float32, places (n,) of their classes).
    """
    dataset, model = run.datasets["target"], run.evaluation_model()
    learner, episodes = run.learner(which), dataset.episodes
    assert episodes is not None
    table = class_splits.evaluation_episodes(dataset, split)
    table = table.reshape(len(table), -1)
    static = (_classified, config.without_hyperparameters(learner.term), episodes)
    static += (learner.trainable, learner.train_stages, learner.frozen_stats)
    static += (model.network, model.dtype, model.preprocess)
    platform = model.mesh.devices.flat[0].platform
    call = compilation.cached_jit(
        *static, platform == "cpu", options=compilation.options(platform)
    )
    numbers = config.hyperparameters(learner.term)
    weights = (params, stats, learner.term_params, numbers)
    read = _reader(dataset, model)

    def logits_of(numbers: np.ndarray) -> jax.Array:
        return call(weights, read(table[numbers]), numbers)

    width = max(1, min(model.batch // table.shape[1], len(table)))
    if platform == "cpu" and isinstance(learner.term, InnerLoopTerm):
        width = 1  # see `side_by_side`
    logits = forward.in_batches(logits_of, np.arange(len(table)), width)
    logits = np.asarray(logits, np.float32)
    labels = split_queries(episodes.labels(table.shape[1]), episodes)[1]
    run.notes[f"episodes of {split}"] = describe(logits, labels, learner.term)
    return logits.reshape(-1, episodes.ways), np.tile(labels, len(table))


def describe(logits: np.ndarray, labels: np.ndarray, term: EpisodicTerm) -> str:
    """The mean accuracy of episodes, with its 95 % interval.

    Args:
      logits: (episodes, queries, ways).
      labels: (queries,), the same in every episode.
      term: that computed them.

    Returns:
      A sentence; the accuracy is NaN where logits are not finite, as in metrics.
    """
    hits = (logits.argmax(-1) == labels).mean(1)
    hits = np.where(np.isfinite(logits).all((1, 2)), hits, np.nan)
    start, mean = type(term).__name__, f"{100 * hits.mean():.2f}"
    if len(hits) == 1:
        return f"{start} classifies {mean} % of the queries of one episode"
    half = INTERVAL * hits.std(ddof=1) / np.sqrt(len(hits))
    return (
        f"{start} classifies {mean} ± {100 * half:.2f} % of the queries, mean and 95 % "
        f"interval over {len(hits)} episodes"
    )


def _reader(dataset: Any, model: EvaluationModel) -> Any:
    """Reads rows (episodes, n) of stored examples, on the device or on the host."""
    replicated = sharding.replicated(model.mesh)
    if not device_stream.fits(dataset, model.device_bytes):
        return functools.partial(_read_on_host, dataset, replicated)
    x = device_stream.inputs(dataset, replicated)
    return lambda rows: jax.tree.map(lambda values: values[rows], x)


def _read_on_host(
    dataset: Any, placement: jax.sharding.Sharding, rows: np.ndarray
) -> PyTree:
    x = forward.stored_examples(dataset, rows.ravel())
    x = jax.tree.map(lambda values: values.reshape(*rows.shape, *values.shape[1:]), x)
    return sharding.put(x, placement)


def _classified(
    term: EpisodicTerm,
    episodes: Episodes,
    trainable: tuple[str, ...],
    train_stages: tuple[str, ...],
    frozen_stats: tuple[str, ...],
    network: Network,
    dtype: str,
    pre: preprocess.Preprocess,
    unroll: bool,
    weights: tuple[PyTree, ...],
    x: PyTree,
    numbers: jax.Array,
) -> jax.Array:
    """Logits (episodes, ways · queries, ways) of stored examples (episodes, n, …)."""
    params, stats, term_params, hyperparameters = weights
    term = config.with_hyperparameters(term, hyperparameters)
    network = compute_in(network, dtype)
    paths = set(trainable)
    mask = trees.map_with_path(lambda path, _: path in paths, params)
    y = jnp.asarray(episodes.labels(episodes.ways * episodes.per_class))
    train = train_stages if term.transductive else ()

    def run(x: PyTree, params: PyTree = params, **settings: Any) -> Any:
        settings = {name: v for name, v in settings.items() if v is not None}
        return network.apply(
            params, stats, x, train=train, frozen_stats=frozen_stats, **settings
        )

    def of_one(x: PyTree, number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(episodes.seed), number)
        own = EpisodeNetwork(
            network,
            run,
            params,
            mask,
            term_params,
            key,
            unroll=unroll,
            training=False,
        )
        x = preprocess.apply(pre, x)
        return term.episode(own, x, y, episodes).logits

    return jax.vmap(of_one)(x, numbers)
