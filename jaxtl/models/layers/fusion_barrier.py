"""A barrier for XLA's fusion on CPU: what precedes it is computed once.

XLA's CPU backend fuses cheap sums into everything that reads them. The gradient along a
residual stream is such a sum, over all later layers, and is then computed anew for each
reader: a third of the time of a MobileNet's training step, a sixth of a ViT's
(benchmarks/README.md).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxtl.core.types import PyTree

_barrier = Primitive("fusion_barrier")


def fusion_barrier(x: PyTree) -> PyTree:
    """The identity; on CPU nothing is fused across it, nor across its derivatives.

    `core.compilation.options` prevents XLA from removing the barrier too early. The
    programs of other platforms do not change.

    Args:
      x: a pytree; leaves that are no floats pass.
    """

    def barrier(leaf: jax.Array) -> jax.Array:
        return _barrier.bind(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(barrier, x)


def _identity(x: jax.Array) -> jax.Array:
    return x


_barrier.def_impl(_identity)
_barrier.def_abstract_eval(_identity)
# Linear and its own transpose: tangents and cotangents pass a barrier as well.
ad.deflinear2(_barrier, lambda ct, _: [fusion_barrier(ct)])
batching.defvectorized(_barrier)
mlir.register_lowering(_barrier, mlir.lower_fun(_identity, multiple_results=False))
_on_cpu = mlir.lower_fun(lax.optimization_barrier, multiple_results=False)
mlir.register_lowering(_barrier, _on_cpu, platform="cpu")
