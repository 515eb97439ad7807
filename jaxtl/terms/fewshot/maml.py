"""MAML: an initialization from which a few gradient steps solve an episode."""

import dataclasses

from jaxtl.core.types import PyTree
from jaxtl.terms.fewshot.base import EpisodeNetwork
from jaxtl.terms.fewshot.inner_loop import InnerLoopTerm, Loss, adapted


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAML(InnerLoopTerm):
    """L_queries(θ′), θ′ = θ − α ∇L_support(θ) in `steps` steps, mean over episodes.

    The gradient by θ passes through the inner steps (second order). The paper takes 5
    steps of rate 0.01 on miniImageNet, and one of 0.4 on Omniglot (3 in evaluations).

    References:
      Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, ICML 2017, algorithm 2 and
      appendix A.1.
    """

    def adapt(self, loss: Loss, params: PyTree, network: EpisodeNetwork) -> PyTree:
        rates = self.uniform_rates(params)
        return adapted(loss, params, rates, self.keys(network), unroll=network.unroll)
