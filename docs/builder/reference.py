"""Pages of the public names that are no methods, and of the command line."""

import argparse
import inspect
import os
from collections.abc import Callable, Iterator
from unittest import mock

from docs.builder import public_names
from docs.builder.methods import directive
from docs.builder.public_names import Namespace
from jaxtl.cli import main as command_line

_COMMON = ("device", "trust")

TOP_LEVEL = """# Top level: `tl`

What `import jaxtl as tl` gives, beside the namespaces of this reference and of the
[methods](../methods/index.md).
"""


def top_level_page() -> str:
    """The page of the functions and classes of `jaxtl` itself."""
    parts = [TOP_LEVEL.rstrip()]
    for name, value in public_names.top_level().items():
        parts += [f"## {name}", directive(f"jaxtl.{name}", value, *_members(value))]
    return "\n\n".join(parts) + "\n"


def page(namespace: Namespace) -> str:
    """The page of a namespace that is no family of methods."""
    summary, _, text = inspect.getdoc(namespace.module).partition("\n\n")
    parts = [f"# `tl.{namespace.name}`", summary, text.replace("\n    ", "\n        ")]
    for path, value in namespace.members():
        heading = path.partition(".")[2]
        parts += [f"## {heading}", directive(f"jaxtl.{path}", value, *_members(value))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _members(value: object) -> tuple[str, ...]:
    has_methods = inspect.isclass(value) and not issubclass(value, tuple)
    return ("members",) if has_methods else ()


def command_line_page() -> str:
    """The page of all commands, their arguments and defaults."""
    with mock.patch.dict(os.environ, {"COLUMNS": "80"}):
        commands = command_line._parser()._subparsers._group_actions[0].choices
        parts = ["# Command line", _exit_codes(), "## Options of many commands"]
        parts.append(_table(commands["run"], lambda option: option in _COMMON))
        for purpose, names in command_line.GROUPS.items():
            parts.append(f"## To {purpose}")
            for name in names:
                parts += _command(name, commands[name])
    return "\n\n".join(parts) + "\n"


def _exit_codes() -> str:
    text = inspect.getdoc(command_line.main).partition("Returns:\n")[2]
    return " ".join(text.split())


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"### jaxtl {name}"
    description = (parser.description or "").strip()
    yield description[:1].upper() + description[1:].removesuffix(".") + "."
    usage = " ".join(parser.format_usage().split())
    yield f"```text\n{usage.removeprefix('usage: ')}\n```"
    yield _table(parser, lambda option: option not in _COMMON)


def _table(parser: argparse.ArgumentParser, shown: Callable[[str], bool]) -> str:
    """The arguments of a parser whose destination is shown, with their defaults."""
    formatter = parser._get_formatter()
    rows = []
    for action in parser._actions:
        is_hidden = action.help == argparse.SUPPRESS or action.dest == "help"
        if is_hidden or not shown(action.dest):
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = formatter._format_args(action, action.metavar or action.dest.upper())
        takes = f" {value}" if action.option_strings and action.nargs != 0 else ""
        if action.choices and takes:
            takes = " " + r"\|".join(map(str, action.choices))
        text = formatter._expand_help(action) if action.help else ""
        rows.append(f"| `{names}{takes}` | {_cell(text)} |")
    return "\n".join(
        ["| argument | what it is |", "| --- | --- |", *rows] if rows else []
    )


def _cell(text: str) -> str:
    for mark in "|*_<":
        text = text.replace(mark, f"\\{mark}")
    return text
