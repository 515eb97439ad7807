"""K-FAC: stay near the starting point, by Kronecker factors of the Fisher information.

Unlike its diagonal, the factors know which parameters of a dense layer move the outputs
together, and which changes cancel.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import dense_layers, importance_file, per_leaf
from jaxtl.terms.regularizers.ewc import ewc
from jaxtl.terms.regularizers.fisher import diagonal_fisher, predicted, scores

KINDS = ("kfac",)
A, G = "A", "G"  # names of a layer's factors, after its path


def kfac(change: jax.Array, a: jax.Array, g: jax.Array) -> jax.Array:
    """½ tr(ΔWᵀ A ΔW G), which is ½ vec(ΔW)ᵀ (A ⊗ G) vec(ΔW), rows of ΔW in a row.

    Args:
      change: ΔW, (in, out); with a bias its change is the last row of (in + 1, out).
      a: A, (in, in) or (in + 1, in + 1), symmetric.
      g: G, (out, out), symmetric.

    Returns:
      A scalar.

    References:
      Martens & Grosse, Optimizing Neural Networks with Kronecker-factored Approximate
      Curvature, ICML 2015, eq. 1 and section 3 (one place).
      Ritter, Botev, Barber, Online Structured Laplace Approximations for Overcoming
      Catastrophic Forgetting, NeurIPS 2018, eq. 10 (as a penalty).
    """
    return 0.5 * jnp.sum(change * (a @ change @ g))


def factors(
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

        A = mean over examples of the mean over places of ā āᵀ,
        G = mean over examples of E_y Σ over places of δ δᵀ,

    ā being the layer's input, with a 1 behind where it has a bias, δ the gradient of
    log p(y | x; θ) at its output and y distributed as in `diagonal_fisher`. A leaves
    out the places that no gradient reaches: padding, and tokens that nothing reads.
    A ⊗ G is the layer's block of the Fisher information where that is of one example
    and one place, and where all examples share δ's second moment (a linear model with
    squared error); otherwise it takes ā and δ to be independent.

    Args:
      network: a network with `taps`.
      params, stats, x: θ, its statistics and a batch; evaluation mode.
      task, key, exact: as for `diagonal_fisher`.

    Returns:
      {"<path>/A": (in + 1, in + 1) or (in, in), "<path>/G": (out, out)}.

    References:
      Martens & Grosse, ICML 2015, section 3.
      Eschenhagen et al., Kronecker-Factored Approximate Curvature for Modern Neural
      Network Architectures, NeurIPS 2023 (several places: "expand").
    """
    shape = jax.eval_shape(lambda: network.apply(params, stats, x).logits).shape
    layers = dense_layers.paths(params)
    outputs, inputs, pull = dense_layers.watched(network, params, stats, x, layers)
    covectors, weights = _scores(outputs.reshape(shape), x, task, key, exact)

    def one(part):
        covector, weight = part
        return {
            path: (jnp.einsum("n,nti,ntj->ij", weight, d, d), jnp.any(d != 0, -1))
            for path, d in pull(covector.reshape(outputs.shape)).items()
        }

    found = jax.lax.map(one, (covectors, weights))
    flat, result = trees.flatten(params), {}
    for path, (g, reached) in found.items():
        a, reached = inputs[path], reached.any(0).astype(inputs[path].dtype)
        if f"{path}/bias" in flat:
            a = jnp.concatenate([a, jnp.ones_like(a[..., :1])], -1)
        share = reached / jnp.maximum(reached.sum(1, keepdims=True), 1)
        result[f"{path}/{A}"] = jnp.einsum("nt,nti,ntj->ij", share, a, a) / shape[0]
        result[f"{path}/{G}"] = g.sum(0) / shape[0]
    return result


def _scores(logits, x, task, key, exact):
    """Returns gradients of log p by the logits, (number, batch, ...), and weights."""
    keys = None if key is None else jax.random.split(key, len(logits))
    if task != "language":
        found = jax.vmap(lambda z, key: scores(z, task, key, exact))
        covectors, weights = found(logits, keys)
        return jnp.swapaxes(covectors, 0, 1), weights.T

    def one(z, row, key):
        covectors, weights = scores(z[:-1], task, key, exact)
        counted = jnp.where(predicted(row)[:, None], covectors, 0.0)
        return jnp.pad(counted, ((0, 0), (0, 1), (0, 0))), weights

    covectors, weights = jax.vmap(one)(logits, x, keys)
    return jnp.swapaxes(covectors, 0, 1), weights.T


def fisher(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    *,
    task: str = "classification",
    key: jax.Array | None = None,
    chunk: int = 8,
) -> dict[str, jax.Array]:
    """`factors`, and path -> `diagonal_fisher` of all leaves that belong to none."""
    found = factors(network, params, stats, x, task=task, key=key)
    covered = {name.rpartition("/")[0] for name in found}
    other = trees.map_with_path(
        lambda p, _: p.rpartition("/")[0] not in covered, params
    )
    rest, held = trees.partition(params, other)
    if not jax.tree.leaves(rest):
        return found

    def f(rest, x):
        return network.apply(trees.merge(rest, held), stats, x).logits

    diagonal = diagonal_fisher(f, rest, x, task=task, key=key, chunk=chunk)
    return {**found, **trees.flatten(diagonal)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KFAC(Term):
    """`kfac` over the dense layers, `ewc` over all other leaves, stored beforehand.

    `jaxtl importance RUN --kind kfac` makes the file. Counts the selected trainable
    parameters that have a source; convolutions, norms and embeddings have no factors
    here and count by the Fisher information's diagonal.

    Attributes:
      importance: a run's directory, or a file that `jaxtl importance` wrote.
      select: pattern of the parameters that count.
    """

    importance: str
    select: str = ".*"

    @property
    def streams(self):
        return ()

    def check(self, setup: Setup):
        per_leaf.check(setup, self.select, {})
        importance_file.check(setup, self.importance, KINDS)

    def describe(self, setup: Setup):
        found = importance_file.load(setup, self.importance, KINDS)
        layers, others = _split(per_leaf.pairs(setup, self.select), found.arrays)
        return (
            f"Kronecker factors of {len(layers)} dense layers and the diagonal of "
            f"{len(others)} other parameters, from {found.examples:,} examples of the "
            f"{found.split} split ({importance_file.locate(self.importance, KINDS[0])})"
        )

    def constants(self, setup: Setup):
        arrays = importance_file.load(setup, self.importance, KINDS).arrays
        pairs = per_leaf.pairs(setup, self.select)
        kernels = trees.flatten(setup.params)
        layers, others = _split(pairs, arrays)
        expected = {path: pairs[path][0].shape for path in others}
        for path in layers:
            inner, outer = kernels[f"{path}/kernel"].shape
            inner += f"{path}/bias" in kernels
            expected[f"{path}/{A}"], expected[f"{path}/{G}"] = (
                (inner,) * 2,
                (outer,) * 2,
            )
        for name, shape in expected.items():
            found = getattr(arrays.get(name), "shape", None)
            if found != shape:
                raise UserError(
                    f"{checks.where(setup, 'importance')}={self.importance!r}: "
                    f"{name!r} has the shape {found}, expected {shape}; the file is "
                    "damaged, make it anew with `jaxtl importance … --kind kfac`."
                )
        return {name: jnp.asarray(np.asarray(arrays[name])) for name in expected}

    def __call__(self, context):
        pairs, given = per_leaf.pairs(context, self.select), context.constants
        layers, others = _split(pairs, given)
        shapes = trees.flatten(context.params)
        value = jnp.float32(0.0)
        for path in layers:
            rows = []
            for name in ("kernel", "bias"):
                leaf = f"{path}/{name}"
                if leaf in pairs:
                    theta, start = pairs[leaf]
                    rows.append(jnp.atleast_2d(theta - start))
                elif leaf in shapes:  # frozen, or not selected: it counts as unmoved
                    rows.append(jnp.zeros_like(jnp.atleast_2d(shapes[leaf])))
            change = jnp.concatenate(rows)
            value += kfac(change, given[f"{path}/{A}"], given[f"{path}/{G}"])
        return sum((ewc(*pairs[p], given[p]) for p in others), value)


def _split(pairs: Mapping, arrays: Mapping) -> tuple[list[str], list[str]]:
    """Returns paths of the layers that have factors, and of the leaves of none."""
    owners = {path: path.rpartition("/")[0] for path in pairs}
    layers = dict.fromkeys(o for o in owners.values() if f"{o}/{A}" in arrays)
    return list(layers), [path for path, owner in owners.items() if owner not in layers]
