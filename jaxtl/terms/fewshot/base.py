"""What all terms over episodes share: the layout of a batch, and the network of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, PyTree, vectors
from jaxtl.data.episodic import Episodes
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View


class EpisodeNetwork(NamedTuple):
    """A network with its weights, as it classifies episodes.

    Attributes:
      network: its pure functions.
      run: `(x, params=…, key=…, start=…, stop=…) -> Output`, a pass with the statistics
        and in the mode of the step, or of the evaluation.
      params: all parameters.
      mask: tree of bools: which of them are trainable.
      term_params: the term's own.
      key: PRNG key of the episode.
      start: the stage that reads the inputs, None for the first.
      unroll: whether loops are written out, as XLA's CPU backend runs convolutions
        slowly inside loops.
      training: whether the term trains, else it is evaluated.
    """

    network: Network
    run: Callable[..., Output]
    params: PyTree
    mask: PyTree
    term_params: PyTree
    key: jax.Array
    start: str | None = None
    unroll: bool = False
    training: bool = True


class EpisodeOutput(NamedTuple):
    """The result of one episode.

    Attributes:
      logits: of its queries, (ways · queries, ways).
      loss: a scalar that training minimizes.
      stats: BatchNorm statistics after its passes.
    """

    logits: jax.Array
    loss: jax.Array
    stats: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodicTerm(Term):
    """Base class of terms over episodes: the mean of a loss over the episodes.

    Training normalizes by the statistics of the batch that passes (BatchNorm).
    Validation episodes, too, are classified by the term: the first one of an
    experiment, in the order of its terms. Micro-batches hold whole episodes. Reports
    the accuracy on the queries.

    Attributes:
      stream: stream of the episodes, data with `sampling=tl.data.Episodes(…)`.
      transductive: whether evaluations normalize by the statistics of the batch that
        passes as well, so that queries of an episode see each other; else by the
        running ones.
    """

    stream: str = stream_field("target")
    transductive: bool = False

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        name = type(self).__name__
        checks.task(setup, name, "classification")
        if self.stream not in setup.program.episodes:
            episodic = ", ".join(setup.program.episodes) or "none"
            raise UserError(
                f"{checks.where(setup, 'stream')}={self.stream!r}: {name} reads "
                "episodes, and this stream has single examples; give its data "
                "sampling=tl.data.Episodes(ways=5, shots=1) (streams of episodes: "
                f"{episodic})."
            )

    def describe(self, setup: Setup) -> str:
        if not jax.tree.leaves(setup.stats):
            return ""
        return (
            "BatchNorm takes the statistics of the batch that passes, in evaluations "
            "as well (transductive)"
            if self.transductive
            else "in evaluations BatchNorm takes the running statistics (inductive)"
        )

    def episode(
        self, network: EpisodeNetwork, x: PyTree, y: jax.Array, episodes: Episodes
    ) -> EpisodeOutput:
        """Classifies the queries of one episode.

        Args:
          network: with its weights.
          x, y: (ways · (shots + queries), …), inputs and labels of its examples.
          episodes: their layout.
        """
        raise TypeError(f"{type(self).__name__} defines no episode(…)")

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        episodes = context.program.episodes[self.stream]
        x, start = context.entry(self.stream)
        x, y = per_episode((x, context.batches[self.stream]["y"]), episodes)
        keys = jax.random.split(context.key, len(y))
        unroll = context.program.mesh.devices.flat[0].platform == "cpu"

        def of_one(x: PyTree, y: jax.Array, key: jax.Array) -> EpisodeOutput:
            network = EpisodeNetwork(
                network=context.program.network,
                run=context.run,
                params=context.params,
                mask=context.program.trainable_mask,
                term_params=context.term_params,
                key=key,
                start=start,
                unroll=unroll,
            )
            return self.episode(network, x, y, episodes)

        output = side_by_side(of_one, unroll, x, y, keys)
        stats = jax.tree.map(lambda s: s.mean(0), output.stats)
        context.keep_stats(stats, self.stream)
        _, labels = split_queries(y[0], episodes)
        accuracy = losses.label_accuracy(
            output.logits.reshape(-1, episodes.ways), jnp.tile(labels, len(y))
        )
        return output.loss.mean(), {"accuracy": accuracy}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureTerm(EpisodicTerm):
    """Base class of terms that classify queries by the features of the support.

    The head of the model is not used, nor trained by the term. All episodes of a batch
    pass through the model together.

    Attributes:
      stage: whose output the features are; None takes the last one before the head, as
        the head reads it.
    """

    stage: str | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        if self.stage is not None:
            checks.stage(setup, "stage", self.stage)

    def classify(
        self, term_params: PyTree, support: jax.Array, queries: jax.Array
    ) -> jax.Array:
        """Logits of queries by the support of their episode.

        Args:
          term_params: the term's own.
          support: (ways, shots, width).
          queries: (n, width).

        Returns:
          (n, ways).
        """
        raise TypeError(f"{type(self).__name__} defines no classify(…)")

    def loss(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Mean loss of the queries, a scalar."""
        return losses.cross_entropy(logits, labels)

    def feature_width(self, setup: Setup) -> int:
        """Width of the features that are compared."""
        shapes = jax.eval_shape(
            lambda features: self.features(
                setup.program.network, Output(None, features, {})
            ),
            dict(setup.features),
        )
        return shapes.shape[-1]

    def features(self, network: Network, output: Output) -> jax.Array:
        """The features that are compared, (batch, width), float32 or wider."""
        name = feature_stage(network.stages, self.stage)
        feature = output.features[name]
        reads_head = name == network.stages[-2:][0] and self.stage is None
        if network.reduce is not None and reads_head and len(network.stages) > 1:
            feature = network.reduce(feature)
        return vectors(feature)

    def episode(
        self, network: EpisodeNetwork, x: PyTree, y: jax.Array, episodes: Episodes
    ) -> EpisodeOutput:
        output = network.run(x, key=network.key, start=network.start)
        features = self.features(network.network, output)
        logits, loss = self._logits(network.term_params, features, y, episodes)
        return EpisodeOutput(logits, loss, output.stats)

    def _logits(
        self,
        term_params: PyTree,
        features: jax.Array,
        y: jax.Array,
        episodes: Episodes,
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of the queries of one episode, and their loss."""
        support, queries = split_queries(features, episodes)
        support = support.reshape(episodes.ways, episodes.shots, -1)
        logits = self.classify(term_params, support, queries)
        return logits, self.loss(logits, split_queries(y, episodes)[1])

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        episodes = context.program.episodes[self.stream]
        output = context.forward(self.stream)
        features = self.features(context.program.network, output)
        features, y = per_episode(
            (features, context.batches[self.stream]["y"]), episodes
        )

        def of_one(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self._logits(context.term_params, x, y, episodes)

        logits, loss = jax.vmap(of_one)(features, y)
        labels = jax.vmap(lambda y: split_queries(y, episodes)[1])(y)
        accuracy = losses.label_accuracy(
            logits.reshape(-1, episodes.ways), labels.reshape(-1)
        )
        return loss.mean(), {"accuracy": accuracy}


def side_by_side(function: Callable[..., Any], unroll: bool, *arrays: PyTree) -> Any:
    """A function of each episode, by `vmap`, or written out one after the other.

    Weights that differ between episodes make a convolution under `vmap` one of groups,
    which XLA's CPU backend computes many times slower.

    Args:
      function: of one episode.
      unroll: whether to write the calls out.
      *arrays: arguments, (episodes, …) each.
    """
    if not unroll:
        return jax.vmap(function)(*arrays)
    count = len(jax.tree.leaves(arrays)[0])
    outputs = [
        function(*jax.tree.map(lambda a, i=i: a[i], arrays)) for i in range(count)
    ]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)


def per_episode(batch: PyTree, episodes: Episodes) -> PyTree:
    """Arrays of (episodes · n, …) as (episodes, n, …), n examples of an episode."""
    size = episodes.ways * episodes.per_class
    return jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), batch)


def split_queries(batch: PyTree, episodes: Episodes) -> tuple[PyTree, PyTree]:
    """Support and queries of one episode.

    Args:
      batch: arrays (ways · (shots + queries), …).
      episodes: their layout.

    Returns:
      Arrays (ways · shots, …) and (ways · queries, …).
    """

    def part(first: int, end: int) -> PyTree:
        def of(a: jax.Array) -> jax.Array:
            a = a.reshape(episodes.ways, episodes.per_class, *a.shape[1:])
            return a[:, first:end].reshape(-1, *a.shape[2:])

        return jax.tree.map(of, batch)

    return part(0, episodes.shots), part(episodes.shots, episodes.per_class)
