"""Deep CORAL: align the second moments of two domains' features."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain import domain_pair


def covariance(x: jax.Array) -> jax.Array:
    """Returns the covariance of rows, (d, d), normalised by n − 1; x is (n, d)."""
    x = x - x.mean(0)
    # Full precision: two covariances are about to be subtracted.
    return jnp.matmul(x.T, x, precision="highest") / (x.shape[0] - 1)


def coral(source: jax.Array, target: jax.Array) -> jax.Array:
    """‖C_S − C_T‖²_F / (4 d²), C the covariances normalised by n − 1.

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
class DeepCORAL(Term):
    """`coral` between two streams' features, summed over stages.

    Features are taken as one vector of d numbers per example (`pairs.vector`); time and
    memory grow with d².

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: whose outputs to align; None is the last before the head.
    """

    source: str = "source"
    target: str = "unlabelled"
    stages: tuple[str, ...] | None = None

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        domain_pair.check(setup, self.source, self.target, self.stages)

    def __call__(self, context):
        return sum(
            coral(*domain_pair.both(context, self, stage))
            for stage in domain_pair.chosen(self.stages, context.program.network)
        )
