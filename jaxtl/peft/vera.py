"""VeRA: one random pair of matrices for all layers, of which each trains two scales."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.peft import adapted_leaves, base


def _vera(
    weight: jax.Array, a: jax.Array, b: jax.Array, inner: jax.Array, outer: jax.Array
) -> jax.Array:
    """W + A · diag(d) · B · diag(b), with as much of A and B as the weight needs.

    Args:
      weight: W, (…, outputs); the axes before the last count as one, of `inputs`.
      a: (inputs or more, rank), shared and frozen.
      b: (rank, outputs or more), shared and frozen.
      inner: d, (rank,).
      outer: b, (outputs,).

    References:
      Kopiczko, Blankevoort, Asano, VeRA: Vector-based Random Matrix Adaptation,
      ICLR 2024, eq. 2: W₀ + Λ_b B Λ_d A, transposed.
    """
    inputs, outputs = adapted_leaves.matrix_shape(weight)
    update = (a[:inputs] * inner) @ (b[:, :outputs] * outer)
    return weight + update.reshape(weight.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeRA(base.Reparametrization):
    """Weights W + A · diag(d) · B · diag(b): d and b are trained, A and B are not.

    A and B are as large as the largest adapted kernel; smaller ones use their first
    rows and columns. d starts at `inner`, b at 0.

    Attributes:
      select: the kernels that are adapted.
      rank: columns of A; it may be larger than a kernel's sides.
      inner: initial value of d.
      seed: of A and B, which are drawn again from it and need not be stored.
    """

    select: str = r"layer_\d+/attention/(query|value|qkv)/kernel"
    rank: int = 256
    inner: float = traced(0.1)
    seed: int = 0

    def check(self, network: Network, params: PyTree) -> None:
        self.targets(params)
        if self.rank < 1:
            raise UserError(f"peft.rank={self.rank!r}: expected 1 or more.")

    def init_leaf(self, key: jax.Array, leaf: Any) -> dict[str, jax.Array]:
        dtype = adapted_leaves.delta_dtype(leaf.dtype)
        inner = jnp.full(self.rank, self.inner, dtype)
        return {"inner": inner, "outer": jnp.zeros(leaf.shape[-1], dtype)}

    def constants(self, params: PyTree) -> PyTree:
        targets = self.targets(params).values()
        inputs, outputs = (
            max(sides) for sides in zip(*map(adapted_leaves.matrix_shape, targets))
        )
        dtype = jnp.result_type(*(adapted_leaves.delta_dtype(x.dtype) for x in targets))
        keys = jax.random.split(jax.random.key(self.seed))
        return {
            "a": _uniform(keys[0], (inputs, self.rank), inputs, dtype),
            "b": _uniform(keys[1], (self.rank, outputs), self.rank, dtype),
        }

    def merge_leaf(
        self, weight: jax.Array, delta: PyTree, constants: PyTree
    ) -> jax.Array:
        shared = (constants["a"], constants["b"])
        merged = _vera(weight, *shared, delta["inner"], delta["outer"])
        return merged.astype(weight.dtype)


def _uniform(
    key: jax.Array, shape: tuple[int, int], inputs: int, dtype: Any
) -> jax.Array:
    """Kaiming uniform for a layer before a ReLU: within ±√(6 / inputs)."""
    bound = math.sqrt(6 / inputs)
    return jax.random.uniform(key, shape, dtype, -bound, bound)
