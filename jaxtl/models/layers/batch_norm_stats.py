"""BatchNorm's statistics as functions: which move, one batch's own, those of many."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.types import Network, PyTree


def moving_mask(
    stats: PyTree, train: tuple[str, ...], frozen_stats: tuple[str, ...] = ()
) -> PyTree:
    """Returns a tree of bools: which statistics a pass in training mode moves.

    Args:
      stats: stage -> subtree.
      train, frozen_stats: as `Network.apply` takes them.
    """

    def moves(path, _):
        held = any(path.startswith(module + "/") for module in frozen_stats)
        return path.split("/")[0] in train and not held

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
    """Returns one batch's own statistics, not its share of a moving average.

    A pass from 0 gives (1 − m)·batch, and the derivative by what was there before
    gives m, so no layer need tell its momentum m.

    Args:
      network: the model.
      params, stats: its parameters and statistics; those that don't move are used, and
        come back as they are.
      x: a batch of inputs, preprocessed.
      train, frozen_stats, key: as `Network.apply` takes them.
    """
    moves = moving_mask(stats, train, frozen_stats)
    fixed = jax.tree.map(lambda move, s: None if move else s, moves, stats)
    moved = jax.tree.map(lambda move, s: s if move else None, moves, stats)

    def step(moved):
        before = trees.merge(moved, fixed)
        out = network.apply(
            params, before, x, train=train, frozen_stats=frozen_stats, key=key
        )
        return trees.restrict(out.stats, moves)

    zeros, ones = (jax.tree.map(f, moved) for f in (jnp.zeros_like, jnp.ones_like))
    share, momentum = jax.jvp(step, (zeros,), (ones,))
    found = jax.tree.map(lambda s, m: s / (1 - m), share, momentum)
    return trees.merge(found, fixed)


def pool_statistics(average: PyTree, found: PyTree, count) -> PyTree:
    """Returns means and variances of n + 1 equal batches, of those of n and of one.

    With w = 1 / (n + 1): mean ← mean + w (m − mean), and
    var ← var + w (v − var) + w (1 − w) (m − mean)², exact for variances over n, not
    n − 1. Leaves of other names become plain means.

    Args:
      average: statistics of n batches together; anything for n = 0.
      found: of the next batch.
      count: n, may be traced.

    References:
      Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance, The American
      Statistician 37 (1983), eq. 2.1.
    """
    share = 1.0 / (count + 1.0)
    old, new = trees.flatten(average), trees.flatten(found)

    def leaf(path, mean):
        moved = jnp.where(count == 0, new[path], mean + share * (new[path] - mean))
        module, _, name = path.rpartition("/")
        at = f"{module}/mean"
        if name != "var" or at not in old:
            return moved
        spread = jnp.square(new[at] - old[at])
        return moved + jnp.where(count == 0, 0.0, share * (1 - share) * spread)

    return trees.map_with_path(leaf, average)
