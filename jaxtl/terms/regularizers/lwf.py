"""Learning without forgetting: the old head goes on answering as it did."""

import dataclasses

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import source_network
from jaxtl.terms.regularizers.function_distance import kl_divergence


@dataclasses.dataclass(frozen=True, kw_only=True)
class LwF(Term):
    """KL(source ‖ old head on the model's features) at temperature T, mean over
    examples.

    The old head starts as the source's and is trained along (it is this term's own
    parameters); the source's answers come from θ₀ in evaluation mode. Against the
    paper's cross-entropy L_old the value lacks the entropy of those answers, which no
    parameter moves, so the gradient is the paper's and 0 is the least value. There is
    no factor T², as in the paper: give weight = T² for the gradient's size at T = 1.

    Attributes:
      temperature: T.
      stream: name of the stream.

    References:
      Li & Hoiem, Learning without Forgetting, TPAMI 40 (2018), eq. 2 and 3, with
      T = 2 and λ_o = 1.
    """

    temperature: float = traced(2.0)
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.task(setup, "LwF", "classification", "multilabel", "regression")
        source_network.needs_head(setup, "LwF", trained=True)
        checks.stream(setup, "stream", self.stream)
        checks.positive(setup, "temperature", self.temperature)

    def init(self, key, setup):
        return source_network.head_init(setup)

    def __call__(self, context):
        theirs = context.source_forward(self.stream).logits
        ours = source_network.head_logits(
            context, context.term_params, self.stream, train=True
        )
        value = kl_divergence(theirs, ours, self.temperature)
        feature = context.forward(self.stream).features[
            context.program.network.stages[-2]
        ]
        return source_network.mean(value, feature)
