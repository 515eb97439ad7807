"""One page per family of methods, from its exports and their docstrings."""

import functools
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from docs.builder import costs, effects, public_names
from docs.builder.public_names import ROOT, Namespace

_NOTE = """
Every term has the fields of [`tl.Term`](../reference/jaxtl.md#term) as well.
"""


def page(family: Namespace, written: str) -> str:
    """The page of a family: an introduction, then every method.

    Args:
      family: the namespace.
      written: the text of `docs/<family>.md`; where it is empty, the namespace's own
        docstring is the introduction.
    """
    if written:
        parts = [written.rstrip()]
    else:
        title, _, introduction = inspect.getdoc(family.module).partition("\n\n")
        parts = [f"# {_title(family, title)}", title, introduction]
    if family.module.__name__.startswith("jaxtl.terms"):
        parts.append(_NOTE.strip())
    parts.append(costs.note(family.name))
    parts.append(effects.summary([path for path, _ in family.members()]))
    return "\n\n".join([*filter(None, parts), *_sections(family)]) + "\n"


def _title(family: Namespace, summary: str) -> str:
    name = re.split(r"[:.]", summary)[0]
    return f"{name}: `tl.{family.name}`" if len(name) < 40 else f"`tl.{family.name}`"


def _sections(family: Namespace) -> Iterator[str]:
    """Yields the section of each method, its equations below the class."""
    members = dict(family.members())
    exported = {id(value): path for path, value in members.items()}
    documented: set[int] = set()
    order = sorted(members.items(), key=lambda item: not inspect.isclass(item[1]))
    for path, value in order:
        if id(value) in documented:
            continue
        documented.add(id(value))
        parts = [f"## {path.partition('.')[2]}", directive(f"jaxtl.{path}", value)]
        if inspect.isclass(value):
            for name, function in functions_beside(value):
                if id(function) not in documented:
                    documented.add(id(function))
                    place = exported.get(id(function), "")
                    full = f"{value.__module__}.{name}"
                    parts.append(
                        directive(f"jaxtl.{place}" if place else full, function)
                    )
        parts += [effects.section(path), _where(family.name, path, value)]
        yield "\n\n".join(filter(None, parts))


def functions_beside(value: type) -> list[tuple[str, Any]]:
    """The public functions of the module of a class: its equations.

    Args:
      value: a class of a family.

    Returns:
      (name, function) in the order of the module.
    """
    module = sys.modules[value.__module__]
    names = public_names.public_functions(module)
    functions = [(name, getattr(module, name)) for name in names]
    return [(name, f) for name, f in functions if inspect.isfunction(f)]


def directive(path: str, value: Any, *options: str) -> str:
    """The directive of autodoc for a public name."""
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
    elif inspect.isroutine(value):
        kind = "function"
    else:
        keys = ", ".join(f"`{key}`" for key in value) if isinstance(value, dict) else ""
        text = f"A mapping with the keys {keys}." if keys else f"`{value!r}`"
        return f"```{{py:data}} {path}\n\n{text}\n```"
    lines = [f".. auto{kind}:: {path}", *(f"   :{option}:" for option in options)]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def _where(family: str, path: str, value: Any) -> str:
    """The lines on a method's cost, and on where its code, tests and uses are."""
    module = value.__module__ if hasattr(value, "__module__") else family
    file = pathlib.Path(*module.split(".")).with_suffix(".py")
    if not (ROOT / file).exists():
        return ""
    name = path.rpartition(".")[2]
    lines = [costs.line(path)] if inspect.isclass(value) and costs.line(path) else []
    lines.append(f"- Code: `{file}`")
    if tests := _tests(file, name):
        lines.append("- Tests: " + ", ".join(f"`{test}`" for test in tests))
    if pages := _experiments(path):
        links = (f"[{page}](../experiments/{page}.md)" for page in pages)
        lines.append("- Used in " + ", ".join(links))
    return "\n".join(lines)


@functools.cache
def _texts(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    return {path: path.read_text() for path in sorted(folder.glob("*.py"))}


def _tests(file: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The test file of a module's own name, and those that speak of the method."""
    folder = ROOT / "tests" / file.relative_to("jaxtl").parent
    exact = folder / f"test_{file.stem}.py"
    if exact.exists():
        return [exact.relative_to(ROOT)]
    texts = {p: t for p, t in _texts(folder).items() if p.name.startswith("test_")}
    return [
        p.relative_to(ROOT) for p, t in texts.items() if re.search(rf"\b{name}\b", t)
    ]


def _experiments(path: str) -> list[str]:
    """The experiments whose files use a method."""
    texts = _texts(ROOT / "experiments")
    pattern = re.compile(rf"tl\.{re.escape(path)}\b")
    return [file.stem for file, text in texts.items() if pattern.search(text)]
