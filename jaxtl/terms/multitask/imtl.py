"""IMTL-G: a direction whose projections on all gradients are equally long."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.terms.multitask.balancer import (
    GRADIENTS,
    Balance,
    Balancer,
    TaskValues,
)


def imtl_g_weights(gram: jax.Array) -> jax.Array:
    """w with Σ w = 1 and ⟨Σ w_k g_k, g_j⟩ / ‖g_j‖ equal for all j, (T,).

    It is G⁺n / Σ G⁺n with the norms n; weights may be negative. 0 where these add up to
    0.

    Args:
      gram: G, (T, T) inner products of the gradients g_k.

    Returns:
      Factors of the gradients.

    References:
      Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, eq. 6.
    """
    scale = jnp.trace(gram)
    matrix = gram / jnp.where(scale > 0, scale, 1)
    norms = jnp.sqrt(jnp.clip(jnp.diagonal(matrix), 0))
    weights = jnp.linalg.pinv(matrix, hermitian=True) @ norms
    total = weights.sum()
    is_zero = jnp.abs(total) < 1e-12
    return jnp.where(is_zero, 0.0, weights / jnp.where(is_zero, 1, total))


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMTLG(Balancer):
    """`imtl_g_weights`."""

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        return Balance(imtl_g_weights(values.gram), values.state)
