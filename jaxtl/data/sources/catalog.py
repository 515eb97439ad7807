"""Catalog of the data sources, for `jaxtl data` and for error messages."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

_MODULES = {
    "Digits": "digits",
    "PenDigits": "pen_digits",
    "RenderedDigits": "rendered_digits",
    "Arrays": "arrays",
    "CSV": "csv_table",
    "JSON": "json_table",
    "Parquet": "parquet",
    "Frame": "frame",
    "HFDataset": "hf_dataset",
    "WebDataset": "webdataset",
    "SVMLight": "svmlight",
    "TorchDataset": "torch_dataset",
    "ImageFolder": "image_folder",
    "ImageList": "image_list",
    "ImageText": "image_text",
    "TFDS": "tfds",
    "MultiMNIST": "multi_mnist",
    "Tasks": "tasks",
    "Text": "text",
    "Lines": "text_lines",
    "CoNLL": "conll",
    "SQuAD": "squad",
}
_BUNDLED = ("Digits", "PenDigits", "RenderedDigits")
# Fields that are needed although they have a default.
_NEEDED = {
    "Arrays": ("path",),
    "CoNLL": ("path",),
    "HFDataset": ("dataset", "target"),
    "SQuAD": ("path",),
    "SVMLight": ("path",),
    "Text": ("path",),
    "TorchDataset": ("dataset",),
    "WebDataset": ("path",),
}


def available() -> list[dict[str, Any]]:
    """Describes all sources, bundled data first.

    Returns:
      Dicts of "name"; "kind", "bundled" (no file needed) or "source"; "needed", the
      fields without a default (for Arrays the path, unless arrays are given);
      "options", the other fields that not all sources have; and "summary", the first
      line of the docstring.
    """
    return [_describe(name) for name in _MODULES]


def _describe(name: str) -> dict[str, Any]:
    source = getattr(
        importlib.import_module(f"jaxtl.data.sources.{_MODULES[name]}"), name
    )
    base = importlib.import_module("jaxtl.data.dataset").Data
    common = {f.name for f in dataclasses.fields(base)}
    fields = [f for f in dataclasses.fields(source) if f.name not in common]
    fields.sort(key=lambda f: f.kw_only)  # the path comes first, as in a call
    missing = dataclasses.MISSING
    needed = [f.name for f in fields if f.default is missing] or _NEEDED.get(name, ())
    return {
        "name": name,
        "kind": "bundled" if name in _BUNDLED else "source",
        "needed": tuple(needed),
        "options": tuple(f.name for f in fields if f.name not in needed),
        "summary": source.__doc__.strip().splitlines()[0],
    }
