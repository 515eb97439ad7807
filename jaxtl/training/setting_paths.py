"""An experiment's settings by their paths, for loggers and for notebooks."""

import html
from collections.abc import Iterator
from typing import Any

from jaxtl.core import serialization


def html_table(exp: Any, title: str) -> str:
    """An experiment's settings by path as HTML, escaped.

    Args:
      exp: the experiment.
      title: above the table.
    """
    left = '<td style="text-align:left">'  # notebooks align cells on the right
    rows = "".join(
        f"<tr>{left}{html.escape(path)}</td>{left}{html.escape(str(value))}</td></tr>"
        for path, value in settings_of(exp).items()
    )
    return f"<h4>{html.escape(title)}</h4><table>{rows}</table>"


def settings_of(exp: Any) -> dict[str, Any]:
    """An experiment's settings by path, "optim.lr" -> 0.001, for tables of runs."""
    return dict(_flat(serialization.to_json(exp), ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields (path, value) of the leaves of a stored configuration."""
    if not isinstance(value, dict):
        yield path, value if isinstance(value, str | int | float | bool) else str(value)
        return
    if value.get("type") == "map":
        name, items = "" if value["items"] else "{}", dict(value["items"])
    else:
        name = str(value.get("name") or value.get("type")).rpartition(":")[2]
        items = {k: v for k, v in value.items() if k not in ("type", "name")}
    if path and name:
        yield path, name
    for key, inner in items.items():
        yield from _flat(inner, f"{path}.{key}" if path else str(key))
