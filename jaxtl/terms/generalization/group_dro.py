"""Group DRO: minimizes the worst domain's risk by weights that follow the risks."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base


def updated_log_weights(
    log_weights: jax.Array, risks: jax.Array, eta: float | jax.Array
) -> jax.Array:
    """One step of exponentiated gradient ascent: q_g ← q_g·exp(η·R_g), Σ_g q_g = 1.

    Args:
      log_weights: log q, (domains,); logarithms, since weights underflow.
      risks: R, (domains,); no gradient flows through them.
      eta: η ≥ 0, may be traced.

    Returns:
      The new log q, (domains,).
    """
    return jax.nn.log_softmax(log_weights + eta * jax.lax.stop_gradient(risks))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupDRO(base.MultiDomainTerm):
    """Σ_g q_g·R_g over domains, q moved towards the worst domains before each step.

    A task term by itself. q is state and starts uniform; R_g is a domain's mean
    cross-entropy in nats. Reports the domains' mean accuracy and that of the worst, the
    largest risk and the largest weight.

    Attributes:
      streams: streams of the labelled domains, two or more.
      eta: step size of q.
      adjustment: C, which adds C / √n_g to R_g both in the update of q and in the loss,
        n_g being the domain's number of train examples; 0 adds nothing.

    References:
      Sagawa et al., Distributionally Robust Neural Networks, ICLR 2020, algorithm 1
      and (C) eq. 5; η = 0.01 there.
    """

    compares: ClassVar[str] = "the risks of the domains"

    eta: float = traced(0.01)
    adjustment: float = traced(0.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "eta", self.eta, 0.0)
        checks.number(setup, "adjustment", self.adjustment, 0.0)

    def init_state(self, setup: Setup) -> PyTree:
        count = len(self.streams)
        return {"log_weights": jnp.full(count, -jnp.log(jnp.float32(count)))}

    def constants(self, setup: Setup) -> PyTree:
        sizes = [setup.examples[name] for name in self.streams]
        return {"sizes": jnp.asarray(sizes, jnp.float32)}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = base.domain_logits(context, self.streams)
        labels = base.domain_labels(context, self.streams)
        risks = base.risks(logits, labels)
        adjusted = risks + self.adjustment / jnp.sqrt(context.constants["sizes"])
        log_weights = updated_log_weights(
            context.state["log_weights"], adjusted, self.eta
        )
        context.set_state({"log_weights": log_weights})
        weights = jnp.exp(log_weights)
        return jnp.sum(weights * adjusted), {
            **base.accuracies(logits, labels),
            "worst_risk": risks.max(),
            "largest_weight": weights.max(),
        }
