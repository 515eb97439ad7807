"""Risk extrapolation: the same risk in every domain, by the variance of the risks."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms.base import Setup, Term
from jaxtl.terms.generalization import base


def variance(risks: jax.Array) -> jax.Array:
    """1/m Σ_e (R_e − R̄)² of m risks, (m,)."""
    return jnp.mean(jnp.square(risks - risks.mean()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VREx(Term):
    """`variance` of the domains' cross-entropies; beside a task term (`PooledERM`).

    The paper's β·Var + Σ_e R_e is `PooledERM` with weight m (or 1) beside this term
    with weight β (or β/m). Both read the same pass over the domains' batches. Reports
    the largest risk.

    Attributes:
      streams: of the labelled domains, two or more.

    References:
      Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, ICML
      2021, eq. 8.
    """

    streams: tuple[str, ...] = ()

    def check(self, setup: Setup):
        base.check(setup, "VREx", self.streams)

    def __call__(self, context):
        logits = base.logits(context, self.streams)
        risks = base.risks(logits, base.labels(context, self.streams))
        return variance(risks), {"worst": risks.max()}
