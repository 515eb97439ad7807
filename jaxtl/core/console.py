"""Tables and lines on the terminal."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any


def console(**settings):
    """A rich console; as wide as needed where no terminal sets a width."""
    from rich.console import Console

    terminal = Console(highlight=False, **settings)
    if not terminal.is_terminal:
        terminal.width = 160
    return terminal


def print_written(*paths: pathlib.Path, hint: str = "") -> None:
    """Prints where a command wrote what it was asked for, as its last line.

    Args:
      *paths: files or directories.
      hint: what can be done with them.
    """
    text = f"written to {', '.join(map(str, paths))}" + (f"; {hint}" if hint else "")
    console().print(text, markup=False, soft_wrap=True)


def print_lines(terminal: Any, name: str, lines: Sequence[str]) -> None:
    """Prints a line, after a name if there is one, and further lines indented below."""
    for number, line in enumerate(lines):
        label = f"{name}: " if name else ""
        terminal.print(
            f"  {line}" if number else f"{label}{line}", markup=False, soft_wrap=True
        )


def table(
    title: str, columns: Iterable[str], rows: Iterable[Iterable], *, left: int = 1
):
    """A rich table; the first `left` columns are text, the rest numbers."""
    from rich import box
    from rich.table import Table

    printed = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(columns):
        printed.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        printed.add_row(*(str(cell) for cell in row))
    return printed


def listing(title: str, columns: Iterable[str], rows: Iterable[Iterable]):
    """A table of texts whose last column wraps."""
    from rich import box
    from rich.table import Table

    columns = tuple(columns)
    printed = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in columns:
        printed.add_column(name, no_wrap=name != columns[-1])
    for row in rows:
        printed.add_row(*(str(cell) for cell in row))
    return printed
