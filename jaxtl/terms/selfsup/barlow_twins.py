"""Barlow Twins: features of two views that agree, and that are not redundant."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.selfsup.projector import batch_normalized, spread
from jaxtl.terms.selfsup.two_views import ProjectedViews


def cross_correlation_loss(
    first: jax.Array, second: jax.Array, redundancy: float | jax.Array
) -> jax.Array:
    """Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², C the correlation of features across views.

    Args:
      first, second: projections of both views, (n, width) each, n ≥ 2.
      redundancy: λ.

    Returns:
      A scalar, the sum over pairs of features, without a mean.

    References:
      Zbontar et al., ICML 2021, eq. 1 and 2 (variances of the batch with ε = 1e-5).
    """
    normalized = [batch_normalized(as_float32(z)) for z in (first, second)]
    c = normalized[0].T @ normalized[1] / len(first)
    agreement = jnp.diagonal(c)
    off_diagonal = jnp.sum(jnp.square(c)) - jnp.sum(jnp.square(agreement))
    return jnp.sum(jnp.square(1 - agreement)) + redundancy * off_diagonal


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowTwins(ProjectedViews):
    """Cross-correlation of two views' projections near the identity matrix.

    Reports "spread", 0 for a collapse.

    Attributes:
      weight: the authors' program scales the loss by 0.024 for LARS; with Adam 1
        serves.
      redundancy: λ.
      projector: widths of its layers, 8192 three times in the paper; wider is better.
      norm, stream, stage, views, second: as in `ProjectedViews`.

    References:
      Zbontar, Jing, Misra, LeCun, Deny, Barlow Twins, ICML 2021.
    """

    compares: ClassVar[str] = "correlations of features over the batch"

    redundancy: float = traced(5e-3)
    projector: tuple[int, ...] = (2048, 2048, 2048)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "redundancy", self.redundancy, 0.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        first, second = self.projections(context)
        value = cross_correlation_loss(first, second, self.redundancy)
        return value, {"spread": spread(first)}
