"""Errors that a user can cause, and the nearest valid spelling of a name."""

import difflib
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one sentence; the command line prints it and exits."""


class RunLocked(UserError):
    """A run's directory that another process is working in."""


class DataChanged(UserError):
    """Data that are no longer those that a stored run was split and trained on."""


class Stopped(KeyboardInterrupt):
    """A request to stop that was honored: Ctrl-C, or a signal such as SIGTERM.

    Attributes:
      signal_number: of the signal; the exit code is 128 more.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGINT):
        super().__init__(message)
        self.signal_number = int(signal_number)


def nearest(name: object, options: Iterable[object]) -> str:
    """ "; did you mean 'x'?" for the closest option, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(o) for o in options], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """First line of an error's message without its full stop, for use in a sentence.

    An error without a message is named by its type.
    """
    message = str(error).strip() or type(error).__name__
    return message.splitlines()[0].rstrip(" .")


def describe_error(error: BaseException) -> str:
    """An error's type and the first line of its message, at most 200 characters."""
    return f"{type(error).__name__}: {first_line(error)[:200]}".rstrip(".")
