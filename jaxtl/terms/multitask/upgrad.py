"""UPGrad: the mean of the gradients, each projected so that it conflicts with none."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.terms.multitask import interior_point
from jaxtl.terms.multitask.balancer import (
    GRADIENTS,
    Balance,
    Balancer,
    TaskValues,
)

_RIDGE = 1e-4  # added to the diagonal of the Gram matrix of trace 1


def upgrad_weights(gram: jax.Array) -> jax.Array:
    """Σ_i v_i, (T,): v_i minimizes vᵀGv for v ≥ e_i / T.

    Σ_k v_ik g_k is the projection of g_i / T on the cone of directions that have no
    negative product with any gradient.

    Args:
      gram: G, (T, T) inner products of the gradients g_k.

    Returns:
      Factors of the gradients, each at least 1 / T.

    References:
      Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, 2024
      (arXiv:2406.16232), section 2.2; the ridge is that of torchjd.
    """
    eye = jnp.eye(len(gram), dtype=gram.dtype)
    matrix = interior_point.normalized(gram) + _RIDGE * eye

    def projected(lower: jax.Array) -> jax.Array:
        return interior_point.minimum(lambda v: (matrix @ v, matrix), lower)

    return jax.vmap(projected)(eye / len(gram)).sum(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UPGrad(Balancer):
    """`upgrad_weights`."""

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        return Balance(upgrad_weights(values.gram), values.state)
