"""Pre-training runs among the records of a study: they compete with no other run."""

import pathlib
from collections.abc import Sequence

from jaxtl.results import comparability
from jaxtl.results.records import Record


def pretraining_records(records: Sequence[Record]) -> list[Record]:
    """Returns the runs that others start from and that were measured on other data.

    A run that others go on training on the same data, such as the linear probe before
    fine-tuning, is a method like them.
    """
    heirs_of: dict[str, list[Record]] = {}
    for record in records:
        if record.init:
            heirs_of.setdefault(record.init, []).append(record)
    sources = []
    for record in records:
        starts = [start for start in heirs_of if _is_directory(record, start)]
        heirs = [heir for start in starts for heir in heirs_of[start]]
        if heirs and all(comparability.difference(record, heir) for heir in heirs):
            sources.append(record)
    return sources


def _is_directory(record: Record, start: str) -> bool:
    """Whether a record's directory is the one that others start from.

    Paths are compared from the study's folder on, as a study may have been moved; those
    of single runs by their last part.
    """
    directory = pathlib.PurePath(record.key)
    if directory.is_relative_to(record.folder) and directory != record.folder:
        below = directory.relative_to(record.folder).parts
    else:
        below = directory.parts[-1:]
    parts = pathlib.PurePath(start).parts
    return bool(below) and parts[-len(below) :] == below
