"""The public names of the package: namespaces such as `tl.regularizers`."""

import dataclasses
import inspect
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import jaxtl

ROOT = pathlib.Path(__file__).parents[2]
_OTHER_PAGES = ("recipes",)  # docs/recipes.md is about files, `tl.recipes` of papers
_PAGES = {"fewshot": "meta_learning", "selfsup": "self_supervised"}
_BESIDE_TERMS = ("peft", "optim", "alignment", "merging")


@dataclasses.dataclass(frozen=True)
class Namespace:
    """A module that `jaxtl` exports.

    Attributes:
      name: as users write it, "regularizers" of `tl.regularizers`.
      module: the module itself.
    """

    name: str
    module: types.ModuleType

    @property
    def written_page(self) -> str:
        """Name of the page in `docs/` that introduces it, "" where there is none."""
        name = f"{_PAGES.get(self.name, self.name)}.md"
        is_other = self.name in _OTHER_PAGES
        return name if (ROOT / "docs" / name).exists() and not is_other else ""

    @property
    def is_family(self) -> bool:
        """Whether its members are methods of one kind."""
        is_term = self.module.__name__.startswith("jaxtl.terms.")
        return is_term or bool(self.written_page) or self.name in _BESIDE_TERMS

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yields (path below `jaxtl`, object) of what it exports."""
        for name in _exports(self.module):
            value = getattr(self.module, name)
            if isinstance(value, types.ModuleType):
                if name in jaxtl.__all__:  # has a page of its own
                    continue
                yield from Namespace(f"{self.name}.{name}", value).members()
            else:
                yield f"{self.name}.{name}", value


def namespaces() -> list[Namespace]:
    """The modules that `jaxtl` exports, by name."""
    values = {name: getattr(jaxtl, name) for name in jaxtl.__all__}
    modules = {k: v for k, v in values.items() if isinstance(v, types.ModuleType)}
    return [Namespace(name, module) for name, module in sorted(modules.items())]


def top_level() -> dict[str, Any]:
    """The members of `jaxtl` that are no modules, by name."""
    values = {name: getattr(jaxtl, name) for name in jaxtl.__all__}
    return {k: v for k, v in values.items() if not isinstance(v, types.ModuleType)}


def public_functions(module: types.ModuleType) -> list[str]:
    """Names of the public functions and classes that a module defines, in its order."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


def _exports(module: types.ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    return list(listed) if listed else public_functions(module)
