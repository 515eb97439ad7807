"""Reptile: the initialization moves towards the parameters that solve an episode."""

import dataclasses
import functools

import jax

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.data.episodic import Episodes
from jaxtl.terms.fewshot.base import EpisodeNetwork, EpisodeOutput, split_queries
from jaxtl.terms.fewshot.inner_loop import (
    InnerLoopTerm,
    Loss,
    adapted,
    classified,
    support_loss,
    with_gradient,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reptile(InnerLoopTerm):
    """Its gradient is θ − θ′, θ′ after `steps` steps on all examples of an episode.

    With SGD of learning rate ε the model takes the paper's step θ + ε (θ′ − θ), mean
    over episodes. Queries have no part of their own in training; evaluations adapt to
    the support. The value, and the accuracy, are those of the queries at θ′. Each inner
    step takes the whole episode, by plain SGD, where the authors' program takes
    batches of 10 by Adam with β₁ = 0 and rate 0.001.

    References:
      Nichol, Achiam, Schulman, On First-Order Meta-Learning Algorithms,
      arXiv:1803.02999, algorithm 2; 0.02 is the rate of its sine waves.
    """

    rate: float = traced(0.02)

    def adapt(self, loss: Loss, params: PyTree, network: EpisodeNetwork) -> PyTree:
        rates, keys = self.uniform_rates(params), self.keys(network)
        return adapted(
            loss, params, rates, keys, first_order=True, unroll=network.unroll
        )

    def episode(
        self, network: EpisodeNetwork, x: PyTree, y: jax.Array, episodes: Episodes
    ) -> EpisodeOutput:
        if not network.training:
            return super().episode(network, x, y, episodes)
        params, rest = trees.partition(network.params, network.mask)
        loss = functools.partial(support_loss, network, rest, x, y)
        solution = jax.lax.stop_gradient(self.adapt(loss, params, network))
        queries = split_queries((x, y), episodes)[1]
        output = classified(network, trees.merge(solution, rest), *queries)
        gradient = trees.sub(params, solution)
        value = with_gradient(output.loss, params, gradient)
        return output._replace(loss=value)
