"""The index of a class by its name."""

from typing import Any

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells


def class_index(name: Any, names: tuple[str, ...], field: str) -> int:
    """The label of a class, by its name, or by its label where names are no numbers.

    Args:
      name: a name, or an integer label; 1 is the class named "1" where there is one.
      names: of all classes, in label order.
      field: what names the class, for the message.

    Raises:
      UserError: there is no such class.
    """
    text = cells.normalized(str(name))
    if text in names:
        return names.index(text)
    is_label = isinstance(name, (int, np.integer)) and not isinstance(name, bool)
    has_numbers = any(cells.number(other) is not None for other in names)
    if is_label and 0 <= name < len(names) and not has_numbers:
        return int(name)
    raise UserError(
        f"{field}: there is no class {name!r}{nearest(name, names)}; "
        f"the classes are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}."
    )
