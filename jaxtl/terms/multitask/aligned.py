"""Aligned-MTL: gradients made orthogonal and equally long."""

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


def aligned_weights(gram: jax.Array) -> jax.Array:
    """√λ_min·(G^{−1/2}·1)_k, (T,), over the eigenvalues λ of G above rounding.

    The gradients G^{−1/2}J are orthonormal; they get the norm √λ_min of the weakest
    principal component, and are added up.

    Args:
      gram: G = JJᵀ, (T, T) inner products of the gradients g_k.

    Returns:
      Factors of the gradients; 1 for each where all gradients are 0.

    References:
      Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR
      2023, algorithm 1, with weight 1 for every task.
    """
    values, vectors = jnp.linalg.eigh(gram)
    least = values.max() * len(gram) * jnp.finfo(gram.dtype).eps
    counts = values > least
    smallest = jnp.where(counts, values, jnp.inf).min()
    scales = jnp.sqrt(jnp.where(counts, smallest / jnp.where(counts, values, 1), 0.0))
    weights = vectors @ (scales * (vectors.T @ jnp.ones_like(values)))
    return jnp.where(counts.any(), weights, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedMTL(Balancer):
    """`aligned_weights`."""

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        return Balance(aligned_weights(values.gram), values.state)
