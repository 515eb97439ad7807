"""MGDA: the shortest convex combination of the tasks' gradients."""

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


def mgda_weights(gram: jax.Array) -> jax.Array:
    """argmin_w ‖Σ_k w_k g_k‖² over the simplex, (T,).

    Args:
      gram: (T, T) inner products of the gradients g_k.

    Returns:
      Factors of the gradients, not negative, which add up to 1.

    References:
      Désidéri, Multiple-Gradient Descent Algorithm, C. R. Math. 350 (2012); Sener &
      Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, eq. 3.
    """
    matrix = interior_point.normalized(gram)
    lower = jnp.zeros(len(gram), gram.dtype)
    return interior_point.minimum(
        lambda w: (matrix @ w, matrix), lower, jnp.ones(len(gram), gram.dtype)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MGDA(Balancer):
    """`mgda_weights`, which add up to 1; with `wrt="features"` it is MGDA-UB.

    The heads have the gradients of their own losses, as in later comparisons; the
    authors' program weighs them too.
    """

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        return Balance(mgda_weights(values.gram), values.state)
