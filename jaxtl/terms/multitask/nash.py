"""Nash-MTL: the direction that tasks which bargain would agree on."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.multitask.balancer import (
    GRADIENTS,
    Balance,
    Balancer,
    TaskValues,
)

_STEPS = 50  # of Newton's method


def nash_weights(gram: jax.Array, max_norm: jax.Array | float) -> jax.Array:
    """w > 0 with (Gw)_k = 1/w_k for all k, G of Frobenius norm 1, (T,).

    It is the minimum of ½ wᵀGw − Σ log w_k, which damped Newton steps find. Where the
    direction Σ w_k g_k is longer than `max_norm`, w is scaled to that.

    Args:
      gram: (T, T) inner products of the gradients g_k.
      max_norm: of the direction.

    Returns:
      Factors of the gradients, above 0.

    References:
      Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, claim 3.2; the
      scale of G and the norm are those of the authors' program.
    """
    norm = jnp.linalg.norm(gram)
    eye = jnp.eye(len(gram), dtype=gram.dtype)
    # Opposite gradients have no finite weights: the ridge bounds them.
    ridge = 10 * jnp.finfo(gram.dtype).eps
    matrix = gram / jnp.where(norm > 0, norm, 1) + ridge * eye

    def body(_: int, w: jax.Array) -> jax.Array:
        gradient = matrix @ w - 1 / w
        step = jnp.linalg.solve(matrix + jnp.diag(1 / w**2), gradient)
        decrement = jnp.sqrt(jnp.clip(gradient @ step, 0))
        return w - step / (1 + decrement)

    start = 1 / jnp.sqrt(jnp.clip(jnp.diagonal(matrix), ridge))
    w = jax.lax.fori_loop(0, _STEPS, body, start)
    length = jnp.sqrt(jnp.clip(w @ gram @ w, 0))
    return w * jnp.minimum(1.0, max_norm / jnp.where(length > 0, length, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NashMTL(Balancer):
    """`nash_weights`.

    Attributes:
      max_norm: largest norm of the direction, above 0; 1 in the authors' program.
        Nearly every direction has it, so the learning rate is tuned for it.
    """

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    max_norm: float = traced(1.0)

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        checks.positive(setup, "balancer.max_norm", self.max_norm)

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        return Balance(nash_weights(values.gram, self.max_norm), values.state)
