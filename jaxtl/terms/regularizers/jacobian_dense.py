"""The Jacobian difference by the parameters of dense layers, without cross terms.

An example's Jacobian by a dense layer's kernel is a sum of outer products Σ_t a_t δ_tᵀ
over the positions t where the layer runs, so its distance to the source's needs inner
products of a's and of δ's only. With Δa = a − a₀ and Δδ = δ − δ₀

    a δᵀ − a₀ δ₀ᵀ = Δa δᵀ + a₀ Δδᵀ,
    ‖a δᵀ − a₀ δ₀ᵀ‖² = ‖Δa‖² ‖δ‖² + ‖a₀‖² ‖Δδ‖² + 2 (Δa·a₀)(δ·Δδ),

which equals ‖a‖²‖δ‖² + ‖a₀‖²‖δ₀‖² − 2 (a·a₀)(δ·δ₀) but does not cancel near θ₀, where
those three are large and their sum is small. Over several positions each product of
norms becomes a sum over pairs, Σ_tt' (a_t·a_t')(δ_t·δ_t').

References:
  Goodfellow, Efficient Per-Example Gradient Computations, arXiv:1510.01799 (one
  position).
  Rochette, Manoel, Tramel, Efficient Per-Example Gradient Computations in
  Convolutional Neural Networks, arXiv:1912.06015 (several).
"""

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core.types import Network, PyTree
from jaxtl.terms.regularizers.dense_layers import WatchedLayers, watch
from jaxtl.terms.regularizers.jacobian_sides import Sides

_CHUNK = 8  # directions that are pulled back at once


def outer_distance(
    a: jax.Array, d: jax.Array, a0: jax.Array, d0: jax.Array
) -> jax.Array:
    """‖Σ_t a_t d_tᵀ − Σ_t a⁰_t d⁰_tᵀ‖²_F of each example.

    Args:
      a, a0: (batch, positions, in).
      d, d0: (batch, positions, out).

    Returns:
      (batch,)
    """
    da, dd = a - a0, d - d0
    if a.shape[1] ** 2 > a.shape[2] * d.shape[2]:  # the outer products are smaller
        gap = jnp.einsum("nti,nto->nio", da, d) + jnp.einsum("nti,nto->nio", a0, dd)
        return jnp.sum(gap**2, (1, 2))

    def gram(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.einsum("ntk,nsk->nts", x, y)

    pairs = gram(da, da) * gram(d, d) + gram(a0, a0) * gram(dd, dd)
    return jnp.sum(pairs + 2.0 * gram(da, a0) * gram(d, dd), (1, 2))


class WatchedPair(NamedTuple):
    """The dense layers of the model and of the source.

    Attributes:
      model: f at θ.
      source: f₀ at θ₀, held constant.
      kernels, biases: paths of the layers whose kernel, and whose bias, counts.
    """

    model: WatchedLayers
    source: WatchedLayers
    kernels: frozenset[str]
    biases: frozenset[str]


def watched_pair(
    network: Network, sides: Sides, x: PyTree, paths: Collection[str], stage: str
) -> WatchedPair:
    """Runs both sides in evaluation mode and keeps the dense layers of some parameters.

    Args:
      network: a network with `taps`.
      sides: the model and the source.
      x: inputs.
      paths: of kernels and biases.
      stage: whose output f is.
    """
    kernels, biases = (
        frozenset(p.removesuffix(name) for p in paths if p.endswith(name))
        for name in ("/kernel", "/bias")
    )
    model, source = (
        watch(network, side.params, side.stats, x, kernels | biases, stage)
        for side in (sides.model, sides.source)
    )
    return WatchedPair(model, source, kernels, biases)


def dense_params(pair: WatchedPair, directions: jax.Array) -> jax.Array:
    """Σ_k mean over examples of ‖vₖᵀ(∂f(xᵢ; θ)/∂θ − ∂f₀(xᵢ; θ₀)/∂θ₀)‖².

    Over the unit vectors vₖ this is `exact_params` by those kernels and biases; over
    random signs its expectation is that, times their number. Examples never mix.

    Args:
      pair: the dense layers of both sides.
      directions: v, (number, batch or 1, outputs).

    Returns:
      A scalar.
    """
    stop_gradient = jax.lax.stop_gradient
    watched, source_watched, kernels, biases = pair

    def of_direction(direction: jax.Array) -> jax.Array:
        direction = jnp.broadcast_to(direction, watched.outputs.shape)
        d = watched.pull(direction)
        d0 = stop_gradient(source_watched.pull(direction))
        total = jnp.zeros(len(direction), direction.dtype)
        for path in sorted(kernels):
            a, a0 = watched.inputs[path], stop_gradient(source_watched.inputs[path])
            total += outer_distance(a, d[path], a0, d0[path])
        for path in sorted(biases):
            total += jnp.sum(jnp.sum(d[path] - d0[path], 1) ** 2, -1)
        return total.mean()

    directions = directions.astype(watched.outputs.dtype)
    if len(directions) <= _CHUNK:
        return jax.vmap(of_direction)(directions).sum()
    # Recomputing in the backward pass needs memory for one chunk, not for all.
    values = jax.lax.map(jax.checkpoint(of_direction), directions, batch_size=_CHUNK)
    return values.sum()
