"""GradVac: gradients are turned towards the similarity that they have on average."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.multitask.balancer import (
    GRADIENTS,
    Balance,
    Balancer,
    TaskValues,
)
from jaxtl.terms.multitask.pcgrad import random_orders

_LEAST = 1e-8  # added to denominators, as in the authors' program


def gradvac_weights(
    gram: jax.Array, targets: jax.Array, orders: jax.Array, beta: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """The factors w of Σ_i ĝ_i = Σ_k w_k g_k, (T,), and the new targets, (T, T).

    ĝ_i is g_i, to which for one j after the other as much of g_j is added as gives it
    the cosine φ̂_ij with g_j, where its cosine φ_ij is below that. Then
    φ̂_ij ← (1 − β) φ̂_ij + β φ_ij.

    Args:
      gram: (T, T) inner products of the gradients g_k.
      targets: φ̂, (T, T), 0 before the first step.
      orders: (T, T), row i the order of the other tasks j; i itself is passed over.
      beta: β in [0, 1].

    Returns:
      (w, φ̂ after the step).

    References:
      Wang et al., Gradient Vaccine, ICLR 2021, eq. 4 and 5.
    """
    count = len(gram)

    def root(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.clip(x, 0))

    def turned(
        i: jax.Array, order: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def body(place: int, state: tuple) -> tuple:
            factors, targets = state
            j = order[place]
            norm = root(factors @ gram @ factors)
            other = root(gram[j, j])
            cosine = (gram[j] @ factors) / (norm * other + _LEAST)
            target = targets[j]
            sine, target_sine = root(1 - cosine**2), root(1 - target**2)
            part = norm * (target * sine - cosine * target_sine)
            part = part / (other * target_sine + _LEAST)
            is_other = j != i
            factors = factors.at[j].add(
                jnp.where(is_other & (cosine < target), part, 0)
            )
            moved = (1 - beta) * target + beta * cosine
            return factors, targets.at[j].set(jnp.where(is_other, moved, target))

        start = jnp.eye(count, dtype=gram.dtype)[i]
        return jax.lax.fori_loop(0, count, body, (start, targets))

    factors, targets = jax.vmap(turned)(jnp.arange(count), orders, targets)
    return factors.sum(0), targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradVac(Balancer):
    """`gradvac_weights`, in orders that each step draws; whole gradients are compared.

    Attributes:
      beta: β, the share of a step in the average of the cosines, in [0, 1]; LibMTL
        takes 0.5, the paper 0.01.
    """

    reads_gradients: ClassVar[bool] = True
    compares: ClassVar[str] = GRADIENTS
    weighs_heads: ClassVar[bool] = False

    beta: float = traced(0.5)

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        checks.number(setup, "balancer.beta", self.beta, 0.0, 1.0)

    def init_state(self, tasks: tuple[str, ...]) -> PyTree:
        return {"targets": jnp.zeros((len(tasks), len(tasks)), jnp.float32)}

    def balance(self, values: TaskValues) -> Balance:
        assert values.gram is not None
        orders = random_orders(values.key, len(values.tasks))
        weights, targets = gradvac_weights(
            values.gram, values.state["targets"], orders, self.beta
        )
        both = values.labelled[:, None] & values.labelled[None, :]
        targets = jnp.where(both, targets, values.state["targets"])
        return Balance(weights, {"targets": targets})
