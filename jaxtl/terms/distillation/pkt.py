"""PKT: each example finds its neighbors with the teacher's probabilities."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import StagePairTerm
from jaxtl.terms.regularizers.feature_maps import mean_over_positions

_EPSILON = 1e-7  # of the norms and of the logarithm, as in the authors' program


def _neighbors(x: jax.Array) -> jax.Array:
    """Rows of (1 + cosine)/2 over all examples, each divided by its sum, (b, b)."""
    square = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    unit = x / (norm + _EPSILON)
    similarity = (unit @ unit.T + 1.0) / 2.0
    return similarity / jnp.sum(similarity, axis=1, keepdims=True)


def neighbor_divergence(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """p_T log(p_T / p) of the neighbors' probabilities, mean over all b² entries.

    Args:
      student: (b, width).
      teacher: (b, width').

    Returns:
      A scalar.

    References:
      Passalis & Tefas, Learning Deep Representations with Probabilistic Knowledge
      Transfer, ECCV 2018, eq. 5 and 6 with the cosine kernel; the mean, and ε, as in
      the authors' program.
    """
    p, q = _neighbors(teacher), _neighbors(student)
    return jnp.mean(p * jnp.log((p + _EPSILON) / (q + _EPSILON)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PKT(StagePairTerm):
    """`neighbor_divergence` of features that are averaged over positions.

    Attributes:
      stages: as in `StagePairTerm`.

    References:
      As `neighbor_divergence`; weight 30000 as in RepDistiller.
    """

    compares: ClassVar[str] = "similarities"
    least_batch: ClassVar[int] = 2

    def pair_value(
        self, context: View, stage: str, student: Any, teacher: Any
    ) -> jax.Array:
        del context, stage
        return neighbor_divergence(*map(mean_over_positions, (student, teacher)))
