"""The options of episodic training: what a batch of episodes consists of."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import episodes as episode_draws

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
        """Places of the classes of a batch's examples within their episodes.

        Args:
          count: number of examples, from the first of the batch on.

        Returns:
          int32 (count,) in [0, ways): each class takes `per_class` places in a row, and
          an episode follows the other.
        """
        places = np.arange(count) // self.per_class % self.ways
        return places.astype(np.int32)

    def describe(self) -> str:
        """The size of a batch, in words."""
        return (
            f"a batch is {self.tasks} episodes of {self.ways} ways × ({self.shots} "
            f"shots + {self.queries} queries) = {self.batch} examples, whatever `batch`"
        )


def check_options(data: Any) -> None:
    """Raises UserError for an option of a `Data` that episodes can't go with."""
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


def refuse(is_episodic: bool, what: str) -> None:
    """Raises UserError where something that needs fixed classes gets an episodic run.

    Args:
      is_episodic: whether the run's examples are drawn in episodes.
      what: what needs the classes, as the beginning of a sentence.
    """
    if is_episodic:
        raise UserError(
            f"{what}: the run learned from few-shot episodes, so its outputs stand for "
            "the places of an episode's classes; expected a run on single examples, or "
            "`jaxtl fewshot RUN`, which classifies further classes."
        )
