"""Finds double punctuation in messages, by simple patterns."""

import re

_QUOTED = re.compile(r"""(?<!\w)(['"`])[^\n]*?\1(?!\w)""")
_DOUBLE = re.compile(r"[\w)]\.\.(\s|$)|\?\.|…\.|\w\.:\s|\w [,;.](\s|$)|[:;,] ?\.(\s|$)")


def doubles(message: str) -> list[str]:
    """The places in a message, outside of quotation marks, that double a mark."""
    unquoted = _QUOTED.sub("x", message)
    return [match[0] for match in _DOUBLE.finditer(unquoted)]
