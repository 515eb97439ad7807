"""Low-rank updates of weights: LoRA, rank-stabilized LoRA, DoRA."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.peft import adapted_leaves, base


def lora(weight: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """W + s · A · B.

    Args:
      weight: W, (…, outputs); the axes before the last count as one, of `inputs`: a
        convolution's (height, width, in) are h · w · in.
      a: (inputs, rank).
      b: (rank, outputs).
      scale: s; α / rank, or α / √rank.

    Returns:
      The weight's shape, in the wider dtype of both.

    References:
      Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, eq. 3:
      W₀ + BA with the factors' names swapped, since kernels here are (in, out).
      Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA,
      arXiv:2312.03732: α / √rank.
    """
    return weight + (scale * (a @ b)).reshape(weight.shape)


def dora(weight: jax.Array, magnitude: jax.Array) -> jax.Array:
    """m · V / ‖V‖, the norm over the inputs of each output, constant in the gradient.

    Args:
      weight: V = W + s · A · B, (…, outputs).
      magnitude: m, (outputs,).

    Returns:
      The merged weight, of the shape of `weight`.

    References:
      Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024, eq. 5 and
      §4.3: ‖V‖ changes with A and B, but gets no gradient.
    """
    return weight * (magnitude / _output_norms(jax.lax.stop_gradient(weight)))


def _output_norms(weight: jax.Array) -> jax.Array:
    """The norm of each output's weights, (outputs,); 1 in place of 0."""
    flat = weight.reshape(-1, weight.shape[-1])
    norm = jnp.sqrt(jnp.sum(jnp.square(flat), 0))
    return jnp.where(norm > 0, norm, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(base.Reparametrization):
    """Weights W + α / rank · A · B, of which A and B are trained.

    A kernel's A starts uniform within ±1/√inputs and its B at 0; of an embedding table
    A starts at 0 and B normal, so that only rows of tokens in the data change. Either
    way the initial merged weights are the base's, exactly. (DoRA's are up to rounding.)

    Attributes:
      select: kernels (dense, convolution), embedding tables and every other leaf of
        two or more dimensions, of which the last counts the outputs; by default the
        projections of queries and values.
      rank: of the update.
      alpha: α.
      rslora: α / √rank in place of α / rank.
      dora: train each output's magnitude apart from the direction.
    """

    select: str = r"layer_\d+/attention/(query|value|qkv)/kernel"
    rank: int = 8
    alpha: float = traced(16.0)
    rslora: bool = False
    dora: bool = False

    def check(self, network: Network, params: PyTree) -> None:
        targets = self.targets(params)
        if self.rank < 1:
            raise UserError(f"peft.rank={self.rank!r}: expected 1 or more.")
        for path, leaf in targets.items():
            inputs, outputs = adapted_leaves.matrix_shape(leaf)
            if self.rank > min(inputs, outputs):
                raise UserError(
                    f"peft.rank={self.rank}: {path!r} is a matrix of {inputs}×"
                    f"{outputs}, so a rank above {min(inputs, outputs)} adds nothing; "
                    "lower the rank or select other leaves."
                )

    def is_adaptable(self, path: str, leaf: Any) -> bool:
        return adapted_leaves.is_matrix(path, leaf)

    def adaptable_kinds(self) -> str:
        return "kernels and embedding tables"

    @property
    def scale(self) -> Any:
        """α / rank, or α / √rank."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def init(
        self, key: jax.Array, params: PyTree, features: Mapping[str, Any] | None = None
    ) -> PyTree:
        targets = self.targets(params)
        keys = jax.random.split(key, len(targets))
        delta = {
            path: _init_factors(k, leaf, self.rank, path.endswith("/embedding"))
            for k, (path, leaf) in zip(keys, targets.items())
        }
        if self.dora:
            for path, leaf in targets.items():
                weight = jnp.asarray(leaf).astype(
                    adapted_leaves.delta_dtype(leaf.dtype)
                )
                delta[path]["magnitude"] = _output_norms(weight)
        return trees.nested(delta)

    def merge_leaf(
        self, weight: jax.Array, delta: PyTree, constants: PyTree
    ) -> jax.Array:
        merged = lora(weight, delta["a"], delta["b"], self.scale)
        if self.dora:
            merged = dora(merged, delta["magnitude"])
        return merged.astype(weight.dtype)


def _init_factors(
    key: jax.Array, leaf: Any, rank: int, table: bool
) -> dict[str, jax.Array]:
    """Initial A and B of a leaf, which is a kernel or an embedding table."""
    inputs, outputs = adapted_leaves.matrix_shape(leaf)
    dtype = adapted_leaves.delta_dtype(leaf.dtype)
    if table:
        b = jax.random.normal(key, (rank, outputs), dtype)
        return {"a": jnp.zeros((inputs, rank), dtype), "b": b}
    # Kaiming uniform with a = √5: √3 · √(2 / (1 + 5)) / √inputs.
    bound = 1 / math.sqrt(inputs)
    a = jax.random.uniform(key, (inputs, rank), dtype, -bound, bound)
    return {"a": a, "b": jnp.zeros((rank, outputs), dtype)}
