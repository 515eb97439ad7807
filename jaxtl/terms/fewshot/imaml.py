"""iMAML: the gradient through the solution of an episode, not through its steps."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.fewshot.base import EpisodeNetwork, EpisodeOutput
from jaxtl.terms.fewshot.inner_loop import (
    InnerLoopTerm,
    Loss,
    adapted,
    classified,
    support_loss,
    with_gradient,
)


def implicit_gradient(
    loss: Callable[[PyTree], jax.Array],
    solution: PyTree,
    gradient: PyTree,
    strength: float | jax.Array,
    iterations: int,
) -> PyTree:
    """(I + ∇²L(φ) / λ)⁻¹ g by conjugate gradients: dL_q(φ)/dθ for g = ∇L_q(φ).

    φ minimizes L(φ) + λ/2 ‖φ − θ‖².

    Args:
      loss: L, of the support.
      solution: φ.
      gradient: g, a tree like φ.
      strength: λ.
      iterations: of conjugate gradients, each with one Hessian-vector product.

    Returns:
      A tree like φ, after exactly `iterations` iterations.
    """

    def product(v: PyTree) -> PyTree:
        _, curvature = jax.jvp(jax.grad(loss), (solution,), (v,))
        return jax.tree.map(lambda a, b: a + b / strength, v, curvature)

    return cg(product, gradient, tol=0.0, maxiter=iterations)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMAML(InnerLoopTerm):
    """L_queries(φ), φ = argmin of L_support(φ) + λ/2 ‖φ − θ‖², mean over episodes.

    φ is found by `steps` steps of SGD, and the gradient by θ is `implicit_gradient`, so
    memory does not grow with the steps. The defaults are those of the authors' program
    for Omniglot, which adds damping to the linear system that this term has not.

    Attributes:
      strength: λ.
      iterations: of conjugate gradients.

    References:
      Rajeswaran, Finn, Kakade, Levine, Meta-Learning with Implicit Gradients, NeurIPS
      2019, eq. 3 and 6, algorithm 2; aravindr93/imaml_dev,
      examples/omniglot_implicit_maml.py.
    """

    steps: int = 16
    strength: float = traced(1.0)
    iterations: int = 5

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "strength", self.strength)
        checks.count(setup, "iterations", self.iterations)

    def adapt(self, loss: Loss, params: PyTree, network: EpisodeNetwork) -> PyTree:
        start = jax.lax.stop_gradient(params)

        def anchored(params: PyTree, key: jax.Array) -> jax.Array:
            squares = [
                jnp.square(a - b).sum()
                for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(start))
            ]
            return loss(params, key) + 0.5 * self.strength * sum(squares)

        rates, keys = self.uniform_rates(params), self.keys(network)
        return adapted(
            anchored, start, rates, keys, first_order=True, unroll=network.unroll
        )

    def solved(
        self,
        network: EpisodeNetwork,
        support: tuple[PyTree, jax.Array],
        queries: tuple[PyTree, jax.Array],
    ) -> EpisodeOutput:
        if not network.training:
            return super().solved(network, support, queries)
        params, rest = trees.partition(network.params, network.mask)
        loss = functools.partial(support_loss, network, rest, *support)
        solution = jax.lax.stop_gradient(self.adapt(loss, params, network))

        def of_queries(solution: PyTree) -> tuple[jax.Array, EpisodeOutput]:
            output = classified(network, trees.merge(solution, rest), *queries)
            return output.loss, output

        gradient, output = jax.grad(of_queries, has_aux=True)(solution)
        gradient = implicit_gradient(
            functools.partial(loss, key=network.key),
            solution,
            gradient,
            self.strength,
            self.iterations,
        )
        return output._replace(loss=with_gradient(output.loss, params, gradient))
