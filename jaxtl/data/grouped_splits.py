"""Splits of whole groups (patients, documents), with the classes' shares kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.names import listing
from jaxtl.data.dataset import Data

_MOVES = 100  # at most
_LARGEST = 10**7  # numbers that are compared for one move


def held_out_groups(
    groups: np.ndarray, labels: np.ndarray, share: float, seed: list[int]
) -> np.ndarray:
    """Chooses groups to hold out, so that each class is held out in the share.

    Groups of the most uneven labels first, each is held out where that brings the
    counts of the held-out labels nearer to their target, Σ_c ((h_c − share·n_c) / n_c)²
    over classes c. Then single groups are moved or swapped as long as that helps.

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
    is_chosen = np.zeros(len(names), bool)
    for group in order:
        with_group = gap + shares[group]
        if is_chosen.sum() < len(names) - 1 and with_group @ with_group < gap @ gap:
            gap, is_chosen[group] = with_group, True
    if not is_chosen.any():  # every group is larger than what is to be held out
        distance = np.square(shares - share).sum(axis=1)
        is_chosen[order[np.argmin(distance[order])]] = True
    for _ in range(_MOVES):
        if not _move(is_chosen, shares, share):
            break
    return names[is_chosen]


def _move(is_chosen: np.ndarray, shares: np.ndarray, share: float) -> bool:
    """Moves or swaps the groups that bring the shares nearest; whether any does.

    Args:
      is_chosen: (groups,) which are held out; changed in place.
      shares: (groups, classes), of each class that each group holds.
      share: of each class to hold out.
    """
    inside, outside = np.flatnonzero(is_chosen), np.flatnonzero(~is_chosen)
    if (len(inside) + 1) * (len(outside) + 1) * shares.shape[1] > _LARGEST:
        return False  # so many groups are near their share already
    gap = shares[inside].sum(axis=0) - share
    none = np.zeros((1, shares.shape[1]))
    leaving = np.concatenate([none, shares[inside]])
    coming = np.concatenate([none, shares[outside]])
    distance = np.square(gap - leaving[:, None] + coming[None]).sum(axis=-1)
    if len(inside) == 1:
        distance[1, 0] = np.inf  # one group stays held out, and one is not
    if len(outside) == 1:
        distance[0, 1] = np.inf
    i, j = np.unravel_index(np.argmin(distance), distance.shape)
    if distance[i, j] > distance[0, 0] - 1e-12:
        return False
    if i:
        is_chosen[inside[i - 1]] = False
    if j:
        is_chosen[outside[j - 1]] = True
    return True


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
