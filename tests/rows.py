"""What a row of the terms' contract is (test_terms_contract.py)."""

import dataclasses

from jaxtl.core import Term


@dataclasses.dataclass(frozen=True)
class Row:
    """A term, its twin in other numbers, and the task that it needs."""

    term: Term
    twin: Term
    task: str = "classification"


def row(cls, first=(), second=(), task="classification", **fields):
    """Returns a row; `first` and `second` hold the float fields besides weight."""
    term = cls(weight=0.5, **dict(first), **fields)
    return Row(term, cls(weight=2.0, **dict(second), **fields), task)
