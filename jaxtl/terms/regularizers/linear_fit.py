"""A linear model fitted to convergence before training: a convex problem, by L-BFGS."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize


def fit_linear(
    x: jax.Array,
    y: jax.Array,
    outputs: int,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    decay: float,
    bias: bool = True,
    steps: int = 500,
) -> dict[str, jax.Array]:
    """Minimizes loss(x W + b, y) + decay/2 · ‖W‖² from 0; b is not decayed.

    `analysis.linear_models` fits paths of ridge and logistic regressions in float64;
    this fits any convex loss in the precision of x.

    Args:
      x: (examples, width), float32.
      y: labels, as `loss` takes them.
      outputs: number of columns of W.
      loss: convex in its first argument, (logits, y) -> mean over examples.
      decay: of W. In an objective with a sum over n examples in place of the mean it is
        n · decay: scikit-learn's C is 1 / (n · decay).
      bias: whether b is fitted.
      steps: largest number of L-BFGS iterations.

    Returns:
      {"kernel": (width, outputs), "bias": (outputs,)}; the bias is 0 if not fitted.
    """
    shape = (x.shape[1] + bias, outputs)

    @jax.jit
    def value_and_grad(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        def objective(flat: jax.Array) -> jax.Array:
            params = _split_bias(flat.reshape(shape), bias)
            penalty = 0.5 * decay * jnp.sum(jnp.square(params["kernel"]))
            return loss(x @ params["kernel"] + params["bias"], y) + penalty

        return jax.value_and_grad(objective)(flat)

    def in_numpy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = value_and_grad(jnp.asarray(flat, x.dtype))
        return float(value), np.asarray(grad, np.float64)

    result = optimize.minimize(
        in_numpy,
        np.zeros(shape[0] * shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps},
    )
    return _split_bias(jnp.asarray(result.x, x.dtype).reshape(shape), bias)


def _split_bias(table: jax.Array, bias: bool) -> dict[str, jax.Array]:
    """Splits off the last row of the table, the bias, where it is fitted."""
    if bias:
        return {"kernel": table[:-1], "bias": table[-1]}
    return {"kernel": table, "bias": jnp.zeros(table.shape[1], table.dtype)}
