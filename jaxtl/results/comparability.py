"""Checks that records may stand in one table: the same data, metrics and test set."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxtl.core.errors import UserError
from jaxtl.results import database
from jaxtl.results.records import Collection, Record


class _Measurement(NamedTuple):
    """How a record was measured: its data set, its metrics, its test examples."""

    data: str
    metrics: tuple[str, ...]
    test_examples: int | None


def _measurement(record: Record) -> _Measurement:
    metrics = record.result.get("test") or record.result.get("val") or {}
    examples = record.result.get("examples", {}).get("test")
    return _Measurement(record.data, tuple(sorted(metrics)), examples)


def check_comparable(collection: Collection) -> None:
    """Checks that the records of several folders may stand in one table.

    Raises:
      UserError: no record of one folder is comparable with one of another folder, or
        two records were measured on different contents of one data set.
    """
    check_contents(collection.records)
    folders: dict[Any, dict[_Measurement, Record]] = {}
    for record in collection.records:
        if record.status == database.DONE:
            kinds = folders.setdefault(record.folder, {})
            kinds.setdefault(_measurement(record), record)
    if not folders:
        return
    (first, kinds), *remaining = folders.items()
    for folder, other_kinds in remaining:
        reasons = [
            difference(a, b) for a in kinds.values() for b in other_kinds.values()
        ]
        if all(reasons):
            raise UserError(
                f"{first} and {folder} can't stand in one table: {reasons[0]}; "
                "report them one at a time."
            )


def check_contents(records: Iterable[Record]) -> None:
    """Raises UserError where a data set changed between two of the records."""
    first: dict[str, tuple[str, Record]] = {}
    for record in records:
        for source, fingerprint in record.result.get("contents", {}).items():
            other_fingerprint, other = first.setdefault(source, (fingerprint, record))
            if fingerprint != other_fingerprint:
                raise UserError(
                    f"{other.key or other.folder} and {record.key or record.folder} "
                    "were measured on different contents of the same data set, which "
                    "changed between them, so they can't stand in one table; report "
                    "them one at a time, or run the earlier ones again."
                )


def difference(ours: Record, theirs: Record) -> str:
    """Returns why two records can't be compared, "" where they can.

    What a record does not state is assumed to agree.
    """
    a, b = _measurement(ours), _measurement(theirs)
    if a.metrics and b.metrics and not set(a.metrics) & set(b.metrics):
        return f"their metrics are {', '.join(a.metrics)} and {', '.join(b.metrics)}"
    if a.data and b.data and a.data != b.data:
        return f"their data are {a.data} and {b.data}"
    if a.test_examples and b.test_examples and a.test_examples != b.test_examples:
        sizes = f"{a.test_examples:,} and {b.test_examples:,}"
        return f"they were tested on {sizes} examples"
    return ""
