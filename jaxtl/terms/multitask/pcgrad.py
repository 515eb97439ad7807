"""PCGrad: each gradient loses its part against those that it conflicts with."""

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


def random_orders(key: jax.Array, count: int) -> jax.Array:
    """(count, count) int32: a random order of all tasks, for each task.

    Args:
      key: PRNG key.
      count: number of tasks T.

    Returns:
      One permutation of 0 … T − 1 in each row.
    """
    keys = jax.random.split(key, count)
    return jax.vmap(lambda k: jax.random.permutation(k, count))(keys)


def pcgrad_weights(gram: jax.Array, orders: jax.Array) -> jax.Array:
    """The factors w of Σ_i ĝ_i = Σ_k w_k g_k, (T,).

    ĝ_i is g_i, from which the projection on g_j is taken for one j after the other,
    where ⟨ĝ_i, g_j⟩ < 0.

    Args:
      gram: (T, T) inner products of the gradients g_k.
      orders: (T, T), row i the order of the other tasks j; i itself is passed over.

    Returns:
      Factors of the gradients; 1 each where no two conflict.

    References:
      Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, algorithm 1.
    """
    count = len(gram)

    def surgery(i: jax.Array, order: jax.Array) -> jax.Array:
        def body(place: int, factors: jax.Array) -> jax.Array:
            j = order[place]
            product = gram[j] @ factors
            norm = gram[j, j]
            change = product / jnp.where(norm > 0, norm, 1)
            conflicts = (product < 0) & (j != i)
            return factors.at[j].add(-jnp.where(conflicts, change, 0))

        start = jnp.eye(count, dtype=gram.dtype)[i]
        return jax.lax.fori_loop(0, count, body, start)

    return jax.vmap(surgery)(jnp.arange(count), orders).sum(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCGrad(Balancer):
    """`pcgrad_weights`, in orders that each step draws."""

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        orders = random_orders(values.key, len(values.tasks))
        return Balance(pcgrad_weights(values.gram, orders), values.state)
