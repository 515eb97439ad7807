"""Activation functions by name."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError, nearest

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "gelu": nn.gelu,
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    # Hendrycks & Gimpel, arXiv:1606.08415: x · σ(1.702 x)
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "elu": nn.elu,
    "identity": lambda x: x,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Looks up an activation function.

    Raises:
      UserError: the name is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise UserError(
            f"activation={name!r} is unknown{nearest(name, ACTIVATIONS)} "
            f"(known: {', '.join(ACTIVATIONS)})."
        )
    return ACTIVATIONS[name]
