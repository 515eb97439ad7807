"""Episodes of few-shot learning: N classes, K support and Q query examples of each.

Episode e is a function of (seed, e) alone, so that methods are compared on the same
episodes, and a resumed run reads those that the uninterrupted run would have read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.names import listing


@dataclasses.dataclass(frozen=True)
class Episode:
    """One task: rows of its examples, and their labels among its classes.

    Attributes:
      classes: int64 (ways,), labels in the data set; label i of the episode is class i.
      support, query: int64 (n,) and (m,), rows of the data set, of one class after
        another; no row is in both.
      support_labels, query_labels: int32 (n,) and (m,), each in [0, ways).
    """

    classes: np.ndarray
    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class FixedShape:
    """Episodes of one size.

    Attributes:
      ways: number of classes, at least 2.
      shots: support examples of each class.
      queries: query examples of each class.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15

    def check(self, sizes: np.ndarray, names: Sequence[str]) -> None:
        """Checks that episodes of this shape can be drawn from some classes.

        Args:
          sizes: (classes,) number of examples of each class.
          names: of the classes, for messages.

        Raises:
          UserError: a field out of range, fewer classes than `ways`, or a class with
            fewer examples than `shots` + `queries`.
        """
        for field, least in (("ways", 2), ("shots", 1), ("queries", 1)):
            _check_integer(field, getattr(self, field), least)
        _check_ways("ways", self.ways, len(sizes))
        needed = f"{self.shots} shots and {self.queries} queries"
        _check_sizes(sizes, self.shots + self.queries, names, needed)

    def draw(
        self, sizes: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Draws the classes of an episode.

        Args:
          sizes: (classes,) number of examples of each class.
          rng: moves on by the draw.

        Returns:
          (indices of the classes (ways,) without repetition, shots of each (ways,),
          queries per class).
        """
        chosen = rng.choice(len(sizes), self.ways, replace=False)
        return chosen, np.full(self.ways, self.shots), self.queries


@dataclasses.dataclass(frozen=True)
class VariableShape:
    """Episodes whose ways and shots vary as in Meta-Dataset (without its ontologies).

    Ways are uniform in [min_ways, max_ways]. Queries are as many for each class: half
    of the smallest class, at most `max_queries`. The size of the support set is
    Σ_c ⌈β min(support_per_class, n_c − queries)⌉ for β uniform in (0, 1], at most
    `max_support`. Classes share it by their sizes times exp(u), u uniform between the
    logarithms of `imbalance`, with one example each at least.

    Attributes:
      min_ways, max_ways: of the classes; there may be fewer than max_ways.
      max_queries: of each class.
      max_support: examples of the support set, at least max_ways.
      support_per_class: the most that a class adds to the size of the support set.
      imbalance: smallest and largest factor of a class's share.

    References:
      Triantafillou et al., Meta-Dataset, ICLR 2020, appendix A; constants of
      google-research/meta-dataset, learn/gin/setups/data_config_common.gin.
    """

    min_ways: int = 5
    max_ways: int = 50
    max_queries: int = 10
    max_support: int = 500
    support_per_class: int = 100
    imbalance: tuple[float, float] = (0.5, 2.0)

    def check(self, sizes: np.ndarray, names: Sequence[str]) -> None:
        """Checks that episodes of this shape can be drawn from some classes.

        Args:
          sizes: (classes,) number of examples of each class.
          names: of the classes, for messages.

        Raises:
          UserError: a field out of range, fewer classes than `min_ways`, or a class
            with fewer than 2 examples.
        """
        _check_integer("min_ways", self.min_ways, 2)
        _check_integer("max_ways", self.max_ways, self.min_ways)
        _check_integer("max_queries", self.max_queries, 1)
        _check_integer("support_per_class", self.support_per_class, 1)
        _check_integer("max_support", self.max_support, self.max_ways)
        low, high = self.imbalance
        if not 0 < low <= high < math.inf:
            raise UserError(
                f"imbalance={self.imbalance}: expected two numbers above 0, the "
                "smaller first."
            )
        _check_ways("min_ways", self.min_ways, len(sizes))
        _check_sizes(sizes, 2, names, "at least 1 shot and 1 query")

    def draw(
        self, sizes: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Draws the size of an episode: its classes, shots and queries.

        Args:
          sizes: (classes,) number of examples of each class.
          rng: moves on by the draws.

        Returns:
          (indices of the classes (ways,) without repetition, shots of each (ways,),
          queries per class). Classes have different numbers of shots, at least 1, and
          the same number of queries, at most half of the smallest class.
        """
        ways = rng.integers(self.min_ways, min(self.max_ways, len(sizes)) + 1)
        chosen = rng.choice(len(sizes), ways, replace=False)
        sizes = sizes[chosen]
        queries = int(min(self.max_queries, sizes.min() // 2))
        available = sizes - queries
        part = np.minimum(self.support_per_class, available)
        support = min(np.floor(rng.random() * part + 1).sum(), self.max_support)
        shares = sizes * np.exp(rng.uniform(*np.log(self.imbalance), size=ways))
        shares /= shares.sum()
        shots = np.floor(shares * (support - ways)).astype(np.int64) + 1
        return chosen, np.minimum(shots, available), queries


class EpisodeSampler:
    """Draws episodes from the labels of a data set.

    Args:
      labels: integers (n,), the class of each row.
      shape: of the episodes.
      classes: the labels that episodes may have; None takes all that occur.
      seed: of the episodes, at least 0.
      class_names: in label order, for messages.

    Raises:
      UserError: labels that are none, a class that no row has or that comes twice,
        fewer classes than ways, or a class with fewer rows than shots and queries.
    """

    def __init__(
        self,
        labels: Any,
        shape: FixedShape | VariableShape = FixedShape(),
        *,
        classes: Iterable[int] | None = None,
        seed: int = 0,
        class_names: Sequence[str] = (),
    ) -> None:
        labels = _check_labels(labels)
        _check_integer("seed", seed, 0)
        occurring = np.unique(labels)
        self.shape, self.seed = shape, int(seed)
        self.classes = (
            occurring if classes is None else _check_classes(classes, class_names)
        )
        for label in self.classes[~np.isin(self.classes, occurring)]:
            raise UserError(
                f"classes: no example is of class {_name(label, class_names)}."
            )
        order = np.argsort(labels, kind="stable")
        ends = np.searchsorted(labels[order], self.classes, side="right")
        starts = np.searchsorted(labels[order], self.classes, side="left")
        self._rows = [order[start:end] for start, end in zip(starts, ends)]
        self._sizes = ends - starts
        names = [_name(label, class_names) for label in self.classes]
        shape.check(self._sizes, names)

    def __call__(self, number: int) -> Episode:
        """Draws the episode of a number ≥ 0; the same one whenever it is called."""
        rng = np.random.default_rng([self.seed, number])
        chosen, shots, queries = self.shape.draw(self._sizes, rng)
        support, query = [], []
        for index, count in zip(chosen, shots):
            rows = rng.choice(self._rows[index], count + queries, replace=False)
            support.append(rows[:count])
            query.append(rows[count:])
        labels = np.arange(len(chosen), dtype=np.int32)
        return Episode(
            classes=self.classes[chosen],
            support=np.concatenate(support),
            support_labels=np.repeat(labels, shots),
            query=np.concatenate(query),
            query_labels=np.repeat(labels, queries),
        )

    def batch(self, numbers: Iterable[int]) -> Episode:
        """Draws several episodes of one fixed shape.

        Args:
          numbers: of the episodes, each ≥ 0, as for a call.

        Returns:
          One `Episode` whose arrays have a first axis of the episodes.

        Raises:
          UserError: a `VariableShape`, whose episodes differ in length.
        """
        if not isinstance(self.shape, FixedShape):
            raise UserError(
                "episodes of variable shape can't be stacked into a batch; take "
                "FixedShape, or draw them one by one."
            )
        drawn = [self(number) for number in numbers]
        fields = [field.name for field in dataclasses.fields(Episode)]
        return Episode(*(np.stack([getattr(e, f) for e in drawn]) for f in fields))


@dataclasses.dataclass(frozen=True)
class ClassSplit:
    """Classes to train, to choose and to test on; no class is in two of them.

    Attributes:
      train, val, test: int64, sorted labels.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_classes(
    classes: int | Iterable[int],
    *,
    val: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
) -> ClassSplit:
    """Splits classes at random.

    Args:
      classes: labels, or how many there are.
      val, test: number of classes if an integer, else the share of all, in [0, 1];
        a share above 0 is one class at least.
      seed: of the split.

    Returns:
      Three disjoint parts, which together are all classes, each in ascending order.

    Raises:
      UserError: more classes in val and test than there are, or a class named twice.
    """
    labels = np.arange(classes) if isinstance(classes, int) else _check_classes(classes)
    _check_integer("seed", seed, 0)
    count_val = _class_count("val", val, len(labels))
    count_test = _class_count("test", test, len(labels))
    if count_val + count_test > len(labels):
        raise UserError(
            f"val={val} and test={test} are {count_val} and {count_test} classes, and "
            f"there are {len(labels)}."
        )
    order = np.random.default_rng(seed).permutation(np.sort(labels))
    ends = (count_test, count_test + count_val)
    test_part, val_part, train_part = np.split(order, ends)
    return ClassSplit(np.sort(train_part), np.sort(val_part), np.sort(test_part))


def check_disjoint(
    splits: Mapping[str, Iterable[int]], class_names: Sequence[str] = ()
) -> None:
    """Raises UserError for a class that is in two splits ("train", "test" …)."""
    parts = {name: set(map(int, classes)) for name, classes in splits.items()}
    names = list(parts)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            if shared := sorted(parts[first] & parts[second]):
                shown = listing([_name(label, class_names) for label in shared])
                raise UserError(
                    f"{first} and {second} overlap in {len(shared)} classes ({shown}); "
                    "no class may be in two splits."
                )


def _class_count(field: str, value: float, total: int) -> int:
    """Number of classes that a number or a share means."""
    is_count = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_count and value >= 0:
        return int(value)
    if isinstance(value, float) and 0 <= value <= 1:
        return max(round(value * total), int(value > 0))
    raise UserError(
        f"{field}={value!r}: expected a number of classes, or a share in [0, 1] as 0.2."
    )


def _check_labels(labels: Any) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            "labels: episodes are drawn from one integer class per example; got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    return labels


def _check_classes(
    classes: Iterable[int], class_names: Sequence[str] = ()
) -> np.ndarray:
    """Labels as int64, sorted."""
    labels, counts = np.unique(np.asarray(list(classes)), return_counts=True)
    if len(labels) and not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"classes: expected labels, integers; got {labels.dtype}.")
    for label in labels[counts > 1]:
        raise UserError(f"classes: {_name(label, class_names)} comes twice.")
    return labels.astype(np.int64)


def _check_integer(field: str, value: Any, least: int) -> None:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise UserError(
            f"{field}={value!r}: expected a whole number of at least {least}."
        )


def _check_ways(field: str, ways: int, classes: int) -> None:
    if ways > classes:
        raise UserError(
            f"{field}={ways}: there are {classes} classes to draw from; an episode "
            "can't have more ways than classes."
        )


def _check_sizes(
    sizes: np.ndarray, least: int, names: Sequence[str], needed: str
) -> None:
    """Raises UserError for classes with fewer than `least` examples."""
    small = np.flatnonzero(sizes < least)
    if len(small):
        first = small[np.argmin(sizes[small])]
        several = f" ({len(small)} classes have too few)" if len(small) > 1 else ""
        raise UserError(
            f"class {names[first]} has {sizes[first]} examples; {needed} need "
            f"{least}{several}."
        )


def _name(label: int, class_names: Sequence[str]) -> str:
    """A class's name, or its label where it has none."""
    return repr(class_names[label]) if 0 <= label < len(class_names) else str(label)
