"""A linear model, fitted to convergence before training: a convex problem, L-BFGS."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize


def fit(
    x: jax.Array,
    y: jax.Array,
    outputs: int,
    loss: Callable,
    *,
    decay: float,
    bias: bool = True,
    steps: int = 500,
) -> dict[str, jax.Array]:
    """Minimises loss(x W + b, y) + decay/2 · ‖W‖² from 0; b is not decayed.

    Args:
      x: (examples, width), float32.
      y: labels, as `loss` takes them.
      outputs: number of columns of W.
      loss: convex in its first argument, (logits, y) -> mean over examples.
      decay: of W. With a sum over n examples in place of the mean it is n · decay:
        scikit-learn's C is 1 / (n · decay).
      bias: fit b, too.
      steps: most L-BFGS iterations.

    Returns:
      {"kernel": (width, outputs), "bias": (outputs,)}; the bias is 0 if not fitted.
    """
    shape = (x.shape[1] + bias, outputs)

    @jax.jit
    def slope(flat):
        def total(flat):
            params = _split(flat.reshape(shape), bias)
            shrink = 0.5 * decay * jnp.sum(jnp.square(params["kernel"]))
            return loss(x @ params["kernel"] + params["bias"], y) + shrink

        return jax.value_and_grad(total)(flat)

    def numpy_slope(flat):
        value, grad = slope(jnp.asarray(flat, x.dtype))
        return float(value), np.asarray(grad, np.float64)

    found = optimize.minimize(
        numpy_slope,
        np.zeros(shape[0] * shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps},
    )
    return _split(jnp.asarray(found.x, x.dtype).reshape(shape), bias)


def _split(table, bias: bool):
    """The last row of the table is the bias, where it is fitted."""
    if bias:
        return {"kernel": table[:-1], "bias": table[-1]}
    return {"kernel": table, "bias": jnp.zeros(table.shape[1], table.dtype)}
