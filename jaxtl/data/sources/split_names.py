"""Which splits of a data set of `datasets` are read, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, split_fields
from jaxtl.data.arrow_datasets import ALL
from jaxtl.data.sources.folder_layout import SPLIT_OF


def choose_splits(
    present: Sequence[str], named: Mapping[str, str], owner: str, advice: str
) -> tuple[dict[str, str], list[str]]:
    """Split -> its name in a data set, and a note on the splits that are not read.

    Args:
      present: names of the splits that the data set has.
      named: split -> name, where the source gives one; for each other split the first
        of the usual names is taken.
      owner: the source, for messages.
      advice: what to do where no split has a usual name.

    Raises:
      UserError: a name that is not there or comes twice, or no split at all.
    """
    for split, name in named.items():
        if name not in present:
            listed = f"the splits {', '.join(present)}"
            listed = "no splits" if list(present) == [ALL] else listed
            raise UserError(
                f"{owner}.{split}_split: there is no split {name!r}"
                f"{nearest(name, present)}; the data set has {listed}."
            )
    chosen = dict(named)
    for name in present:
        split = SPLIT_OF.get(name.lower())
        if split is not None and name not in chosen.values():
            chosen.setdefault(split, name)
    if not chosen:
        raise UserError(
            f"{owner}: there are the splits {', '.join(present)}, of which none is "
            f"called train, validation or test; {advice}."
        )
    if (name := cells.repeated(chosen.values())) is not None:
        raise UserError(f"{owner}: the split {name!r} is named twice.")
    others = [name for name in present if name not in chosen.values()]
    notes = [f"splits that are not read: {', '.join(others)}"] if others else []
    return {s: chosen[s] for s in split_fields.SPLITS if s in chosen}, notes


def check_one_split(names: Iterable[str], where: str, advice: str) -> None:
    """Raises UserError for files of several splits that would be read as one.

    Args:
      names: of the files, below the folder or pattern that stands for them; the first
        word of each part of a name may be that of a split, "test-00000.tar".
      where: what names the files, for the message.
      advice: how to read them, for the message.
    """
    first: dict[str, str] = {}
    for name in names:
        words = [re.match(r"[A-Za-z]*", part) for part in name.split("/")]
        splits = [SPLIT_OF.get(word[0].lower()) for word in words if word]
        for split in filter(None, splits):
            first.setdefault(split, name)
    if len(first) > 1:
        raise UserError(
            f"{where} holds files of the splits {' and '.join(first)}, such as "
            f"{' and '.join(map(repr, first.values()))}, which would become one; "
            f"{advice}."
        )
