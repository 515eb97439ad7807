"""R2D2: a ridge regression on the support in closed form, differentiated through."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.fewshot import base


def ridge_outputs(
    support: jax.Array, queries: jax.Array, penalty: float | jax.Array
) -> jax.Array:
    """[q, 1] W with W = Xᵀ (X Xᵀ + λ I)⁻¹ Y, the ridge regression of Y on X.

    X holds the support's n features with a column of ones for the bias, which is
    penalized as well, and Y the one-hot labels; both are divided by √n, as in the
    authors' program. The system has n equations (Woodbury).

    Args:
      support: (ways, shots, width).
      queries: (m, width).
      penalty: λ > 0.

    Returns:
      (m, ways).
    """
    ways, shots, width = support.shape
    count = ways * shots
    ones = jnp.ones((count, 1), support.dtype)
    x = jnp.concatenate([support.reshape(count, width), ones], 1) / jnp.sqrt(count)
    y = jnp.repeat(jnp.eye(ways, dtype=x.dtype), shots, axis=0) / jnp.sqrt(count)
    system = x @ x.T + penalty * jnp.eye(count, dtype=x.dtype)
    weights = x.T @ jax.scipy.linalg.solve(system, y, assume_a="pos")
    return queries @ weights[:-1] + weights[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RidgeHead(base.FeatureTerm):
    """Cross-entropy of α · `ridge_outputs` + β; λ, α and β are trained with the model.

    Attributes:
      penalty: λ at the beginning.
      scale: α at the beginning; β begins at 0. The constructor of the authors' layer
        has 1e-4, which Adam leaves within some thousand steps.

    References:
      Bertinetto, Henriques, Torr, Vedaldi, Meta-learning with Differentiable
      Closed-form Solvers, ICLR 2019, eq. 6 and 8; bertinetto/r2d2,
      fewshots/models/r2d2.py.
    """

    penalty: float = traced(1.0)
    scale: float = traced(1.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "penalty", self.penalty)
        checks.positive(setup, "scale", self.scale)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        del key, setup
        # The logarithm of λ, which stays above 0 so.
        numbers = {
            "log_penalty": jnp.log(self.penalty),
            "scale": self.scale,
            "bias": 0.0,
        }
        return {name: jnp.float32(value) for name, value in numbers.items()}

    def classify(
        self, term_params: PyTree, support: jax.Array, queries: jax.Array
    ) -> jax.Array:
        penalty = jnp.exp(term_params["log_penalty"])
        outputs = ridge_outputs(support, queries, penalty)
        return term_params["scale"] * outputs + term_params["bias"]
