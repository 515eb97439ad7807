"""Meta-SGD: the learning rate of every parameter is learned with its initialization."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms.base import Setup
from jaxtl.terms.fewshot.base import EpisodeNetwork
from jaxtl.terms.fewshot.inner_loop import InnerLoopTerm, Loss, adapted


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaSGD(InnerLoopTerm):
    """L_queries(θ − α ⊙ ∇L_support(θ)), minimized by θ and by α, of θ's shape.

    Attributes:
      rate: every α at the beginning; the paper draws them from [0.005, 0.1].

    References:
      Li, Zhou, Chen, Li, Meta-SGD, arXiv:1707.09835, eq. 3, with one inner step.
    """

    steps: int = 1
    rate: float = traced(0.05)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        del key
        moves = trees.restrict(setup.params, setup.program.trainable_mask)
        return {"rates": jax.tree.map(lambda p: jnp.full_like(p, self.rate), moves)}

    def adapt(self, loss: Loss, params: PyTree, network: EpisodeNetwork) -> PyTree:
        rates = trees.like(params, network.term_params["rates"])
        return adapted(loss, params, rates, self.keys(network), unroll=network.unroll)
