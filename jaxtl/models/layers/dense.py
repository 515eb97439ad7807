"""Dense layers, and parameters that are broadcast, with gradients summed in float32.

The gradient of a bias, of position vectors or of a class token is a sum over examples
and places. XLA adds it up in the dtype of the step: in bfloat16, whose 8 bits hold no
integer above 256 exactly, the sum of 16,384 ones was 8,192 on a CPU.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.tree import as_float32


def broadcast(parameter: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A parameter repeated along new or single axes, as `jnp.broadcast_to` repeats it.

    Args:
      parameter: of any floating dtype.
      shape: that the parameter's shape can be broadcast to.

    Returns:
      An array of this shape and of the parameter's dtype. Its gradient by the parameter
      is summed in float32 (or wider).
    """
    return jnp.broadcast_to(as_float32(parameter), shape).astype(parameter.dtype)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """x · kernel + bias.

    Args:
      x: (…, inputs).
      kernel: (inputs, outputs).
      bias: (outputs,), or None.
    """
    y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
    return y if bias is None else y + broadcast(bias, y.shape)


class Dense(nn.Dense):
    """`nn.Dense` whose bias has a gradient that is summed in float32."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            shape = (self.features,)
            bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        return affine(*nn.dtypes.promote_dtype(inputs, kernel, bias))
