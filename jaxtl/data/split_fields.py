"""The fields of a source that name what each of its splits is read from."""

from __future__ import annotations

from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Data

SPLITS = ("train", "val", "test")


def split_field(split: str, train: str = "path") -> str:
    """The field of a split: "path", "val_path" or "test_path".

    Args:
      split: one of `SPLITS`.
      train: the field of the train split.
    """
    return train if split == "train" else f"{split}_{train}"


def by_split(data: Data, train: str = "path") -> dict[str, Any]:
    """Split -> what the source names for it, in the order of `SPLITS`.

    A source without a train split is for evaluation only.

    Raises:
      UserError: the source names none.
    """
    values = {split: getattr(data, split_field(split, train)) for split in SPLITS}
    named = {split: value for split, value in values.items() if value is not None}
    if not named:
        owner, (first, *others) = (
            type(data).__name__,
            [split_field(split, train) for split in SPLITS],
        )
        raise UserError(
            f"{owner} names no data: give {first}=, the train split, or for evaluation "
            f"only {' or '.join(f'{other}=' for other in others)}."
        )
    return named
