"""K-FAC: distances to the starting point by Kronecker factors of the Fisher matrix.

In contrast to the diagonal, the factors tell which parameters of a dense layer move the
outputs together, and which changes cancel.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import dense_layers, importance_file, per_leaf
from jaxtl.terms.regularizers.ewc import ewc
from jaxtl.terms.regularizers.fisher import (
    check_task,
    diagonal_fisher,
    predicted_positions,
    score_covectors,
)

_KINDS = ("kfac",)  # of importance files
_A, _G = "A", "G"  # names of a layer's factors, after its path


def kfac(change: jax.Array, a: jax.Array, g: jax.Array) -> jax.Array:
    """½ tr(ΔWᵀ A ΔW G) = ½ vec(ΔW)ᵀ (A ⊗ G) vec(ΔW), vec concatenating the rows.

    Args:
      change: ΔW, (in, out); with a bias its change is the last row of (in + 1, out).
      a: A, (in, in) or (in + 1, in + 1), symmetric.
      g: G, (out, out), symmetric.

    Returns:
      A scalar.

    References:
      Martens & Grosse, Optimizing Neural Networks with Kronecker-factored Approximate
      Curvature, ICML 2015, eq. 1 and section 3 (one position).
      Ritter, Botev, Barber, Online Structured Laplace Approximations for Overcoming
      Catastrophic Forgetting, NeurIPS 2018, eq. 10 (as a penalty).
    """
    return 0.5 * jnp.sum(change * (a @ change @ g))


def kronecker_factors(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    *,
    task: str = "classification",
    key: jax.Array | None = None,
    exact: int = 16,
) -> dict[str, jax.Array]:
    """Kronecker factors of the Fisher information of every dense layer that runs.

        A = mean over examples of the mean over positions of ā āᵀ,
        G = mean over examples of E_y Σ over positions of δ δᵀ,

    ā being the layer's input, with a 1 appended where it has a bias, δ the gradient of
    log p(y | x; θ) at its output and y distributed as in `diagonal_fisher`. A leaves
    out the positions that no gradient reaches: padding, and tokens that nothing reads.
    A ⊗ G is the layer's block of the Fisher information for one example and one
    position, and where all examples share δ's second moment (a linear model with
    squared error); otherwise ā and δ are assumed to be independent.

    Args:
      network: a network with `taps`.
      params, stats, x: θ, its statistics and a batch; evaluation mode.
      task, key, exact: as in `diagonal_fisher`.

    Returns:
      {"<path>/A": (in + 1, in + 1) or (in, in), "<path>/G": (out, out)}.

    References:
      Martens & Grosse, ICML 2015, section 3.
      Eschenhagen et al., Kronecker-Factored Approximate Curvature for Modern Neural
      Network Architectures, NeurIPS 2023 (several positions: "expand").
    """
    check_task(task)
    shape = jax.eval_shape(lambda: network.apply(params, stats, x).logits).shape
    layers = dense_layers.paths(params)
    watched = dense_layers.watch(network, params, stats, x, layers)
    logits = watched.outputs.reshape(shape)
    covectors, weights = _batch_covectors(logits, x, task, key, exact)

    def pull_back(part: tuple[jax.Array, jax.Array]) -> dict[str, Any]:
        covector, weight = part
        deltas = watched.pull(covector.reshape(watched.outputs.shape))
        return {
            path: (jnp.einsum("n,nti,ntj->ij", weight, d, d), jnp.any(d != 0, -1))
            for path, d in deltas.items()
        }

    moments = jax.lax.map(pull_back, (covectors, weights))
    leaves, factors = trees.flatten(params), {}
    for path, (g, is_reached) in moments.items():
        a = watched.inputs[path]
        is_reached = is_reached.any(0).astype(a.dtype)
        if f"{path}/bias" in leaves:
            a = jnp.concatenate([a, jnp.ones_like(a[..., :1])], -1)
        share = is_reached / jnp.maximum(is_reached.sum(1, keepdims=True), 1)
        factors[f"{path}/{_A}"] = jnp.einsum("nt,nti,ntj->ij", share, a, a) / shape[0]
        factors[f"{path}/{_G}"] = g.sum(0) / shape[0]
    return factors


def _batch_covectors(
    logits: jax.Array, x: PyTree, task: str, key: jax.Array | None, exact: int
) -> tuple[jax.Array, jax.Array]:
    """`score_covectors` of a batch: (number, batch, ...), weights (number, batch)."""
    keys = None if key is None else jax.random.split(key, len(logits))
    if task != "language":
        of_batch = jax.vmap(lambda z, key: score_covectors(z, task, key, exact))
        covectors, weights = of_batch(logits, keys)
        return jnp.swapaxes(covectors, 0, 1), weights.T

    def of_text(
        logits: jax.Array, x: PyTree, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        covectors, weights = score_covectors(logits[:-1], task, key, exact)
        covectors = jnp.where(predicted_positions(x)[:, None], covectors, 0.0)
        return jnp.pad(covectors, ((0, 0), (0, 1), (0, 0))), weights

    covectors, weights = jax.vmap(of_text)(logits, x, keys)
    return jnp.swapaxes(covectors, 0, 1), weights.T


def block_fisher(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    *,
    task: str = "classification",
    key: jax.Array | None = None,
    chunk: int = 8,
) -> dict[str, jax.Array]:
    """Kronecker factors of dense layers, the Fisher information's diagonal elsewhere.

    Args:
      network, params, stats, x, task, key: as in `kronecker_factors`.
      chunk: as in `diagonal_fisher`.

    Returns:
      `kronecker_factors`, and path -> `diagonal_fisher` of every leaf without factors.
    """
    factors = kronecker_factors(network, params, stats, x, task=task, key=key)
    layers = {name.rpartition("/")[0] for name in factors}
    mask = trees.map_with_path(lambda p, _: p.rpartition("/")[0] not in layers, params)
    diagonal_params, layer_params = trees.partition(params, mask)
    if not jax.tree.leaves(diagonal_params):
        return factors

    def f(params: PyTree, x: PyTree) -> jax.Array:
        return network.apply(trees.merge(params, layer_params), stats, x).logits

    diagonal = diagonal_fisher(f, diagonal_params, x, task=task, key=key, chunk=chunk)
    return {**factors, **trees.flatten(diagonal)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KFAC(per_leaf.ParameterTerm):
    """`kfac` over the dense layers, `ewc` over all other leaves, from a stored file.

    `jaxtl importance RUN --kind kfac` writes the file. Counts the selected trainable
    parameters that have a source; convolutions, norms and embeddings have no factors
    and count by the Fisher information's diagonal.

    Attributes:
      importance: a run's directory, or a file that `jaxtl importance` wrote.
      select: pattern of the parameters that count.
    """

    importance: str
    select: str = ".*"

    def check(self, setup: Setup) -> None:
        per_leaf.check(setup, self.select, {})
        importance_file.check(setup, self.importance, _KINDS)

    def describe(self, setup: Setup) -> str:
        stored = importance_file.load(setup, self.importance, _KINDS)
        pairs = per_leaf.leaf_pairs(setup, self.select)
        layers, diagonal = _split_paths(pairs, stored.arrays)
        return (
            f"Kronecker factors of {len(layers)} dense layers and the diagonal of "
            f"{len(diagonal)} other parameters, from {stored.examples:,} examples of "
            f"the {stored.split} split "
            f"({importance_file.locate(self.importance, _KINDS[0])})"
        )

    def constants(self, setup: Setup) -> PyTree:
        arrays = importance_file.load(setup, self.importance, _KINDS).arrays
        pairs = per_leaf.leaf_pairs(setup, self.select)
        for name, shape in (shapes := _factor_shapes(setup, pairs, arrays)).items():
            stored_shape = getattr(arrays.get(name), "shape", None)
            if stored_shape != shape:
                raise UserError(
                    f"{checks.where(setup, 'importance')}={self.importance!r}: "
                    f"{name!r} has the shape {stored_shape}, expected {shape}; the "
                    "file is damaged, make it anew with `jaxtl importance … --kind "
                    "kfac`."
                )
        return {name: jnp.asarray(np.asarray(arrays[name])) for name in shapes}

    def __call__(self, context: View) -> jax.Array:
        pairs = per_leaf.leaf_pairs(context, self.select)
        constants, leaves = context.constants, trees.flatten(context.params)
        layers, diagonal = _split_paths(pairs, constants)
        value = jnp.float32(0.0)
        for path in layers:
            change = _layer_change(path, pairs, leaves)
            value += kfac(change, constants[f"{path}/{_A}"], constants[f"{path}/{_G}"])
        return sum((ewc(*pairs[path], constants[path]) for path in diagonal), value)


def _layer_change(
    path: str,
    pairs: Mapping[str, tuple[jax.Array, jax.Array]],
    leaves: Mapping[str, jax.Array],
) -> jax.Array:
    """ΔW of a dense layer, its bias as the last row; 0 where a leaf does not count."""
    rows = []
    for name in ("kernel", "bias"):
        leaf = f"{path}/{name}"
        if leaf in pairs:
            params, source = pairs[leaf]
            rows.append(jnp.atleast_2d(params - source))
        elif leaf in leaves:  # frozen, or not selected
            rows.append(jnp.zeros_like(jnp.atleast_2d(leaves[leaf])))
    return jnp.concatenate(rows)


def _factor_shapes(
    setup: Setup, pairs: Mapping[str, tuple], arrays: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Name -> expected shape of every array that the term reads."""
    layers, diagonal = _split_paths(pairs, arrays)
    leaves = trees.flatten(setup.params)
    shapes = {path: pairs[path][0].shape for path in diagonal}
    for path in layers:
        inputs, outputs = leaves[f"{path}/kernel"].shape
        inputs += f"{path}/bias" in leaves
        shapes[f"{path}/{_A}"] = (inputs, inputs)
        shapes[f"{path}/{_G}"] = (outputs, outputs)
    return shapes


def _split_paths(
    pairs: Mapping[str, tuple], arrays: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Paths of the layers that have factors, and of the leaves that belong to none."""
    modules = {path: path.rpartition("/")[0] for path in pairs}
    layers = dict.fromkeys(m for m in modules.values() if f"{m}/{_A}" in arrays)
    diagonal = [path for path, module in modules.items() if module not in layers]
    return list(layers), diagonal
