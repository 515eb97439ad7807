"""ANIL: almost no inner loop, only the head is adapted to an episode."""

import dataclasses

import jax

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import Network, Output, PyTree
from jaxtl.data.episodic import Episodes
from jaxtl.terms.fewshot.base import EpisodeNetwork, EpisodeOutput, split_queries
from jaxtl.terms.fewshot.inner_loop import InnerLoopTerm, Loss, adapted, query_key


@dataclasses.dataclass(frozen=True, kw_only=True)
class ANIL(InnerLoopTerm):
    """MAML whose inner steps move the head alone; the body learns by their outcome.

    The body runs once per episode for the support, and once for the queries. The
    defaults are those of learn2learn's example on FC100.

    References:
      Raghu, Raghu, Bengio, Vinyals, Rapid Learning or Feature Reuse?, ICLR 2020;
      learn2learn, examples/vision/anil_fc100.py.
    """

    rate: float = traced(0.1)

    def adapted_mask(self, mask: PyTree, network: Network) -> PyTree:
        head = network.stages[-1]
        return trees.map_with_path(
            lambda path, moves: moves and path.split("/")[0] == head, mask
        )

    def adapt(self, loss: Loss, params: PyTree, network: EpisodeNetwork) -> PyTree:
        rates = self.uniform_rates(params)
        return adapted(loss, params, rates, self.keys(network), unroll=network.unroll)

    def episode(
        self, network: EpisodeNetwork, x: PyTree, y: jax.Array, episodes: Episodes
    ) -> EpisodeOutput:
        stages = network.network.stages
        if not network.network.can_start or network.start == stages[-1]:
            return super().episode(network, x, y, episodes)
        (support, labels), (queries, places) = split_queries((x, y), episodes)

        def body(x: PyTree, key: jax.Array) -> Output:
            return network.run(x, key=key, start=network.start, stop=stages[-2])

        head = network._replace(start=stages[-1])
        last = body(queries, query_key(network))
        examples = (body(support, network.key).logits, labels)
        output = self.solved(head, examples, (last.logits, places))
        return output._replace(stats=last.stats)
