"""Splits of whole groups (patients, documents), with the classes' shares kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.names import listing
from jaxtl.data.dataset import Data


def held_out_groups(
    groups: np.ndarray, labels: np.ndarray, share: float, seed: list[int]
) -> np.ndarray:
    """Chooses groups to hold out, so that each class is held out in the share.

    Groups of the most uneven labels first, each is held out where that brings the
    counts of the held-out labels nearer to their target, Σ_c ((h_c − share·n_c) / n_c)²
    over classes c.

    Args:
      groups: (n,) group of each row, integers.
      labels: (n,) class of each row, integers; zeros without classes.
      share: of the rows to hold out, in (0, 1).
      seed: of the order among groups of one kind.

    Returns:
      The groups to hold out: at least one, and not all.

    References:
      scikit-learn's StratifiedGroupKFold, which fills folds of equal size likewise.
    """
    names, index = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(labels.max()) + 1))
    np.add.at(counts, (index, labels), 1)
    totals = counts.sum(axis=0)
    occurs = totals > 0
    shares = counts[:, occurs] / totals[occurs]  # of each class that each group holds
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].std(axis=1), kind="stable")]
    gap = np.full(shares.shape[1], -share)
    chosen = []
    for group in order:
        with_group = gap + shares[group]
        if len(chosen) < len(names) - 1 and with_group @ with_group < gap @ gap:
            gap = with_group
            chosen.append(group)
    if not chosen:  # every group is larger than what is to be held out
        distance = np.square(shares - share).sum(axis=1)
        chosen = [int(order[np.argmin(distance[order])])]
    return names[np.sort(chosen)]


def check_own_splits(
    data: Data, groups: np.ndarray, splits: Mapping[str, np.ndarray]
) -> None:
    """Raises UserError where the data's own splits share a group."""
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = np.intersect1d(groups[splits[first]], groups[splits[second]])
            if len(shared):
                raise UserError(
                    f"data.split_by={data.split_by!r}: the data's own {first} and "
                    f"{second} splits share {len(shared)} groups "
                    f"({listing([str(name) for name in shared])})."
                )


def describe(data: Data, groups: np.ndarray, rows: Mapping[str, np.ndarray]) -> str:
    """How many groups each split has, as a sentence part."""
    counts = ", ".join(
        f"{name} {len(np.unique(groups[indices])):,}"
        for name, indices in rows.items()
        if len(indices)
    )
    name = data.split_by if isinstance(data.split_by, str) else "groups"
    return (
        f"split by {name}: {len(np.unique(groups)):,} groups, {counts}; train, val and "
        "test share none"
    )
