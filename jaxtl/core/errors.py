"""Errors that a user can cause, and the nearest valid spelling of a name."""

import difflib
import re
import signal
from collections.abc import Iterable

# A quotation, which stays as it is, or marks of which one alone is meant:
# "refused.: see", "did you mean 'x'?.", "no file..", "classes: .", "rows , of".
_PUNCTUATION = re.compile(
    r"""(?P<quotation>(?<!\w)(?P<quote>['"`])[^\n]*?(?P=quote)(?!\w))"""
    r"|(?<=[\w)\]}'\"`%>])\.(?P<instead>[:;])(?=\s)"
    r"|(?P<first>(?<=[\w)\]}'\"`%>])\.|[?!…])\.(?=\s|$)"
    r"|[;:,]\s*(?P<end>\.)(?=\s|$)"
    r"|(?<=[\w)\]}'\"`]) (?P<joined>[,;.])(?=\s|$)"
)


class UserError(ValueError):
    """Bad input, told in one sentence; the command line prints it and exits.

    A sentence often quotes another one, so double punctuation is made single here.
    """

    def __init__(self, message: object = ""):
        super().__init__(punctuated(str(message)))


def punctuated(text: str) -> str:
    """A text whose double punctuation outside of quotation marks is single."""

    def single(match: re.Match[str]) -> str:
        marks = ("quotation", "instead", "first", "end", "joined")
        return next(match[mark] for mark in marks if match[mark] is not None)

    return _PUNCTUATION.sub(single, text)


class RunLocked(UserError):
    """A run's directory that another process is working in."""


class AmbiguousModel(UserError):
    """A file of a known family whose tensors do not say all that the model computes."""


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
    """ "; did you mean 'x'?" for the closest option, or an empty string.

    The closest is one that differs by case alone, one that is spelled much alike, or
    the only one that begins with the name ("acc" for "accuracy").
    """
    text, texts = str(name), [str(option) for option in options]
    close = [other for other in texts if other.lower() == text.lower()]
    close = close or difflib.get_close_matches(text, texts, n=1)
    if not close and len(text) >= 2:
        longer = [other for other in texts if other.lower().startswith(text.lower())]
        close = longer if len(longer) == 1 else []
    return f"; did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """First line of an error's message without its full stop, for use in a sentence.

    An error without a message is named by its type.
    """
    message = str(error).strip() or type(error).__name__
    return message.splitlines()[0].rstrip(" .")


def short_repr(value: object) -> str:
    """A value for use in a sentence: its repr, or its type where that is long."""
    text = repr(value)
    if len(text) <= 80 and "\n" not in text:
        return text
    kind = type(value)
    return f"<{kind.__module__.split('.')[0]} {kind.__qualname__}>"


def describe_error(error: BaseException) -> str:
    """An error's type and the first line of its message, at most 200 characters."""
    return f"{type(error).__name__}: {first_line(error)[:200]}".rstrip(".")
