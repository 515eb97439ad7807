"""What attention adds for the distance of two patches of a grid.

References:
  Liu et al.: Swin Transformer, ICCV 2021. Bao et al.: BEiT, ICLR 2022.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.tree import as_float32
from jaxtl.models.layers.initializers import NORMAL

CLASS_ROWS = 3  # class token to patch, patch to class token, class token to itself


def distance_rows(side: int, has_class: bool = False) -> np.ndarray:
    """Row of the table for each pair of places of a side × side grid.

    A row for each distance of rows and of columns, (2 · side − 1)² in all; behind them
    `CLASS_ROWS` where a class token comes first.
    """
    places = np.stack(np.mgrid[:side, :side], -1).reshape(-1, 2)
    distance = places[:, None] - places[None] + side - 1
    rows = distance[..., 0] * (2 * side - 1) + distance[..., 1]
    if not has_class:
        return rows
    number = (2 * side - 1) ** 2
    rows = np.pad(rows, ((1, 0), (1, 0)), constant_values=number)
    rows[1:, 0], rows[0, 0] = number + 1, number + 2
    return rows


class RelativeGrid(nn.Module):
    """A trained number per head and distance: (1, heads, places, places).

    Attributes:
      heads: of attention.
      side: of the grid.
      has_class: whether a class token precedes the patches.
    """

    heads: int
    side: int
    has_class: bool = False

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        """Returns the numbers of a sequence; tokens before the grid's have zeros.

        Args:
          length: of the sequence, which ends with the grid's tokens.
        """
        rows = distance_rows(self.side, self.has_class)
        number = (2 * self.side - 1) ** 2 + CLASS_ROWS * self.has_class
        table = self.param("table", NORMAL, (number, self.heads))
        # In float32, so that its gradient, a sum over many pairs, is.
        values = as_float32(table)[rows].transpose(2, 0, 1)[None]
        before = length - len(rows)
        return jnp.pad(values, ((0, 0), (0, 0), (before, 0), (before, 0)))
