"""VICReg: views that agree, features that vary, and that do not covary."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.selfsup.projector import spread
from jaxtl.terms.selfsup.two_views import ProjectedViews

_EPSILON = 1e-4  # of variances


def invariance_variance_covariance(
    first: jax.Array, second: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three parts of VICReg's loss.

    Invariance: (z − z')², mean over examples and features. Variance: the mean over
    features and both views of max(0, 1 − √(Var z_j + 1e-4)). Covariance: the squares
    of the covariances of different features, summed, by the width, summed over views.
    Variances and covariances divide by n − 1.

    Args:
      first, second: projections of both views, (n, width) each, n ≥ 2.

    Returns:
      (invariance, variance, covariance), scalars before their weights.

    References:
      Bardes et al., ICLR 2022, eq. 1 to 5, with the factors of the authors' program.
    """
    views = [as_float32(z) for z in (first, second)]
    invariance = jnp.mean(jnp.square(views[0] - views[1]))
    variance, covariance = jnp.zeros(()), jnp.zeros(())
    for z in views:
        centered = z - z.mean(0)
        c = centered.T @ centered / (len(z) - 1)
        deviation = jnp.sqrt(jnp.diagonal(c) + _EPSILON)
        variance += jnp.mean(jax.nn.relu(1 - deviation)) / 2
        off_diagonal = jnp.where(jnp.eye(len(c), dtype=bool), 0, c)
        covariance += jnp.sum(jnp.square(off_diagonal)) / len(c)
    return invariance, variance, covariance


@dataclasses.dataclass(frozen=True, kw_only=True)
class VICReg(ProjectedViews):
    """Invariance, variance and covariance of two views' projections.

    Reports the three parts, and "spread", 0 for a collapse.

    Attributes:
      invariance, variance, covariance: factors of the parts, λ, μ and ν.
      projector: widths of its layers, 8192 three times in the paper.
      norm, stream, stage, views, second: as in `ProjectedViews`.

    References:
      Bardes, Ponce, LeCun, VICReg, ICLR 2022.
    """

    compares: ClassVar[str] = "variances and covariances of features over the batch"

    invariance: float = traced(25.0)
    variance: float = traced(25.0)
    covariance: float = traced(1.0)
    projector: tuple[int, ...] = (2048, 2048, 2048)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        for field in ("invariance", "variance", "covariance"):
            checks.number(setup, field, getattr(self, field), 0.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        first, second = self.projections(context)
        parts = invariance_variance_covariance(first, second)
        factors = (self.invariance, self.variance, self.covariance)
        names = ("invariance", "variance", "covariance")
        value = jnp.dot(jnp.stack(factors), jnp.stack(parts))
        return value, {**dict(zip(names, parts)), "spread": spread(first)}
