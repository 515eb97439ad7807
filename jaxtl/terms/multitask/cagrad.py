"""CAGrad: near the mean gradient, the direction that is best for the worst task."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.multitask import interior_point
from jaxtl.terms.multitask.balancer import (
    GRADIENTS,
    Balance,
    Balancer,
    TaskValues,
)

_LEAST = 1e-4  # norm, of gradients of norm 1 in all, below which a point is stationary


def cagrad_weights(gram: jax.Array, c: jax.Array | float) -> jax.Array:
    """1/T + (c‖g₀‖ / ‖g_v‖)·v, (T,), with g₀ the mean gradient and g_v = Σ v_k g_k.

    v minimizes ⟨g_v, g₀⟩ + c‖g₀‖‖g_v‖ over the simplex. 0 where ‖g_v‖ is 0 (below
    `_LEAST` of the gradients' norm), a Pareto-stationary point.

    Args:
      gram: (T, T) inner products of the gradients g_k.
      c: radius of the ball around g₀, as a share of its norm, at least 0.

    Returns:
      Factors of the gradients, not negative.

    References:
      Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS
      2021, algorithm 1, without the rescaling of the authors' program.
    """
    matrix = interior_point.normalized(gram)
    count = len(gram)
    tiny = jnp.finfo(gram.dtype).tiny ** 0.25
    mean = matrix.mean(1)  # products of each gradient with g₀
    radius = c * jnp.sqrt(jnp.clip(mean.mean(), 0))

    # ‖g_v‖ = min over s > 0 of ‖g_v‖²/(2s) + s/2, which is smooth where ‖g_v‖ is 0.
    def derivatives(v_and_s: jax.Array) -> tuple[jax.Array, jax.Array]:
        v, s = v_and_s[:-1], v_and_s[-1]
        unit = matrix @ v / s
        square = v @ unit / s  # (‖g_v‖ / s)²
        gradient = jnp.append(mean + radius * unit, radius * (1 - square) / 2)
        hessian = jnp.block(
            [[matrix, -unit[:, None]], [-unit[None], jnp.full((1, 1), square)]]
        )
        return gradient, radius / s * hessian

    zeros = jnp.zeros(count + 1, gram.dtype)
    v = interior_point.minimum(derivatives, zeros, zeros.at[:-1].set(1))[:-1]
    norm = jnp.sqrt(jnp.clip(v @ matrix @ v, 0))
    weights = 1 / count + radius / jnp.maximum(norm, tiny) * v
    return jnp.where(norm < _LEAST, 0.0, weights)  # NaN stays NaN


@dataclasses.dataclass(frozen=True, kw_only=True)
class CAGrad(Balancer):
    """`cagrad_weights`.

    Attributes:
      c: at least 0: 0 is the mean gradient, a large one MGDA; the paper takes 0.2 to
        0.8.
    """

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    c: float = traced(0.5)

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        checks.number(setup, "balancer.c", self.c, 0.0)

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        return Balance(cagrad_weights(values.gram, self.c), values.state)
