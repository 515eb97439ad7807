"""Learning without forgetting: the source's head keeps its predictions."""

import dataclasses

import jax

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import source_network
from jaxtl.terms.regularizers.function_distance import kl_divergence


@dataclasses.dataclass(frozen=True, kw_only=True)
class LwF(Term):
    """KL(source ‖ old head on the model's features) at temperature T, mean over
    examples.

    The old head starts as the source's and is trained as a parameter of this term; the
    source's outputs come from θ₀ in evaluation mode. The value is the paper's
    cross-entropy L_old less the entropy of the source's outputs, which is constant, so
    the gradient is the paper's and the least value is 0. There is no factor T², as in
    the paper: set weight = T² for the gradient's size at T = 1.

    Attributes:
      temperature: T.
      stream: name of the stream.

    References:
      Li & Hoiem, Learning without Forgetting, TPAMI 40 (2018), eq. 2 and 3, with
      T = 2 and λ_o = 1.
    """

    temperature: float = traced(2.0)
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.task(setup, "LwF", "classification", "multilabel", "regression")
        source_network.check_head(setup, "LwF", trained=True)
        checks.stream(setup, "stream", self.stream)
        checks.positive(setup, "temperature", self.temperature)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        return source_network.head_init(setup)

    def __call__(self, context: View) -> jax.Array:
        source_logits = context.source_forward(self.stream).logits
        logits = source_network.head_logits(
            context, context.term_params, self.stream, train=True
        )
        value = kl_divergence(source_logits, logits, self.temperature)
        last = context.program.network.stages[-2]
        feature = context.forward(self.stream).features[last]
        return source_network.mean_over_tokens(value, feature, context.mean)
