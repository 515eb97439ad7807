"""RKD: distances and angles between examples are the teacher's."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxtl.core.config import traced
from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import StagePairTerm
from jaxtl.terms.regularizers.feature_maps import mean_over_positions

_EPSILON = 1e-12  # least squared distance, and least norm, as in the authors' program


def _distances(x: jax.Array) -> jax.Array:
    """Pairwise distances divided by the mean of those above 0, (b, b)."""
    squares = jnp.sum(jnp.square(x), axis=1)
    square = squares[:, None] + squares[None] - 2.0 * x @ x.T
    is_pair = ~jnp.eye(len(x), dtype=bool)
    distance = jnp.where(is_pair, jnp.sqrt(jnp.maximum(square, _EPSILON)), 0.0)
    return distance / (jnp.sum(distance) / jnp.maximum(jnp.sum(is_pair), 1))


def _angles(x: jax.Array) -> jax.Array:
    """Cosine of the angle at each example i between each two others, (b, b, b)."""
    gap = x[None] - x[:, None]
    square = jnp.sum(jnp.square(gap), axis=-1, keepdims=True)
    unit = gap / jnp.sqrt(jnp.maximum(square, jnp.square(_EPSILON)))
    return jnp.einsum("ijc,ikc->ijk", unit, unit)


def relation_losses(
    student: jax.Array, teacher: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Huber loss of all normalized distances, and of all cosines of angles.

    Args:
      student: (b, width).
      teacher: (b, width').

    Returns:
      (loss of distances, loss of angles), scalars.

    References:
      Park et al., Relational Knowledge Distillation, CVPR 2019, eq. 4 to 9; means over
      all entries, the diagonal among them, as in the authors' program.
    """
    distance = optax.losses.huber_loss(_distances(student), _distances(teacher))
    angle = optax.losses.huber_loss(_angles(student), _angles(teacher))
    return distance.mean(), angle.mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RKD(StagePairTerm):
    """distance · L_D + angle · L_A of `relation_losses`.

    Features are averaged over positions. The angles of a batch of b take b³ numbers.

    Attributes:
      distance: λ_D.
      angle: λ_A.
      stages: as in `StagePairTerm`.

    References:
      As `relation_losses`; λ_D = 25 and λ_A = 50 as there.
    """

    compares: ClassVar[str] = "distances and angles"
    least_batch: ClassVar[int] = 2

    distance: float = traced(25.0)
    angle: float = traced(50.0)

    def pair_value(
        self, context: View, stage: str, student: Any, teacher: Any
    ) -> jax.Array:
        del context, stage
        features = map(mean_over_positions, (student, teacher))
        distance, angle = relation_losses(*features)
        return self.distance * distance + self.angle * angle
