"""The inner loop of gradient-based meta-learning: steps of SGD on an episode's support.

The step is differentiable, so that the gradient of the queries' loss passes through it.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data.episodic import Episodes
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup
from jaxtl.terms.fewshot.base import (
    EpisodeNetwork,
    EpisodeOutput,
    EpisodicTerm,
    split_queries,
)

Loss = Callable[[PyTree, jax.Array], jax.Array]  # (parameters, key) -> a scalar


def adapted(
    loss: Loss,
    params: PyTree,
    rates: PyTree,
    keys: jax.Array,
    *,
    first_order: bool = False,
    unroll: bool = False,
) -> PyTree:
    """θ after one step θ ← θ − α ⊙ ∇L(θ) for each key.

    Args:
      loss: L, of the parameters and a key.
      params: θ.
      rates: α, a tree like θ.
      keys: (steps,) PRNG keys.
      first_order: take ∇L as constant, so that the derivative of the result by θ is 1.
      unroll: write the steps out in place of a loop.
    """

    def step(params: PyTree, key: jax.Array) -> tuple[PyTree, None]:
        gradient = jax.grad(loss)(params, key)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        moved = jax.tree.map(
            lambda p, a, g: p - (a * g).astype(p.dtype), params, rates, gradient
        )
        return moved, None

    return jax.lax.scan(step, params, keys, unroll=unroll)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerLoopTerm(EpisodicTerm):
    """Base class of terms that adapt parameters to an episode by steps of plain SGD.

    The model needs a head of as many outputs as an episode has ways. Only trainable
    parameters are adapted; with a reparametrization those of the merged model. Each
    pass takes its own batch's statistics (BatchNorm): the support's in the inner steps,
    the queries' in the last pass, which update the running ones.

    Attributes:
      steps: inner steps.
      rate: α, their learning rate.
      test_steps: inner steps of evaluations, None for `steps`.
      transductive: as in `EpisodicTerm`; True is how the published figures are made.
    """

    steps: int = 5
    rate: float = traced(0.01)
    test_steps: int | None = None
    transductive: bool = True

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.count(setup, "steps", self.steps)
        if self.test_steps is not None:
            checks.count(setup, "test_steps", self.test_steps)
        checks.number(setup, "rate", self.rate, 0.0)
        ways = setup.program.episodes[self.stream].ways
        outputs = setup.program.outputs
        if outputs != ways:
            raise UserError(
                f"terms.{setup.name}: {type(self).__name__} needs a head of as many "
                f"outputs as an episode has classes, ways={ways}, but the model has "
                f"{outputs}; leave model.outputs out, or set it to {ways}."
            )
        mask = self.adapted_mask(setup.program.trainable_mask, setup.program.network)
        if not any(jax.tree.leaves(mask)):
            raise UserError(
                f"terms.{setup.name}: every parameter that {type(self).__name__} would "
                "adapt to an episode is frozen; unfreeze one with optim.groups."
            )

    def adapted_mask(self, mask: PyTree, network: Network) -> PyTree:
        """Which of the trainable parameters the inner steps move, a tree of bools."""
        del network
        return mask

    def adapt(self, loss: Loss, params: PyTree, network: EpisodeNetwork) -> PyTree:
        """The parameters after the inner steps.

        Args:
          loss: of the support, by the adapted parameters.
          params: these before the steps, None at all other leaves.
          network: of the episode.
        """
        raise TypeError(f"{type(self).__name__} defines no adapt(…)")

    def keys(self, network: EpisodeNetwork) -> jax.Array:
        """A PRNG key for each inner step."""
        count = self.steps if network.training else self.test_steps or self.steps
        return jax.random.split(network.key, count)

    def uniform_rates(self, params: PyTree) -> PyTree:
        """The learning rate at every leaf."""
        return jax.tree.map(lambda _: self.rate, params)

    def episode(
        self, network: EpisodeNetwork, x: PyTree, y: jax.Array, episodes: Episodes
    ) -> EpisodeOutput:
        return self.solved(network, *split_queries((x, y), episodes))

    def solved(
        self,
        network: EpisodeNetwork,
        support: tuple[PyTree, jax.Array],
        queries: tuple[PyTree, jax.Array],
    ) -> EpisodeOutput:
        """Adapts to the support and classifies the queries, (inputs, labels) both."""
        mask = self.adapted_mask(network.mask, network.network)
        params, rest = trees.partition(network.params, mask)
        loss = functools.partial(support_loss, network, rest, *support)
        params = self.adapt(loss, params, network)
        return classified(network, trees.merge(params, rest), *queries)


def query_key(network: EpisodeNetwork) -> jax.Array:
    """PRNG key of the pass of the queries, which no inner step has."""
    # `split` gives the keys that folding in 0, 1, … gives.
    return jax.random.fold_in(network.key, 1_000_000)


def with_gradient(value: jax.Array, params: PyTree, gradient: PyTree) -> jax.Array:
    """A value whose gradient by the parameters is a tree like them."""
    stop = jax.lax.stop_gradient
    products = jax.tree.map(
        lambda p, g: jnp.sum((p - stop(p)) * stop(g).astype(p.dtype)), params, gradient
    )
    return stop(value) + sum(jax.tree.leaves(products))


def support_loss(
    network: EpisodeNetwork,
    rest: PyTree,
    x: PyTree,
    y: jax.Array,
    params: PyTree,
    key: jax.Array,
) -> jax.Array:
    """Mean cross-entropy of examples, as a function of some of the parameters.

    Args:
      network: of the episode.
      rest: the other parameters, None at the leaves of `params`.
      x, y: the examples.
      params: some parameters.
      key: of the pass.
    """
    whole = trees.merge(params, rest)
    output = network.run(x, params=whole, key=key, start=network.start)
    return losses.cross_entropy(output.logits, y)


def classified(
    network: EpisodeNetwork, params: PyTree, x: PyTree, y: jax.Array
) -> EpisodeOutput:
    """The logits of queries and their mean cross-entropy, by these parameters."""
    key = query_key(network)
    output = network.run(x, params=params, key=key, start=network.start)
    loss = losses.cross_entropy(output.logits, y)
    return EpisodeOutput(output.logits, loss, output.stats)
