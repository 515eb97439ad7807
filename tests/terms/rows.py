"""What a row of the terms' contract is (test_terms_contract.py)."""

import dataclasses

import pytest

from jaxtl.terms.base import Term


@dataclasses.dataclass(frozen=True)
class Row:
    """A term, its twin in other numbers, the task and the optional library it needs."""

    term: Term
    twin: Term
    task: str = "classification"
    needs: str | None = None


def row(cls, first=(), second=(), task="classification", needs=None, **fields):
    """Returns a row; `first` and `second` hold the float fields besides weight."""
    term = cls(weight=0.5, **dict(first), **fields)
    return Row(term, cls(weight=2.0, **dict(second), **fields), task, needs)


def library(row: Row) -> None:
    """Skips a test where a row's library is not installed."""
    if row.needs:
        name = type(row.term).__name__
        pytest.importorskip(row.needs, reason=f"{name} computes with {row.needs}")
