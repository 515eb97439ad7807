"""First-order MAML: the inner steps count as constants in the gradient."""

import dataclasses

from jaxtl.core.types import PyTree
from jaxtl.terms.fewshot.base import EpisodeNetwork
from jaxtl.terms.fewshot.inner_loop import InnerLoopTerm, Loss, adapted


@dataclasses.dataclass(frozen=True, kw_only=True)
class FOMAML(InnerLoopTerm):
    """MAML whose gradient is ∇L_queries at θ′, without the derivative of θ′ by θ.

    References:
      Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, ICML 2017, section 5.2;
      Nichol, Achiam, Schulman, On First-Order Meta-Learning Algorithms,
      arXiv:1803.02999, section 2.
    """

    def adapt(self, loss: Loss, params: PyTree, network: EpisodeNetwork) -> PyTree:
        rates, keys = self.uniform_rates(params), self.keys(network)
        return adapted(
            loss, params, rates, keys, first_order=True, unroll=network.unroll
        )
