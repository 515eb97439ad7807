"""The versions, devices and commits that the runs of a collection have stored."""

import collections
from collections.abc import Mapping
from typing import Any

from jaxtl.results import database
from jaxtl.results.labels import label_text
from jaxtl.results.records import Collection


def rows(collection: Collection) -> dict[str, str]:
    """Lists the environment of the finished runs of a collection.

    Args:
      collection: the records.

    Returns:
      name -> value as text; several values with the number of their cells.
    """
    counts: dict[str, collections.Counter] = {}
    for record in collection.records:
        if record.status == database.DONE:
            for name, value in _of_result(record.result).items():
                if value is not None:
                    counter = counts.setdefault(name, collections.Counter())
                    counter[label_text(value)] += 1
    values = {
        name: ", ".join(
            text if len(counter) == 1 else f"{text} ({n:,} cells)"
            for text, n in counter.most_common()
        )
        for name, counter in counts.items()
    }
    for name, value in (collection.meta.get("environment") or {}).items():
        if isinstance(value, str | int | float) and name not in values:
            values[name] = label_text(value)
    folders = dict.fromkeys(r.folder.name for r in collection.records if r.folder.name)
    return {"read from": ", ".join(folders), **values}


def _of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "commit": result.get("git_commit"),
        **(result.get("versions") or {}),
        "device": _device(result.get("device")),
        **{name: result.get(name) for name in ("devices", "python")},
    }


def _device(text: str | None) -> str | None:
    """The stored "platform: kind", of which CPUs have the same twice."""
    if text is None:  # of a baseline, which runs on no device of jax
        return None
    platform, _, kind = text.partition(": ")
    return platform if platform == kind else text
