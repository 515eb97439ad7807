"""Types and ranges of a configuration's values: what no run should be started with.

A number of a configuration is finite and not negative, unless its field declares
another least value (`traced(low=...)`). A name means the same everywhere, so names of
shares and probabilities are in [0, 1], and names of sizes at least 1. Fields of classes
that users write are not checked, since only their authors know what they mean.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxtl.core import config, field_types
from jaxtl.core.errors import UserError

# Names of shares and probabilities.
_SHARES = (
    "decay",
    "dropout",
    "embedding_dropout",
    "forget",
    "head_dropout",
    "label_smoothing",
    "prior",
    "probability",
    "rise",
    "share",
    "stochnorm",
    "threshold",
)
# Names of sizes and counts of which a model, a layer or a batch has at least one.
_SIZES = (
    "channels",
    "context",
    "depth",
    "devices",
    "head_width",
    "heads",
    "hidden",
    "kernel",
    "kv_heads",
    "layers",
    "length",
    "max_length",
    "outputs",
    "param_shards",
    "patch",
    "pooled",
    "rank",
    "size",
    "stride",
    "tensor_shards",
    "units",
    "vocab",
    "width",
    "widths",
)
_SIGNED = ("bias",)  # names of numbers of any sign
# Names of factors of exponential averages: at 1 nothing new would ever count.
_AVERAGES = ("b1", "b2", "momentum")


# Names of counts of steps, which a compiled program holds as int32.
_STEPS = ("steps", "every", "warmup")
_MOST_STEPS = 2**31 - 1
_LARGEST = 2**63 - 1  # of the machine's whole numbers


class _Range(NamedTuple):
    """A range of numbers; `low` belongs to it, `high` only where it is `closed`."""

    low: float
    high: float = math.inf
    closed: bool = True

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        if isinstance(value, int) and abs(value) > _LARGEST:
            return False
        below = value <= self.high if self.closed else value < self.high
        return math.isfinite(value) and self.low <= value and below

    def describe(self, value: float) -> str:
        """The range in words, for a value that is not in it."""
        if isinstance(value, int) and value > _LARGEST and math.isinf(self.high):
            return f"a number of at most {_LARGEST:,}"
        if math.isinf(self.high) and math.isinf(self.low):
            return "a finite number"
        if math.isinf(self.high):
            return f"a finite number of at least {self.low:g}"
        end = "]" if self.closed else ")"
        return f"a number in [{self.low:g}, {self.high:,.12g}{end}"


def check_ranges(value: Any, path: str = "") -> None:
    """Raises UserError for the first value of a wrong type or out of its range.

    Args:
      value: a configuration (a dataclass), or a mapping or tuple of some.
      path: of the value in the experiment, such as "optim"; "" for the experiment.
    """
    _check_types(value, path)
    for name, number, expected in _numbers(value, path):
        if number not in expected:
            raise UserError(
                f"{name}={_shown(number)}: expected {expected.describe(number)}."
            )


def _check_types(value: Any, path: str) -> None:
    """Raises UserError for a plain value that its field's annotation excludes."""
    if isinstance(value, Mapping | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, child in items:
            _check_types(child, _join(path, str(name)))
    elif config.is_config(value):
        for name in config.fields(value):
            child, annotation = getattr(value, name), config.annotation_of(value, name)
            if _is_ours(value) and not field_types.admits(annotation, child):
                raise field_types.refusal(_join(path, name), child, annotation)
            _check_types(child, _join(path, name))


def _numbers(
    value: Any, path: str, expected: _Range | None = None
) -> Iterator[tuple[str, float, _Range]]:
    """Yields (path, number, its range) for every number that has a range."""
    if _is_number(value):
        if expected is not None:
            yield path, value, expected
    elif isinstance(value, Mapping):
        for name, child in value.items():
            yield from _numbers(child, _join(path, str(name)), expected)
    elif isinstance(value, tuple):
        for index, child in enumerate(value):
            yield from _numbers(child, _join(path, str(index)), expected)
    elif config.is_config(value):
        for name, field in config.fields(value).items():
            child = getattr(value, name)
            # Of those in a mapping or a tuple, only traced ones and sizes have a range.
            is_plain = _is_number(child) and not _may_be_text(field)
            is_listed = field.metadata.get("traced") or name in _SIZES
            has_range = _is_ours(value) and (is_plain or is_listed)
            expected = _range(name, field.metadata) if has_range else None
            yield from _numbers(child, _join(path, name), expected)


def _range(name: str, metadata: Mapping[str, Any]) -> _Range:
    least = -math.inf if name in _SIGNED else 1.0 if name in _SIZES else 0.0
    low = metadata.get("low", least)
    if name in _AVERAGES:
        return _Range(low, 1.0, closed=False)
    if name in _STEPS:
        return _Range(low, _MOST_STEPS)
    return _Range(low, 1.0 if name in _SHARES else math.inf)


def _shown(number: float) -> str:
    text = repr(number)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _is_ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "jaxtl"


def _may_be_text(field: dataclasses.Field) -> bool:
    """Whether a field takes a name or a place, such as a column, which may be -1."""
    return "str" in str(field.type).replace("Mapping[str", "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
