"""Deep CORAL: aligns the second moments of two domains' features."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain.domain_pair import DomainPairAtStages


def covariance(x: jax.Array) -> jax.Array:
    """Covariance of the rows of x, normalized by n − 1: (n, d) -> (d, d).

    Args:
      x: features, n ≥ 2.

    Returns:
      A symmetric matrix in the dtype of x.
    """
    x = x - x.mean(0)
    # Full precision, since two covariances are subtracted from each other.
    return jnp.matmul(x.T, x, precision="highest") / (x.shape[0] - 1)


def coral(source: jax.Array, target: jax.Array) -> jax.Array:
    """‖C_S − C_T‖²_F / (4 d²), C the covariances normalized by n − 1.

    Args:
      source: (n, d) features of one domain.
      target: (m, d) features of the other.

    Returns:
      A scalar ≥ 0, 0 for equal covariances, whatever the means.

    Raises:
      UserError: if a batch holds fewer than two examples.

    References:
      Sun & Saenko, Deep CORAL, ECCV 2016 workshops, eq. 1 to 3.
    """
    for name, x in (("source", source), ("target", target)):
        if x.shape[0] < 2:
            raise UserError(
                f"CORAL: the {name} batch holds {x.shape[0]} example, and a covariance "
                "needs at least 2."
            )
    difference = covariance(source) - covariance(target)
    return jnp.sum(jnp.square(difference)) / (4 * source.shape[1] ** 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepCORAL(DomainPairAtStages):
    """`coral` between two streams' features, summed over stages.

    Features are one vector of d numbers per example (`domain_pair.stage_vectors`); time
    and memory grow with d².

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: stages whose outputs to align; None is the last one before the head.
    """

    compares: ClassVar[str] = "covariances of the features"

    def __call__(self, context: View) -> jax.Array:
        values = [coral(*pair) for pair in self.feature_pairs(context)]
        return sum(values, jnp.float32(0.0))
