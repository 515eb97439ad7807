"""(IA)³: one trained factor per activation of keys, values and feed-forward layers."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.peft import base


def scaled_outputs(weight: jax.Array, factors: jax.Array) -> jax.Array:
    """W · diag(l): a layer whose outputs are multiplied by l.

    Args:
      weight: (…, outputs), a kernel or a bias.
      factors: l, (outputs,).

    References:
      Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than
      In-Context Learning, NeurIPS 2022, §3.3: l ⊙ K, l ⊙ V.
    """
    return (weight * factors).astype(weight.dtype)


def scaled_inputs(weight: jax.Array, factors: jax.Array) -> jax.Array:
    """diag(l) · W: a layer whose inputs are multiplied by l.

    Args:
      weight: (…, inputs, outputs); a convolution's inputs are its channels.
      factors: l, (inputs,).

    References:
      As `scaled_outputs`: (l ⊙ γ(W₁ x)) W₂.
    """
    return (weight * factors[:, None]).astype(weight.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IA3(base.Reparametrization):
    """Factors l on outputs of layers, or on inputs; all start at 1.

    A fused projection is scaled whole, the query's part as well.

    Attributes:
      select: the kernels of layers that get factors.
      inputs: which of these get them on their inputs; the others on their outputs,
        bias included.
    """

    select: str = r"layer_\d+/(attention/(key|value|qkv)|mlp/out)/kernel"
    inputs: str = r".*/mlp/out"

    def adapted_mask(self, params: PyTree) -> PyTree:
        found = self.targets(params)

        def changed(path: str) -> bool:
            kernel = _kernel_of(path)
            scaled = kernel in found and not selections.matches(self.inputs, kernel)
            return path in found or scaled

        return trees.map_with_path(lambda path, _: changed(path), params)

    def init(self, key, params, features=None) -> PyTree:
        def fresh(path, leaf):
            dtype = base.delta_dtype(leaf.dtype)
            if selections.matches(self.inputs, path):
                return {"inputs": jnp.ones(leaf.shape[-2], dtype)}
            return {"outputs": jnp.ones(leaf.shape[-1], dtype)}

        return trees.nested({p: fresh(p, x) for p, x in self.targets(params).items()})

    def merge(self, base_params: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        def leaf(path, weight):
            kernel = _kernel_of(path)
            own = base.subtree(delta, kernel or path)
            if own is None:
                return weight
            if "outputs" in own:
                return scaled_outputs(weight, own["outputs"])
            return weight if kernel else scaled_inputs(weight, own["inputs"])

        return trees.map_with_path(leaf, base_params)


def _kernel_of(path: str) -> str | None:
    """Returns the path of the kernel that a bias belongs to, None for other leaves."""
    parent, _, last = path.rpartition("/")
    return f"{parent}/kernel" if last == "bias" else None
