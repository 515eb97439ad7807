"""SP: examples that are similar to the teacher are similar to the model."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.models.layers.sequences import unit_length
from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import StagePairTerm
from jaxtl.terms.regularizers.feature_maps import flatten_positions


def similarity_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """‖G_T − G‖²_F / b² with G = rows of A Aᵀ, each divided by its norm.

    Args:
      student: A, (b, width).
      teacher: A_T, (b, width').

    Returns:
      A scalar.

    References:
      Tung & Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, eq. 1 to 4.
    """
    first, second = (unit_length(x @ x.T) for x in (teacher, student))
    return jnp.mean(jnp.square(first - second))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SP(StagePairTerm):
    """`similarity_distance` of whole feature maps (padding counts as 0).

    Attributes:
      stages: as in `StagePairTerm`.

    References:
      As `similarity_distance`; weight 3000 as there and in RepDistiller.
    """

    compares: ClassVar[str] = "similarities"
    least_batch: ClassVar[int] = 2

    def pair_value(
        self, context: View, stage: str, student: Any, teacher: Any
    ) -> jax.Array:
        del context, stage
        features = (flatten_positions(f)[0] for f in (student, teacher))
        return similarity_distance(*(f.reshape(len(f), -1) for f in features))
