"""Errors that a user can cause, and the nearest valid spelling of a name."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one sentence; the command line prints it and exits."""


class RunLocked(UserError):
    """A run's directory that another process is working in."""


def nearest(name: object, options: Iterable[object]) -> str:
    """Returns "; did you mean 'x'?" for the closest option, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(o) for o in options], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
