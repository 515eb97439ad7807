"""Tables of vectors whose gradients are summed in float32.

A step in half precision looks up vectors in a table of half precision. The gradient of
a row is the sum over all tokens that took it: added one by one in bfloat16, whose
8 bits hold no integer above 256 exactly, the sum of 16,384 ones is 256.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.tree import as_float32

# Tables of so few rows (token types) are read by a matrix product: its gradient is a
# product as well, where a scatter would add all tokens of a batch to one or two rows,
# one after the other.
_FEW_ROWS = 16


class Embed(nn.Embed):
    """`nn.Embed` whose gradient is summed in float32, whatever dtype it computes in."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return look_up(self.embedding, inputs)


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a table.

    Args:
      table: (rows, width).
      ids: integers from 0 up to below rows, of any shape.

    Returns:
      (*shape of ids, width), in the table's dtype.
    """
    if len(table) <= _FEW_ROWS:
        return jax.nn.one_hot(ids, len(table), dtype=table.dtype) @ table
    return jnp.take(as_float32(table), ids, axis=0).astype(table.dtype)
