"""Which tables there are: a name is a module of this package with a `STUDY`."""

import importlib

from jaxtl.core import UserError, nearest
from jaxtl.reproduce.base import Study

NAMES = ("cifar10n", "mnist_usps", "office_caltech_surf", "skada_shifts")


def study(name: str) -> Study:
    """Returns a table's study.

    Raises:
      UserError: there is none of that name.
    """
    if name not in NAMES:
        raise UserError(
            f"there is no table {name!r} to reproduce{nearest(name, NAMES)} "
            f"(known: {', '.join(NAMES)})."
        )
    return importlib.import_module(f"jaxtl.reproduce.{name}").STUDY
