"""Group DRO: minimise the risk of the worst domain, by weights that follow it."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.generalization import base


def reweighted(log_weights: jax.Array, risks: jax.Array, eta) -> jax.Array:
    """One step of exponentiated gradient ascent: q_g ← q_g·exp(η·R_g), Σ_g q_g = 1.

    Args:
      log_weights: log q, (domains,); kept as logarithms, since weights underflow.
      risks: R, (domains,).
      eta: η ≥ 0.

    Returns:
      The new log q.
    """
    moved = log_weights + eta * jax.lax.stop_gradient(risks)
    return jax.nn.log_softmax(moved)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupDRO(Term):
    """Σ_g q_g·R_g over domains, with q moved towards the worst before each step.

    A task term by itself. q is state and begins uniform; R_g is a domain's mean
    cross-entropy in nats. Reports the largest risk, the worst domain's accuracy and
    the largest weight.

    Attributes:
      streams: of the labelled domains, two or more.
      eta: step size of q.
      adjustment: C, which adds C / √n_g to R_g where q moves and in the loss, n_g
        being the domain's number of train examples; 0 is plain.

    References:
      Sagawa et al., Distributionally Robust Neural Networks, ICLR 2020, algorithm 1
      and (C) eq. 5; η = 0.01 there.
    """

    streams: tuple[str, ...] = ()
    eta: float = traced(0.01)
    adjustment: float = traced(0.0)

    def check(self, setup: Setup):
        base.check(setup, "GroupDRO", self.streams)
        checks.number(setup, "eta", self.eta, 0.0)
        checks.number(setup, "adjustment", self.adjustment, 0.0)

    def init_state(self, setup: Setup):
        count = len(self.streams)
        return {"log_weights": jnp.full(count, -jnp.log(jnp.float32(count)))}

    def constants(self, setup: Setup):
        sizes = [setup.examples[name] for name in self.streams]
        return {"sizes": jnp.asarray(sizes, jnp.float32)}

    def __call__(self, context):
        logits = base.logits(context, self.streams)
        labels = base.labels(context, self.streams)
        risks = base.risks(logits, labels)
        adjusted = risks + self.adjustment / jnp.sqrt(context.constants["sizes"])
        log_weights = reweighted(context.state["log_weights"], adjusted, self.eta)
        context.set_state({"log_weights": log_weights})
        weights = jnp.exp(log_weights)
        return jnp.sum(weights * adjusted), {
            **base.accuracies(logits, labels),
            "worst_risk": risks.max(),
            "largest_weight": weights.max(),
        }
