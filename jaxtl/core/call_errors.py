"""What a call that failed on its arguments could have been given."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from jaxtl.core.errors import nearest

_CALL = r"(?P<callable>\w+)(\.__init__)?\(\) "
_UNEXPECTED = re.compile(_CALL + r"got an unexpected keyword argument '(?P<name>\w+)'")
_BY_POSITION = re.compile(
    _CALL + r"takes (from \d+ to )?\d+ positional arguments? but "
)
_OF_FLAX = ("parent", "name")  # of every linen module, for modules inside others


def describe_call_error(error: BaseException) -> str:
    """What a call of one of this package's classes or functions takes.

    Args:
      error: any error. Python's TypeErrors for an unknown keyword and for too many
        positional arguments are the ones that are told.

    Returns:
      A clause without a full stop, such as "MLP has no argument 'width'; did you mean
      'widths'? (its arguments: widths, norm)"; "" for other errors, and for what this
      package does not define.
    """
    if not isinstance(error, TypeError):
        return ""
    unexpected = _UNEXPECTED.match(str(error))
    match = unexpected or _BY_POSITION.match(str(error))
    called = None if match is None else _defined(match["callable"])
    if match is None or called is None:
        return ""
    parameters = [
        parameter
        for parameter in inspect.signature(called).parameters.values()
        if parameter.name not in _OF_FLAX
    ]
    names = [parameter.name for parameter in parameters]
    listed = f"(its arguments: {', '.join(names) or 'none'})"
    if unexpected is not None:
        name = unexpected["name"]
        hint = nearest(name, names)
        return f"{match['callable']} has no argument {name!r}{hint} {listed}"
    by_position = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    positional = f"only {', '.join(by_position)}" if by_position else "no argument"
    return f"{match['callable']} takes {positional} by position {listed}"


def _defined(name: str) -> Any:
    """The class or function that a loaded module of this package defines."""
    package = __name__.partition(".")[0]
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] != package:
            continue
        value = vars(module).get(name)
        if callable(value) and getattr(value, "__module__", "") == module_name:
            return value
    return None
