"""Episodic training: batches of episodes, and splits of which none shares a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import episodes as episode_draws
from jaxtl.data.class_index import class_index

if TYPE_CHECKING:
    from jaxtl.data.dataset import Data, Dataset, Table

# Options about single rows, where episodes need whole classes.
_ROW_OPTIONS = ("labels_per_class", "labels", "limit", "split_by", "sample_weight")
_COUNTS = {
    "ways": 2,
    "shots": 1,
    "queries": 1,
    "tasks": 1,
    "val_episodes": 2,
    "test_episodes": 2,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
    """The `sampling` of data whose batches are N-way K-shot episodes.

    A batch is `tasks` episodes, laid out as (tasks, ways, shots + queries, …) with the
    first axes joined: the support examples of a class come before its queries. The
    label of an example is the place of its class in the episode, 0 … ways − 1. Classes
    are drawn alike and without replacement, and so are the examples of each.

    `data.val` and `data.test` count classes here, not examples (a number, or a share of
    the classes): no class is in two of the splits. Evaluations run over episodes of
    the split's classes, the same ones every time.

    Attributes:
      ways: classes of an episode.
      shots: support examples of a class.
      queries: query examples of a class.
      tasks: episodes of a batch.
      val_classes, test_classes: names of the classes of these splits; () draws them.
      val_episodes, test_episodes: of an evaluation.
      seed: of the episodes of evaluations.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    tasks: int = 4
    val_classes: tuple[str | int, ...] = ()
    test_classes: tuple[str | int, ...] = ()
    val_episodes: int = 200
    test_episodes: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("val_classes", "test_classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(
                    f"data.sampling.{name}={value!r}: expected a whole number of at "
                    f"least {least}."
                )

    @property
    def per_class(self) -> int:
        """Examples of each class of an episode."""
        return self.shots + self.queries

    @property
    def batch(self) -> int:
        """Examples of a batch."""
        return self.tasks * self.ways * self.per_class

    @property
    def shape(self) -> episode_draws.FixedShape:
        """The size of one episode."""
        return episode_draws.FixedShape(self.ways, self.shots, self.queries)

    def labels(self, count: int) -> np.ndarray:
        """Places of the classes of `count` examples of a batch, int32 (count,)."""
        places = np.arange(count) // self.per_class % self.ways
        return places.astype(np.int32)

    def describe(self) -> str:
        """The size of a batch, in words."""
        return (
            f"a batch is {self.tasks} episodes of {self.ways} ways × ({self.shots} "
            f"shots + {self.queries} queries) = {self.batch} examples, whatever `batch`"
        )


def check_options(data: Data) -> None:
    """Raises UserError for an option that episodes can't go with."""
    for name in _ROW_OPTIONS:
        if getattr(data, name) is not None:
            raise UserError(
                f"data.{name}={getattr(data, name)!r} is about single rows, but "
                "data.sampling=Episodes takes whole classes; leave it out."
            )
    if data.label_noise:
        raise UserError(
            f"data.label_noise={data.label_noise!r}: the noise would put examples of "
            "one split's classes into another; data.sampling=Episodes takes none."
        )


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
