"""Reading of flax's msgpack files: nested dicts of arrays."""

import pathlib
from typing import Any

from flax import serialization

from jaxtl.core.errors import UserError


def read(path: pathlib.Path) -> Any:
    """The tree of arrays in a file that `flax.serialization.to_bytes` wrote.

    Raises:
      UserError: a damaged file.
    """
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # a damaged file raises errors of any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{str(path)!r} is no complete msgpack file: {reason}."
        ) from None
