"""VID: the model's features predict the teacher's, with a learned variance."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import PositionPairTerm, Positions, width

_EPSILON = 1e-5  # least variance, as in the authors' program


def predicted_mean(params: PyTree, values: jax.Array) -> jax.Array:
    """μ: three linear maps along the channels, with a ReLU between them.

    Args:
      params: {"first", "second", "third"} kernels, without biases.
      values: (..., channels) of the student.

    Returns:
      (..., channels of the teacher).
    """
    hidden = jax.nn.relu(values @ params["first"])
    return jax.nn.relu(hidden @ params["second"]) @ params["third"]


def negative_log_likelihood(
    mean: jax.Array, teacher: jax.Array, scale: jax.Array
) -> jax.Array:
    """½ ((t − μ)²/σ² + log σ²) of each position, mean over channels.

    Args:
      mean: μ, (batch, positions, channels).
      teacher: t, the same shape.
      scale: α, (channels,), with σ² = log(1 + exp α) + 1e-5.

    Returns:
      (batch, positions).

    References:
      Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
      2019, eq. 4 and 6.
    """
    variance = jax.nn.softplus(scale) + _EPSILON
    value = jnp.square(mean - teacher) / variance + jnp.log(variance)
    return 0.5 * jnp.mean(value, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VID(PositionPairTerm):
    """`negative_log_likelihood` of the teacher's features given the model's.

    Mean over (real) positions and examples. The map to the mean and the variances are
    parameters of the term, trained and clipped with the model's. The larger of two
    feature maps is averaged to the size of the smaller one.

    Attributes:
      variance: σ² at the start.
      stages: as in `StagePairTerm`.

    References:
      As `negative_log_likelihood`; σ² = 5 at the start as in RepDistiller.
    """

    variance: float = 5.0

    def check(self, setup: Setup) -> None:
        checks.positive(setup, "variance", self.variance)
        super().check(setup)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        params = {}
        scale = jnp.log(jnp.expm1(jnp.maximum(self.variance - _EPSILON, _EPSILON)))
        for stage, (student, teacher) in self.pair_shapes(setup).items():
            key, *keys = jax.random.split(key, 4)
            sizes = width(student), *[width(teacher)] * 3
            maps = {
                name: jax.random.normal(k, shape) * jnp.sqrt(2.0 / shape[0])
                for name, k, shape in zip(
                    ("first", "second", "third"), keys, itertools.pairwise(sizes)
                )
            }
            params[stage] = {**maps, "scale": jnp.full(sizes[-1], scale)}
        return params

    def position_value(self, context: View, stage: str, pair: Positions) -> jax.Array:
        params = context.term_params[stage]
        mean = predicted_mean(params, pair.student)
        nll = negative_log_likelihood(mean, pair.teacher, params["scale"])
        return context.mean(nll, pair.mask)
