"""Risk extrapolation: equal risks in all domains, by the variance of the risks."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.terms.base import Metrics
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base


def variance(risks: jax.Array) -> jax.Array:
    """1/m Σ_e (R_e − R̄)² of m risks, (m,) -> scalar.

    Args:
      risks: R_e, the mean loss of each domain.

    Returns:
      The variance with 1/m, not 1/(m − 1); 0 for one domain.
    """
    return jnp.mean(jnp.square(risks - risks.mean()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VREx(base.MultiDomainTerm):
    """`variance` of the domains' cross-entropies; use it beside `PooledERM`.

    The paper's β·Var + Σ_e R_e is `PooledERM` with weight m (or 1) beside this term
    with weight β (or β/m). Both read the same pass over the domains' batches. Reports
    the largest risk.

    Attributes:
      streams: streams of the labelled domains, two or more.

    References:
      Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, ICML
      2021, eq. 8.
    """

    compares: ClassVar[str] = "the risks of the domains"

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = base.domain_logits(context, self.streams)
        risks = base.risks(logits, base.domain_labels(context, self.streams))
        return variance(risks), {"worst": risks.max()}
