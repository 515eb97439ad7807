"""Splits of which none shares a class, and the episodes that they are evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import episodes as episode_draws
from jaxtl.data.class_index import class_index
from jaxtl.data.dataset import Data, Dataset, Table
from jaxtl.data.episodic import Episodes


def make_splits(
    data: Data, episodes: Episodes, table: Table, seed: int
) -> dict[str, np.ndarray]:
    """Splits the classes of a table; sorted int32 rows of "train", "val" and "test".

    Splits that the data have themselves stay, if none shares a class with another.

    Args:
      data: the options.
      episodes: its `sampling`.
      table: checked.
      seed: of the classes that are drawn.

    Raises:
      UserError: a class in two splits, or a split with fewer classes than ways, or with
        a class of fewer examples than shots and queries.
    """
    names, y = table.class_names or (), table.y
    own = {name: np.unique(y[rows]) for name, rows in table.splits.items()}
    held_out = {name: rows for name, rows in table.splits.items() if name != "train"}
    pool = np.ones(len(y), bool)
    pool[np.concatenate([*held_out.values(), np.empty(0, np.int64)])] = False
    if "train" in own:
        pool &= np.isin(np.arange(len(y)), table.splits["train"])
    free = np.unique(y[pool])
    chosen = {name: labels for name, labels in own.items() if name != "train"}
    episode_draws.check_disjoint({**chosen, "train": free}, names)
    chosen |= _named_classes(episodes, names, chosen)
    episode_draws.check_disjoint(chosen, names)
    free = np.setdiff1d(free, np.concatenate([*chosen.values(), free[:0]]))
    shares = {n: 0 if n in chosen else getattr(data, n) for n in ("val", "test")}
    drawn = episode_draws.split_classes(free.tolist(), seed=seed, **shares)
    chosen = {"val": drawn.val, "test": drawn.test, **chosen, "train": drawn.train}
    rows = {n: np.flatnonzero(np.isin(y, labels)) for n, labels in chosen.items()}
    rows = {n: r.astype(np.int32) for n, r in rows.items() if len(r) or n == "train"}
    for name in (n for n in rows if len(rows[n])):
        _check_size(name, y[rows[name]], episodes, names)
    return rows


def _named_classes(
    episodes: Episodes, names: Sequence[str], own: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Labels of `val_classes` and `test_classes`, of those that name any."""
    labels = {}
    for split in ("val", "test"):
        field = f"data.sampling.{split}_classes"
        if classes := getattr(episodes, f"{split}_classes"):
            if split in own:
                raise UserError(
                    f"{field}={classes!r}: the data have a {split} split of their own; "
                    "leave it out."
                )
            found = [class_index(name, tuple(names), field) for name in classes]
            labels[split] = np.unique(found)
    return labels


def _check_size(
    split: str, labels: np.ndarray, episodes: Episodes, names: Sequence[str]
) -> None:
    """Raises UserError where no episode can be drawn from the labels of a split."""
    try:
        episode_draws.EpisodeSampler(labels, episodes.shape, class_names=names)
    except UserError as error:
        raise UserError(f"data.sampling: in the split {split!r}, {error}") from None


def evaluation_episodes(dataset: Dataset, split: str) -> np.ndarray:
    """Rows of the episodes that a split is evaluated on, the same at every call.

    Returns:
      int32 (episodes, ways, shots + queries).
    """
    episodes, rows = dataset.episodes, dataset.rows[split]
    assert episodes is not None
    count = episodes.test_episodes if split == "test" else episodes.val_episodes
    sampler = episode_draws.EpisodeSampler(
        dataset.y[rows],
        episodes.shape,
        seed=episodes.seed,
        class_names=dataset.class_names,
    )
    drawn = sampler.batch(range(count))
    support = drawn.support.reshape(count, episodes.ways, episodes.shots)
    query = drawn.query.reshape(count, episodes.ways, episodes.queries)
    return rows[np.concatenate([support, query], axis=2)].astype(np.int32)
