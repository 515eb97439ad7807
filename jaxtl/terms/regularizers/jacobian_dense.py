"""The Jacobian difference by the parameters of dense layers, without cross terms.

An example's Jacobian by a dense layer's kernel is a sum of outer products Σ_t a_t δ_tᵀ
over the places t where the layer runs, so its distance to the source's needs inner
products of a's and of δ's only. With Δa = a − a₀ and Δδ = δ − δ₀

    a δᵀ − a₀ δ₀ᵀ = Δa δᵀ + a₀ Δδᵀ,
    ‖a δᵀ − a₀ δ₀ᵀ‖² = ‖Δa‖² ‖δ‖² + ‖a₀‖² ‖Δδ‖² + 2 (Δa·a₀)(δ·Δδ),

which equals ‖a‖²‖δ‖² + ‖a₀‖²‖δ₀‖² − 2 (a·a₀)(δ·δ₀) and does not cancel near θ₀, where
those three are large and their sum is small. Over several places each product of norms
becomes a sum over pairs, Σ_tt' (a_t·a_t')(δ_t·δ_t').

References:
  Goodfellow, Efficient Per-Example Gradient Computations, arXiv:1510.01799 (one place).
  Rochette, Manoel, Tramel, Efficient Per-Example Gradient Computations in
  Convolutional Neural Networks, arXiv:1912.06015 (several).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

_TOGETHER = 8  # directions that are pulled back at once


class Seen(NamedTuple):
    """What `dense.watched` returns."""

    outputs: jax.Array
    inputs: Mapping[str, jax.Array]
    pull: Callable


def outer_distance(
    a: jax.Array, d: jax.Array, a0: jax.Array, d0: jax.Array
) -> jax.Array:
    """‖Σ_t a_t d_tᵀ − Σ_t a⁰_t d⁰_tᵀ‖²_F of each example.

    Args:
      a, a0: (batch, places, in).
      d, d0: (batch, places, out).

    Returns:
      (batch,)
    """
    da, dd = a - a0, d - d0
    if a.shape[1] ** 2 > a.shape[2] * d.shape[2]:  # the products are the smaller
        gap = jnp.einsum("nti,nto->nio", da, d) + jnp.einsum("nti,nto->nio", a0, dd)
        return jnp.sum(gap**2, (1, 2))

    def gram(x, y):
        return jnp.einsum("ntk,nsk->nts", x, y)

    pairs = gram(da, da) * gram(d, d) + gram(a0, a0) * gram(dd, dd)
    return jnp.sum(pairs + 2.0 * gram(da, a0) * gram(d, dd), (1, 2))


def dense_params(
    ours: Seen,
    theirs: Seen,
    directions: jax.Array,
    kernels: frozenset[str],
    biases: frozenset[str],
) -> jax.Array:
    """Σ_k mean over examples of ‖vₖᵀ(∂f(xᵢ; θ)/∂θ − ∂f₀(xᵢ; θ₀)/∂θ₀)‖².

    Over the unit vectors vₖ this is `exact_params` by those kernels and biases; over
    random signs its expectation is that, times their number. Examples never mix.

    Args:
      ours: f at θ.
      theirs: f₀ at θ₀, held constant.
      directions: v, (number, batch or 1, outputs).
      kernels, biases: paths of the layers whose kernel, and whose bias, counts.

    Returns:
      A scalar.
    """
    hold = jax.lax.stop_gradient

    def one(direction):
        direction = jnp.broadcast_to(direction, ours.outputs.shape)
        d, d0 = ours.pull(direction), hold(theirs.pull(direction))
        total = jnp.zeros(len(direction), direction.dtype)
        for path in sorted(kernels):
            a, a0 = ours.inputs[path], hold(theirs.inputs[path])
            total += outer_distance(a, d[path], a0, d0[path])
        for path in sorted(biases):
            total += jnp.sum(jnp.sum(d[path] - d0[path], 1) ** 2, -1)
        return total.mean()

    directions = directions.astype(ours.outputs.dtype)
    if len(directions) <= _TOGETHER:
        return jax.vmap(one)(directions).sum()
    # The backward pass recomputes: memory for some directions, not for all.
    return jax.lax.map(jax.checkpoint(one), directions, batch_size=_TOGETHER).sum()
