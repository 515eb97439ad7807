"""The difference of two Jacobians: exact, projected on random signs, or forward.

    Ω(θ) = mean over examples of ‖∂f(xᵢ; θ)/∂z − ∂f(xᵢ; θ₀)/∂z‖²_F,

summed over outputs and over z, which is the parameters ("preserving gradient") or the
inputs ("Jacobian matching"). Per-example Jacobians cost hundreds of plain steps, so the
projected estimator draws one random sign v_ic per example and output: with

    g(θ) = ∇_z Σ_ic v_ic f_c(xᵢ; θ)         (one backward pass for the whole batch)

E‖g(θ) − g(θ₀)‖² = Σᵢ ‖…‖²_F, since E v vᵀ is the identity and cross terms vanish.
With t = g(θ) − g(θ₀) held constant, the gradient of ‖t‖² is that of 2⟨v, ∂f/∂z · t⟩:
one forward-mode pass, reversed once, where differentiating g(θ) itself would reverse
the backward pass. Second derivatives of the estimate are not available this way.

The variance of the mean over K draws is 2 Σ_{p≠q} E[M_pq²] ⟨J_p, J_q⟩², where p and q
run over pairs (example, output), J_p is a row of the difference and M = Σₖ vₖvₖᵀ / K.
Independent signs have E[M_pq²] = 1/K everywhere. A draw and its negative give the same
square, so antithetic pairs would repeat one draw; orthogonal draws help (`signs`).

The forward estimator draws the sign from the other side: with one random direction u
over z, E‖(J(θ) − J(θ₀))u‖² = ‖J(θ) − J(θ₀)‖²_F for every example. One forward-mode pass
gives Ju of the whole batch, and reversing that pass once gives the exact gradient. Its
first half is f itself, so a task that runs f as well can share both with it. Where z
are the parameters all examples share u. The variance over K draws is then
2/K Σ_{p≠q} M_pq², where p and q run over the entries of z and M is the mean over
examples of DᵢᵀDᵢ, D a difference of Jacobians. Up to its diagonal that is the projected
estimator's, whose rows are D's.

References:
  Srinivas & Fleuret, Knowledge Transfer with Jacobian Matching, ICML 2018 (inputs).
  Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree

Function = Callable[[PyTree, PyTree], jax.Array]  # (params, x) -> (batch, outputs)


def exact_params(
    f: Function,
    params: PyTree,
    source_params: PyTree,
    x: PyTree,
    source_f: Function | None = None,
) -> jax.Array:
    """Mean over examples of ‖∂f(xᵢ; θ)/∂θ − ∂f₀(xᵢ; θ₀)/∂θ₀‖²_F.

    Computes the Jacobians example by example, in memory for one: for small models, and
    as the reference of `projected_params`.

    Args:
      f: (params, x) -> (batch, outputs); an example's outputs depend on it alone.
        Gradients also reach what `f` closes over.
      params: θ, the leaves to differentiate by.
      source_params: θ₀, the same structure, held constant.
      x: (batch, ...) array, or a tree of such.
      source_f: f₀; `f` if left out.

    Returns:
      A scalar: the sum over outputs and parameters, the mean over examples.
    """
    f0 = source_f or f

    def of_example(row: PyTree) -> jax.Array:
        jacobian = jax.jacrev(lambda p: f(p, row)[0])(params)
        source_jacobian = jax.jacrev(lambda p: f0(p, row)[0])(source_params)
        return _squared_distance(jacobian, source_jacobian)

    return jnp.mean(_map_examples(of_example, x))


def exact_inputs(
    f: Function,
    params: PyTree,
    source_params: PyTree,
    x: PyTree,
    source_f: Function | None = None,
) -> jax.Array:
    """Mean over examples of ‖∂f(xᵢ; θ)/∂xᵢ − ∂f₀(xᵢ; θ₀)/∂xᵢ‖²_F.

    Args:
      f, params, source_params, source_f: as in `exact_params`.
      x: (batch, ...) array, or a tree of such, of floating point.

    Returns:
      A scalar: the sum over outputs and inputs, the mean over examples.
    """
    f0 = source_f or f

    def of_example(row: PyTree) -> jax.Array:
        jacobian = jax.jacrev(lambda r: f(params, r)[0])(row)
        source_jacobian = jax.jacrev(lambda r: f0(source_params, r)[0])(row)
        return _squared_distance(jacobian, source_jacobian)

    return jnp.mean(_map_examples(of_example, x))


def projected_params(
    f: Function,
    params: PyTree,
    source_params: PyTree,
    x: PyTree,
    key: jax.Array,
    probes: int = 1,
    source_f: Function | None = None,
    draws: str = "signs",
) -> jax.Array:
    """An unbiased estimate of `exact_params` by random signs; mean over `probes` draws.

    Its value is ‖g(θ) − g(θ₀)‖² / batch, and its gradient is exact for that value.
    Memory and time do not grow with the number of outputs.

    Args:
      f, params, source_params, x, source_f: as in `exact_params`.
      key, probes, draws: as in `signs`.

    Returns:
      A scalar.
    """
    f0 = source_f or f
    return _projected(
        lambda p: f(p, x),
        params,
        lambda p: f0(p, x),
        source_params,
        key,
        probes,
        draws,
    )


def projected_inputs(
    f: Function,
    params: PyTree,
    source_params: PyTree,
    x: PyTree,
    key: jax.Array,
    probes: int = 1,
    source_f: Function | None = None,
    draws: str = "signs",
) -> jax.Array:
    """An unbiased estimate of `exact_inputs` by random signs; mean over `probes` draws.

    Args:
      f, params, source_params, x, source_f: as in `exact_inputs`.
      key, probes, draws: as in `signs`.

    Returns:
      A scalar.
    """
    f0 = source_f or f
    return _projected(
        lambda z: f(params, z), x, lambda z: f0(source_params, z), x, key, probes, draws
    )


def forward(
    tangent: Callable[[PyTree], jax.Array],
    source_tangent: Callable[[PyTree], jax.Array],
    directions: Sequence[PyTree],
) -> jax.Array:
    """An unbiased estimate of the difference by random directions u: the mean over them
    and over examples of ‖Ju − J₀u‖². Its gradient is exact for that value.

    Args:
      tangent: u -> Ju, (batch, outputs), see `tangents`.
      source_tangent: u -> J₀u, where J₀ is held constant.
      directions: of the parameters (`exact_params`) or of the inputs, one for each
        example (`exact_inputs`); of −1 and 1, as `random_signs` draws them.

    Returns:
      A scalar.
    """
    total: Any = 0.0
    for u in directions:  # few, so unrolled
        gap = tangent(u) - source_tangent(u)
        total = total + jnp.sum(jnp.square(gap)) / len(gap)
    return total / len(directions)


def tangents(
    f: Callable[[PyTree], jax.Array], z: PyTree
) -> Callable[[PyTree], jax.Array]:
    """The Jacobian of a function at a point, as a linear map.

    Args:
      f: from a tree to an array, differentiable.
      z: the point.

    Returns:
      u -> J(z)·u, the derivative of f at z along u, of the shape of f(z); u has the
      structure of z.
    """
    return lambda u: jax.jvp(f, (z,), (u,))[1]


def random_signs(key: jax.Array, tree: PyTree) -> PyTree:
    """Draws a random sign for each entry of a tree.

    Each random word of 32 bits gives 32 of them: drawing a word for each is a large
    part of a small network's step.

    Args:
      key: PRNG key.
      tree: gives structure, shapes and dtypes.

    Returns:
      The same structure, each entry −1 or 1 with equal probability.
    """
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    draws = [_signs_like(k, leaf) for k, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(structure, draws)


def _signs_like(key: jax.Array, leaf: jax.Array) -> jax.Array:
    words = jax.random.bits(key, (-(-leaf.size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)) & 1
    bits = bits.reshape(-1)[: leaf.size].reshape(leaf.shape)
    return 2 * bits.astype(leaf.dtype) - 1


def signs(
    key: jax.Array,
    probes: int,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    draws: str = "signs",
) -> jax.Array:
    """Draws v with E v vᵀ = 1, each entry −1 or 1.

    "signs" draws all entries independently. "orthogonal" draws one sign per example
    and output and multiplies it, in draw k, by entry (k, (i + c) mod N) of a Hadamard
    matrix, whose order N is the first power of two that is at least `probes`. With
    `probes` = N, M_pq is 0 where columns differ and ±1 where they agree, which two
    outputs of an example, or one output of two examples, do once in N; so there is no
    noise within an example that has no more than N outputs.

    Args:
      key: PRNG key.
      probes: K, number of draws.
      shape: (batch, outputs).
      dtype: of the result.
      draws: "signs" or "orthogonal".

    Returns:
      (K, batch, outputs).
    """
    if draws == "signs":
        keys = jax.random.split(key, probes)
        return jnp.stack([jax.random.rademacher(k, shape, dtype) for k in keys])
    matrix = np.ones((1, 1))
    while len(matrix) < probes:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    example, output = np.indices(shape)
    table = matrix[:probes, (example + output) % len(matrix)]
    return jax.random.rademacher(key, shape, dtype) * jnp.asarray(table, dtype)


def _projected(
    f: Callable[[PyTree], jax.Array],
    z: PyTree,
    source_f: Callable[[PyTree], jax.Array],
    source_z: PyTree,
    key: jax.Array,
    probes: int,
    draws: str,
) -> jax.Array:
    """The estimate for two functions of z, by which they are differentiated."""
    stop_gradient = jax.lax.stop_gradient
    out = jax.eval_shape(f, z)
    total: Any = 0.0
    for v in signs(key, probes, out.shape, out.dtype, draws):  # few, so unrolled
        g = jax.grad(lambda z, v=v: jnp.sum(v * f(z)))(stop_gradient(z))
        source_g = jax.grad(lambda z, v=v: jnp.sum(v * source_f(z)))(
            stop_gradient(source_z)
        )
        t = stop_gradient(trees.sub(g, source_g))
        slope = 2.0 * jnp.sum(v * jax.jvp(f, (z,), (t,))[1])
        # The bracket is 0 and carries the gradient. Adding the slope itself would lose
        # the value to rounding: near θ₀ it is far larger than ‖t‖².
        total = total + trees.sum_squares(t) + (slope - stop_gradient(slope))
    return total / (probes * out.shape[0])


def _squared_distance(jacobian: PyTree, source_jacobian: PyTree) -> jax.Array:
    gap = trees.sub(jacobian, jax.lax.stop_gradient(source_jacobian))
    return trees.sum_squares(gap)


def _map_examples(of_example: Callable[[PyTree], jax.Array], x: PyTree) -> jax.Array:
    """Maps over examples, each a batch of one; the backward pass recomputes."""
    rows = jax.tree.map(lambda a: a[:, None], x)
    return jax.lax.map(jax.checkpoint(of_example), rows)
