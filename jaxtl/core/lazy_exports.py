"""Public names of a package that import their module at first use.

A package lists what it exports as ordinary imports under `if TYPE_CHECKING:`, which
editors and type checkers read. `attach` reads the same list, so that `import jaxtl`
imports neither jax nor any other library until a name is used.
"""

import ast
import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any


def attach(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Makes the functions that load the exports of a package at first use.

    Args:
      package: the package's `__name__`.
      file: the path of its `__init__.py`, whose `if TYPE_CHECKING:` block lists the
        exports as relative imports, `from .module import name as name`.

    Returns:
      `__getattr__`, `__dir__` and `__all__` of the package.
    """
    exports = _exports(pathlib.Path(file).read_text(encoding="utf-8"))
    names = sorted(exports)

    def load(name: str) -> Any:
        if name not in exports:
            raise AttributeError(
                f"{package} has no {name!r}; it has: {', '.join(names)}"
            )
        value = _load(package, *exports[name])
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return load, lambda: names, names


def _load(package: str, module: str, attribute: str) -> Any:
    if module.strip("."):
        parent = importlib.import_module(module, package)
        if hasattr(parent, attribute):
            return getattr(parent, attribute)
    separator = "" if module.endswith(".") else "."
    return importlib.import_module(f"{module}{separator}{attribute}", package)


def _exports(source: str) -> dict[str, tuple[str, str]]:
    """Reads {public name: (module, name in the module)} from an `__init__.py`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return {
                alias.asname or alias.name: (
                    "." * statement.level + (statement.module or ""),
                    alias.name,
                )
                for statement in node.body
                if isinstance(statement, ast.ImportFrom)
                for alias in statement.names
            }
    return {}
