"""(IA)³: one trained factor per activation of keys, values and feed-forward layers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.peft import adapted_leaves, base


def _scale_outputs(weight: jax.Array, factors: jax.Array) -> jax.Array:
    """W · diag(l): a layer whose outputs are multiplied by l.

    Args:
      weight: (…, outputs), a kernel.
      factors: l, (outputs,).

    References:
      Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than
      In-Context Learning, NeurIPS 2022, §3.3: l ⊙ K, l ⊙ V.
    """
    return (weight * factors).astype(weight.dtype)


def _scale_bias(bias: jax.Array, factors: jax.Array) -> jax.Array:
    """l ⊙ b, for a bias of (outputs,) or one with further axes of length 1."""
    fits = bias.size == factors.size
    return (bias * (factors.reshape(bias.shape) if fits else factors)).astype(
        bias.dtype
    )


def _scale_inputs(weight: jax.Array, factors: jax.Array) -> jax.Array:
    """diag(l) · W: a layer whose inputs are multiplied by l.

    Args:
      weight: (…, inputs, outputs); a convolution's inputs are its channels.
      factors: l, (inputs,).

    References:
      As `_scale_outputs`: (l ⊙ γ(W₁ x)) W₂.
    """
    return (weight * factors[:, None]).astype(weight.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IA3(base.Reparametrization):
    """Factors l on outputs of layers, or on inputs; all start at 1.

    A fused projection is scaled as a whole, including the query's part.

    Attributes:
      select: the kernels of layers that get factors.
      inputs: pattern of those that get them on their inputs; the others get them on
        their outputs, bias included.
    """

    select: str = r"layer_\d+/(attention/(key|value|qkv)|mlp/out)/kernel"
    inputs: str = r".*/mlp/out"

    def adapted_mask(self, params: PyTree) -> PyTree:
        targets = self.targets(params)

        def is_adapted(path: str, _: Any) -> bool:
            kernels = [kernel for kernel in _kernels_of_bias(path) if kernel in targets]
            scaled = any(not selections.matches(self.inputs, k) for k in kernels)
            return path in targets or scaled

        return trees.map_with_path(is_adapted, params)

    def init(
        self, key: jax.Array, params: PyTree, features: Mapping[str, Any] | None = None
    ) -> PyTree:
        def ones(path: str, leaf: Any) -> dict[str, jax.Array]:
            dtype = adapted_leaves.delta_dtype(leaf.dtype)
            if selections.matches(self.inputs, path):
                return {"inputs": jnp.ones(leaf.shape[-2], dtype)}
            return {"outputs": jnp.ones(leaf.shape[-1], dtype)}

        targets = self.targets(params)
        return trees.nested({path: ones(path, x) for path, x in targets.items()})

    def merge(self, base_params: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        def merged(path: str, weight: jax.Array) -> jax.Array:
            for kernel in _kernels_of_bias(path):
                factors = adapted_leaves.subtree(delta, kernel)
                if factors is not None and "outputs" in factors:
                    return _scale_bias(weight, factors["outputs"])
            factors = adapted_leaves.subtree(delta, path)
            if factors is None:
                return weight
            if "outputs" in factors:
                return _scale_outputs(weight, factors["outputs"])
            return _scale_inputs(weight, factors["inputs"])

        return trees.map_with_path(merged, base_params)


def _kernels_of_bias(path: str) -> list[str]:
    """The paths that the kernel of a bias may have, [] for other leaves."""
    parent, _, name = path.rpartition("/")
    return [
        f"{parent}/{k}"
        for k, bias in adapted_leaves.MATRIX_NAMES.items()
        if bias == name
    ]
