"""Which classes of a data set are tested, and which methods are chosen on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import episodes
from jaxtl.data.class_index import class_index
from jaxtl.data.dataset import Dataset


class ClassChoice(NamedTuple):
    """Classes of episodes.

    Attributes:
      test, val: int64 labels, disjoint.
      note: where they come from, in words.
    """

    test: np.ndarray
    val: np.ndarray
    note: str


def choose(
    dataset: Dataset,
    ways: int,
    *,
    test: Sequence[str] = (),
    val: Sequence[str] = (),
    seed: int = 0,
) -> ClassChoice:
    """Chooses the classes: those that are named, or of the splits, or drawn.

    Where no class is in two splits of the data, the splits are kept. Else half of the
    classes are tested, and more where an episode has more ways.

    Args:
      dataset: for classification.
      ways: of an episode.
      test, val: names of classes; where only those of test are named, all others are
        val's.
      seed: of the draw.

    Raises:
      UserError: an unknown class, one in both, or names of val alone.
    """
    names, labels = dataset.class_names, np.unique(dataset.y_clean)
    if test or val:
        tested = _labels(test, names, "test_classes")
        chosen = _labels(val, names, "val_classes")
        if not test:
            raise UserError("val_classes: name the test_classes as well.")
        episodes.check_disjoint(
            {"val_classes": chosen, "test_classes": tested}, tuple(map(str, names))
        )
        rest = np.setdiff1d(labels, tested)
        return ClassChoice(tested, chosen if val else rest, "named")
    split = splits_of_classes(dataset)
    if split is not None:
        return ClassChoice(split["test"], split["val"], "those of the data's splits")
    count = min(len(labels), max(ways, -(-len(labels) // 2)))
    drawn = episodes.split_classes(
        labels, val=len(labels) - count, test=count, seed=seed
    )
    return ClassChoice(drawn.test, drawn.val, f"drawn with seed {seed}")


def splits_of_classes(dataset: Dataset) -> dict[str, np.ndarray] | None:
    """Classes of "train", "val" and "test" where no class is in two, else None."""
    parts = {
        name: np.unique(dataset.y_clean[dataset.rows.get(name, np.zeros(0, int))])
        for name in ("train", "val", "test")
    }
    total = sum(map(len, parts.values()))
    is_disjoint = total == len(np.unique(np.concatenate(list(parts.values()))))
    used = [name for name, part in parts.items() if len(part)]
    return parts if is_disjoint and "test" in used and len(used) > 1 else None


def _labels(names: Sequence[str], known: tuple[str, ...], field: str) -> np.ndarray:
    """Labels of named classes; UserError for one that is named twice."""
    labels = [class_index(name, known, field) for name in names]
    for name, label in zip(names, labels):
        if labels.count(label) > 1:
            raise UserError(f"{field}: {name!r} is named twice.")
    return np.asarray(sorted(labels), np.int64)
