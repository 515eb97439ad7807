"""Tables on the terminal."""

from collections.abc import Iterable


def console(**settings):
    """Returns a rich console; as wide as needed where no terminal sets a width."""
    from rich.console import Console

    made = Console(highlight=False, **settings)
    if not made.is_terminal:
        made.width = 160
    return made


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable], *, left=1):
    """Returns a rich table; the first `left` columns are text, the rest numbers."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def listing(title: str, columns: Iterable[str], rows: Iterable[Iterable]):
    """Returns a table of texts whose last column wraps."""
    from rich import box
    from rich.table import Table

    columns = tuple(columns)
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in columns:
        made.add_column(name, no_wrap=name != columns[-1])
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made
