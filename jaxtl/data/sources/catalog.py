"""What data there are to choose from, for `jaxtl data` and for error messages."""

from __future__ import annotations

import dataclasses
import importlib

_SOURCES = {
    "Digits": "digits",
    "RenderedDigits": "rendered_digits",
    "Arrays": "arrays",
    "CSV": "csv_table",
    "ImageFolder": "image_folder",
    "TFDS": "tfds",
    "Text": "text",
    "Lines": "text_lines",
}
_BUNDLED = ("Digits", "RenderedDigits")
_NEEDED = {"Arrays": ("path",)}


def available() -> list[dict]:
    """Rows of name, kind, needed, options and summary, bundled data first.

    kind is "bundled" (no file needed) or "source"; needed are the fields without a
    default (for Arrays the path, unless arrays are given); options the source's other
    own fields; the summary is the first line of the docstring.
    """
    return [_row(name) for name in _SOURCES]


def _row(name: str) -> dict:
    source = getattr(
        importlib.import_module(f"jaxtl.data.sources.{_SOURCES[name]}"), name
    )
    base = importlib.import_module("jaxtl.data.dataset").Data
    common = {f.name for f in dataclasses.fields(base)}
    own = [f for f in dataclasses.fields(source) if f.name not in common]
    missing = dataclasses.MISSING
    needed = [f.name for f in own if f.default is missing] or _NEEDED.get(name, ())
    return {
        "name": name,
        "kind": "bundled" if name in _BUNDLED else "source",
        "needed": tuple(needed),
        "options": tuple(f.name for f in own if f.name not in needed),
        "summary": source.__doc__.strip().splitlines()[0],
    }
