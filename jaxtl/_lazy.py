"""Names that import their module on first use, so `import jaxtl` stays light."""

import importlib


def attach(package: str, names: dict[str, str], modules: tuple[str, ...] = ()):
    """Returns `__getattr__`, `__dir__` and `__all__` for a package's `__init__`.

    Args:
      package: the package's `__name__`.
      names: public name -> module that defines it, relative to the package.
      modules: submodules that are public themselves.
    """

    def getattr_(name: str):
        if name in names:
            module = importlib.import_module(f".{names[name]}", package)
            return getattr(module, name)
        if name in modules:
            return importlib.import_module(f".{name}", package)
        known = ", ".join(sorted([*names, *modules]))
        raise AttributeError(f"{package} has no {name!r}; it has: {known}")

    everything = sorted([*names, *modules])
    return getattr_, lambda: everything, everything
