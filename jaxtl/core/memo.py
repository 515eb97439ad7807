"""Values that several readers share."""

from collections.abc import Callable
from typing import Any


class Memo(dict[Any, Any]):
    """Values by key, each computed by the first that reads it."""

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The value of a key.

        Args:
          key: hashable; says what the value is.
          compute: returns it, called where the key is new.
        """
        if key not in self:
            self[key] = compute()
        return self[key]
