"""What is done with each key of a JSON file that another library wrote.

A key is honored, has no effect (with the reason), or is accepted at some values alone.
A key in no part of the table is refused by name, since what it would change is unknown.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtl.core.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """The keys of one kind of file.

    Attributes:
      file: its name, for messages.
      honored: keys that the reader of the file follows.
      harmless: reason -> keys of which no value changes what jaxtl computes.
      only: key -> the values that mean what jaxtl does.
    """

    file: str
    honored: tuple[str, ...] = ()
    harmless: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    def keys(self) -> frozenset[str]:
        """All keys of the table."""
        return frozenset([*self.honored, *sum(self.harmless.values(), ()), *self.only])

    def check(self, content: Mapping[str, Any], path: object = None) -> None:
        """Checks that each key of a file is in the table, at an accepted value.

        Args:
          content: of the file; a null sets nothing and is passed over.
          path: of the file, for messages.

        Raises:
          UserError: an unknown key or a value that is not supported.
        """
        where, known = str(path or self.file), self.keys()
        for name, value in content.items():
            if value is None:
                continue
            if name not in known:
                advice = (
                    nearest(name, sorted(known)) or "; remove it if it has no effect"
                )
                raise UserError(
                    f"{where}: the key {name!r} ({shown(value)}) is unknown{advice}."
                )
            if name in self.only and not is_among(value, self.only[name]):
                expected = " or ".join(map(shown, self.only[name]))
                raise UserError(
                    f"{where}: {name} {shown(value)} is not supported; expected "
                    f"{expected}."
                )


def shown(value: Any) -> str:
    """A value as JSON, at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def is_among(value: Any, accepted: Iterable[Any]) -> bool:
    """Whether a value is one of these; 0 is not false, 1 is not true."""
    return any(
        value == v and isinstance(value, bool) == isinstance(v, bool) for v in accepted
    )


def flag(content: Mapping[str, Any], name: str, path: object) -> bool | None:
    """The value of a key that is true, false, or null and missing (None).

    Raises:
      UserError: any other value.
    """
    value = content.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(
            f"{path}: {name} is {shown(value)}; expected true, false or null."
        )
    return value
