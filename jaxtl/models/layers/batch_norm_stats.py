"""Pure functions on trees of BatchNorm statistics: which move, one batch's, pooled."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.types import Network, PyTree


def moving_mask(
    stats: PyTree, train: tuple[str, ...], frozen_stats: tuple[str, ...] = ()
) -> PyTree:
    """A tree of bools: the statistics that a pass in training mode updates.

    Args:
      stats: stage -> subtree.
      train, frozen_stats: as in `Network.apply`.
    """

    def moves(path: str, _: Any) -> bool:
        frozen = any(path.startswith(module + "/") for module in frozen_stats)
        return path.split("/")[0] in train and not frozen

    return trees.map_with_path(moves, stats)


def batch_statistics(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: Any,
    *,
    train: tuple[str, ...],
    frozen_stats: tuple[str, ...] = (),
    key: jax.Array | None = None,
) -> PyTree:
    """Statistics of one batch alone, not of its share in a moving average.

    A pass that starts from statistics of 0 gives (1 − m)·batch, and the derivative by
    the statistics before the pass gives m, so the momentum m of a layer need not be
    known.

    Args:
      network: the model.
      params, stats: its parameters and statistics; statistics that don't move are
        used, and are returned unchanged.
      x: a batch of inputs, preprocessed.
      train, frozen_stats, key: as in `Network.apply`.
    """
    moves = moving_mask(stats, train, frozen_stats)
    moving, fixed = trees.partition(stats, moves)

    def updated(moving: PyTree) -> PyTree:
        before = trees.merge(moving, fixed)
        out = network.apply(
            params, before, x, train=train, frozen_stats=frozen_stats, key=key
        )
        return trees.restrict(out.stats, moves)

    zeros, ones = (jax.tree.map(f, moving) for f in (jnp.zeros_like, jnp.ones_like))
    share, momentum = jax.jvp(updated, (zeros,), (ones,))
    batch = jax.tree.map(lambda s, m: s / (1 - m), share, momentum)
    return trees.merge(batch, fixed)


def pool_statistics(average: PyTree, batch: PyTree, count: int | jax.Array) -> PyTree:
    """Means and variances of n + 1 equal batches, from those of n and of one.

    With w = 1 / (n + 1): mean ← mean + w (m − mean), and
    var ← var + w (v − var) + w (1 − w) (m − mean)², exact for variances over n, not
    n − 1. Leaves of other names become plain means.

    Args:
      average: statistics of n batches together; anything for n = 0.
      batch: statistics of the next batch.
      count: n, may be traced.

    References:
      Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance, The American
      Statistician 37 (1983), eq. 2.1.
    """
    share = 1.0 / (count + 1.0)
    old, new = trees.flatten(average), trees.flatten(batch)

    def pooled(path: str, value: jax.Array) -> jax.Array:
        moved = jnp.where(count == 0, new[path], value + share * (new[path] - value))
        module, _, name = path.rpartition("/")
        mean = f"{module}/mean"
        if name != "var" or mean not in old:
            return moved
        spread = jnp.square(new[mean] - old[mean])
        return moved + jnp.where(count == 0, 0.0, share * (1 - share) * spread)

    return trees.map_with_path(pooled, average)
