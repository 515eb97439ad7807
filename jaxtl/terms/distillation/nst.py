"""NST: the channels' places of activation are distributed as the teacher's."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.models.layers.sequences import unit_length
from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import PositionPairTerm, Positions


def selectivity_discrepancy(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """MMD² of two sets of channels with the kernel (x·y)², mean over examples.

    A channel counts as the vector of its activations over positions, of norm 1.

    Args:
      student: (batch, positions, channels).
      teacher: (batch, positions, channels'), the same positions.

    Returns:
      A scalar, at least 0.

    References:
      Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity
      Transfer, arXiv:1707.01219, eq. 6 with the polynomial kernel of d = 2, c = 0.
    """

    def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jnp.einsum("bip,bjp->bij", x, y)))

    s, t = (unit_length(jnp.swapaxes(x, 1, 2)) for x in (student, teacher))
    return kernel(t, t) + kernel(s, s) - 2.0 * kernel(s, t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NST(PositionPairTerm):
    """`selectivity_discrepancy` to the teacher.

    The larger of two feature maps is averaged to the size of the smaller one.

    Attributes:
      stages: as in `StagePairTerm`; by default the last ones with positions.

    References:
      As `selectivity_discrepancy`; weight 50 as in RepDistiller.
    """

    with_positions: ClassVar[bool] = True

    def position_value(self, context: View, stage: str, pair: Positions) -> jax.Array:
        del context, stage
        return selectivity_discrepancy(pair.student, pair.teacher)
