"""Projectors and predictors: perceptrons on top of features."""

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import PyTree
from jaxtl.models.layers.batch_norm import normalize
from jaxtl.models.layers.channel_moments import channel_moments
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.domain import adversarial

EPSILON = 1e-5  # of BatchNorm, as torch's


def projector_init(
    key: jax.Array, width: int, widths: tuple[int, ...], norm: bool
) -> PyTree:
    """Initializes a perceptron, {} for no layer.

    Args:
      key: PRNG key.
      width: of its input.
      widths: of its layers, the last of them the output's.
      norm: whether hidden layers are batch-normalized before ReLU.
    """
    if not widths:
        return {}
    hidden = (width, *widths[:-1])
    return adversarial.perceptron_init(key, hidden, widths[-1], norm=norm)


def project(params: PyTree, x: jax.Array, output_norm: bool = False) -> jax.Array:
    """The perceptron's output, (batch, width); x itself without a layer.

    Args:
      params: of `projector_init`.
      x: (batch, width).
      output_norm: whether the output is batch-normalized, without scale and shift.
    """
    x = adversarial.perceptron(params, x)
    return batch_normalized(x) if output_norm else x


def batch_normalized(x: jax.Array) -> jax.Array:
    """Features of mean 0 and variance 1 over the batch, (batch, width), ε = 1e-5."""
    moments = channel_moments(as_float32(x), EPSILON)
    ones = jnp.ones(x.shape[-1])
    return normalize(x, moments, ones, jnp.zeros_like(ones), EPSILON)


def unit(x: jax.Array) -> jax.Array:
    """Rows scaled to length 1; a row of zeros stays, with gradient 0."""
    squares = jnp.sum(jnp.square(x), -1, keepdims=True)
    is_zero = squares == 0
    return jnp.where(is_zero, 0, x * jax.lax.rsqrt(jnp.where(is_zero, 1, squares)))


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cosine of the angles between rows of equal number; (n, width) each."""
    return jnp.mean(jnp.sum(unit(x) * unit(y), -1))


def spread(z: jax.Array) -> jax.Array:
    """√width times the mean deviation of unit vectors' entries.

    1 for directions spread over the sphere, 0 where all examples have one direction:
    the sign of a collapse (Chen & He, CVPR 2021, section 4.1).
    """
    z = unit(jax.lax.stop_gradient(as_float32(z)))
    return jnp.sqrt(z.shape[-1]) * jnp.mean(jnp.std(z, 0))


def check_widths(setup: Setup, field: str, widths: tuple[int, ...]) -> None:
    """Raises UserError unless all widths of layers are whole numbers above 0."""
    is_valid = isinstance(widths, tuple | list) and all(
        isinstance(width, int) and width >= 1 for width in widths
    )
    if not is_valid:
        raise UserError(
            f"{checks.where(setup, field)}={widths!r}: expected widths of layers of at "
            "least 1, such as (512, 128); () for none."
        )


def check_predictor(
    setup: Setup, projector: tuple[int, ...], predictor: tuple[int, ...], width: int
) -> None:
    """Raises UserError unless a predictor ends in the width that it predicts.

    Args:
      setup: what the term is checked against.
      projector, predictor: widths of their layers.
      width: of the features.
    """
    check_widths(setup, "projector", projector)
    check_widths(setup, "predictor", predictor)
    predicted = projector[-1] if projector else width
    if not predictor or predictor[-1] != predicted:
        raise UserError(
            f"{checks.where(setup, 'predictor')}={predictor!r}: its last layer must be "
            f"as wide as the projections that it predicts, {predicted}; expected "
            f"{(*predictor[:-1], predicted)}."
        )
