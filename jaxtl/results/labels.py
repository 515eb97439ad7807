"""Labels of cells, {axis: value}: their texts in tables and plots, and their keys."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtl.evaluation.metrics import is_finite_number


def label_text(value: Any) -> str:
    """A label's value in tables and messages: 0.001, "L2-SP", true."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def plot_label(value: Any) -> str:
    """A label's value in plots: four digits at most, "–" for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def tick_label(value: Any) -> str:
    """A label's value at a tick: 0.003162 is "0.0032", 0.0003162 is "3.2e-4"."""
    if not isinstance(value, float) or not math.isfinite(value):
        return plot_label(value)
    if value and abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.4g}"


def short_axis_name(axis: str) -> str:
    """An axis without its section: "l2sp.weight" for "terms.l2sp.weight"."""
    return axis.partition(".")[2] or axis


def axis_title(axis: str) -> str:
    """An axis in words, for plots: "learning rate" for "optim.lr"."""
    if axis.endswith("labels_per_class"):
        return "labels per class"
    if axis in ("optim.lr", "lr"):
        return "learning rate"
    weight = re.fullmatch(r"terms\.(.+)\.weight", axis)
    return f"weight λ of {weight.group(1)}" if weight else axis


def labels_text(labels: Mapping[str, Any]) -> str:
    """Labels in tables and messages: "lr=0.01, l2sp.weight=0.1"."""
    return ", ".join(
        f"{short_axis_name(axis)}={label_text(value)}" for axis, value in labels.items()
    )


def labels_title(labels: Mapping[str, Any]) -> str:
    """Labels in words, for plots: "labels per class: 5"."""
    return ", ".join(f"{axis_title(a)}: {plot_label(v)}" for a, v in labels.items())


def spellings(value: Any) -> tuple[str, str, str]:
    """The texts that a user may write for a label's value.

    They are its text in tables, the last part of it ("full" of "mnist/full"), and its
    `str`.
    """
    text = label_text(value)
    return text, last_part(text), str(value)


def last_part(text: str) -> str:
    """The part of a value after its last slash: "full" of "mnist/full"."""
    return text.rsplit("/", 1)[-1].strip()


def value_key(value: Any) -> str:
    """A key that equal values share: 1 and 1.0 have the same, True has another."""
    number = is_finite_number(value)
    return json.dumps(float(value) if number else value, sort_keys=True)


def labels_key(labels: Mapping[str, Any], axes: Iterable[str] | None = None) -> tuple:
    """A hashable key of labels, on all axes or on those of `axes` that they have."""
    names = sorted(labels) if axes is None else axes
    return tuple((name, json.dumps(labels[name])) for name in names if name in labels)
