"""A fence for XLA's fusion on CPU: what is in front of it is computed once.

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

_fence = Primitive("fence")


def fusion_barrier(x):
    """Returns x; on CPU nothing is fused across, in either direction of derivatives.

    `compiling.options` keeps XLA from taking the fence away too early. Elsewhere than
    on CPU the program does not change.

    Args:
      x: a pytree; leaves that are no floats pass.
    """

    def leaf(x):
        return _fence.bind(x) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, x)


def _identity(x):
    return x


_fence.def_impl(_identity)
_fence.def_abstract_eval(_identity)
# Linear and its own transpose: tangents and cotangents meet a fence as well.
ad.deflinear2(_fence, lambda ct, _: [fusion_barrier(ct)])
batching.defvectorized(_fence)
mlir.register_lowering(_fence, mlir.lower_fun(_identity, multiple_results=False))
on_cpu = mlir.lower_fun(lax.optimization_barrier, multiple_results=False)
mlir.register_lowering(_fence, on_cpu, platform="cpu")
