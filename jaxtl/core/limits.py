"""The largest number of runs: what is beyond it is refused before it is expanded."""

import collections.abc
import itertools
from collections.abc import Iterable
from typing import Any

from jaxtl.core.errors import UserError

# At a second each, these take twelve days.
MOST_RUNS = 1_000_000


def check_runs(count: int, name: str) -> None:
    """Raises UserError, with the count, for more runs than a machine could finish.

    Args:
      count: of the runs.
      name: what asks for them, such as "the sweep".
    """
    if count > MOST_RUNS:
        raise UserError(
            f"{name} asks for {_written(count)} runs, and at most {MOST_RUNS:,} are "
            "taken: give its axes fewer values, or search them with --search random "
            "and --trials."
        )


def as_sequence(values: Iterable[Any], name: str) -> collections.abc.Sequence:
    """The values in a form with a length, those of an iterator as a tuple.

    A `range` of any length stays as it is.

    Raises:
      UserError: more values than `MOST_RUNS`.
    """
    if not isinstance(values, collections.abc.Sequence):
        values = tuple(itertools.islice(values, MOST_RUNS + 1))
    if isinstance(values, range):
        # `len` of a range beyond the machine's integers fails.
        check_runs(max(0, (values.stop - values.start) // values.step), name)
    else:
        check_runs(len(values), name)
    return values


def _written(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"{count:.2e}"
