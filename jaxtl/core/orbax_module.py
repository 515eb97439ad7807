"""orbax, imported when it is first needed, without its messages about errors.

What fails in orbax reaches the user as one sentence (`checkpoint.py`). Its readers run
in an event loop that ends with the first error; those that end later are reported by
Python as tracebacks that nobody can catch, of errors that were told already.
"""

import functools
import logging
import sys
import types
from collections.abc import Callable
from typing import Any


@functools.cache
def orbax() -> types.ModuleType:
    """The module `orbax.checkpoint`."""
    import orbax.checkpoint

    # Its warnings concern defaults that are intended here.
    logging.getLogger("absl").setLevel(logging.ERROR)
    sys.unraisablehook = _without_late_readers(sys.unraisablehook)
    return orbax.checkpoint


def _without_late_readers(report: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook for errors that can't be raised, which leaves those of readers out."""

    def hook(error: Any) -> None:
        code = getattr(error.object, "cr_code", None)
        is_reader = code is not None and "orbax" in code.co_filename
        is_callback = error.exc_type is RuntimeError and "Event loop is closed" in str(
            error.exc_value
        )
        if not (is_reader or is_callback):
            report(error)

    return hook
