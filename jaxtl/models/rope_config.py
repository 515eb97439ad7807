"""Rotary positions of a Hugging Face config.json, in its old and its new form."""

import math
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError, nearest
from jaxtl.models import config_values as values
from jaxtl.models.config_table import ConfigTable

_ORIGINAL = "original_max_position_embeddings"
# rope_type -> the keys beside rope_theta that it must have. "dynamic" changes the
# frequencies for texts beyond max_position_embeddings alone, which the model refuses.
_TYPES = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": ("factor", _ORIGINAL),
    "longrope": ("short_factor", "long_factor", _ORIGINAL),
}
_OPTIONAL = {
    "yarn": (
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "longrope": ("factor", "attention_factor"),
}
# Entries of config.json that are read here.
KEYS = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    _ORIGINAL,
)


def with_rope(
    table: ConfigTable, config: Mapping[str, Any], share: float | None = None
) -> dict[str, Any]:
    """The fields of a model that its table and its rotary positions decide.

    Args:
      table: of the family.
      config: content of config.json.
      share: as of `fields`.

    Raises:
      UserError: a key or a value that is not supported.
    """
    entries = table.fields(config)
    width = entries.get("head_width") or entries["width"] // entries["heads"]
    rope = parameters(config)
    theta = config.get("rope_theta", 10_000.0)
    original = config.get(_ORIGINAL)
    return {
        **entries,
        **fields(rope, theta, entries["context"], width, share, original),
    }


def fields(
    rope: Mapping[str, Any],
    theta: float,
    context: int,
    width: int,
    share: float | None = None,
    original: int | None = None,
) -> dict[str, Any]:
    """Fields of `RotaryLM` for the rotary positions of a config.json.

    Args:
      rope: its entry rope_parameters.
      theta: rope_theta where that has none.
      context: largest number of tokens, the default of
        original_max_position_embeddings.
      width: features per head.
      share: default of partial_rotary_factor; None for a family without it.
      original: original_max_position_embeddings outside of `rope`, which goes first.

    Raises:
      UserError: another type of positions, unknown or missing keys.
    """
    rope = dict(rope)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _TYPES:
        raise UserError(
            f"config.json: rope type {kind!r} is not supported{nearest(kind, _TYPES)} "
            f"(known: {', '.join(_TYPES)})."
        )
    theta = values.positive("rope_theta", rope.get("rope_theta", theta))
    if _ORIGINAL in _TYPES[kind]:
        rope[_ORIGINAL] = original or rope.get(_ORIGINAL) or context
    result = {"rope_theta": theta}
    if share is not None:
        part = rope.pop("partial_rotary_factor", None)
        result["rope_share"], width = _share(share if part is None else part, width)
    _check_keys(rope, kind)
    if kind == "longrope":
        return result | _longrope(rope, context, width)
    numbers = {key: values.positive(key, rope[key]) for key in _TYPES[kind]}
    if kind not in ("default", "dynamic"):
        result["rope_factor"] = numbers["factor"]
    if kind == "llama3":
        result["rope_bands"] = _bands(numbers)
    if kind == "yarn":
        result["rope_ramp"] = _ramp(rope, theta, width)
        result["rope_scale"] = _attention_factor(rope)
    return result


def _share(share: Any, width: int) -> tuple[float, int]:
    """`RotaryPositions.share` and the number of a head's features that turn."""
    share = values.positive("partial_rotary_factor", share)
    turning = int(width * share)
    if share > 1 or turning % 2 or not turning:
        raise UserError(
            f"config.json: partial_rotary_factor {share} of {width} features per head "
            f"is {turning}; expected an even number of 2 to {width}."
        )
    return share, turning


def _longrope(rope: Mapping[str, Any], context: int, width: int) -> dict[str, Any]:
    """The fields of LongRoPE."""
    original = values.count(_ORIGINAL, rope[_ORIGINAL])
    factor = rope.get("factor") or context / original
    scale = rope.get("attention_factor")
    if scale is None:
        grown = max(values.positive("factor", factor), 1)
        scale = math.sqrt(1 + math.log(grown) / math.log(original))
    return {
        "rope_short": values.positives(
            "short_factor", rope["short_factor"], width // 2
        ),
        "rope_long": values.positives("long_factor", rope["long_factor"], width // 2),
        "rope_context": original,
        "rope_scale": values.positive("attention_factor", scale),
    }


def _bands(numbers: Mapping[str, float]) -> tuple[float, float, float]:
    """`RotaryPositions.bands` of Llama 3.1."""
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    if low >= high:
        raise UserError(
            f"config.json: rope_parameters has low_freq_factor {low}; expected less "
            f"than high_freq_factor, {high}."
        )
    return low, high, numbers[_ORIGINAL]


def _ramp(rope: Mapping[str, Any], theta: float, width: int) -> tuple[float, float]:
    """`RotaryPositions.ramp` of YaRN: the pairs that turn beta times in the context."""

    def pair(key: str, default: float) -> float:
        turns = values.positive(key, rope.get(key) or default)
        length = rope[_ORIGINAL] / (turns * 2 * math.pi)
        return width * math.log(length) / (2 * math.log(theta))

    first, last = pair("beta_fast", 32), pair("beta_slow", 1)
    if values.flag("truncate", rope.get("truncate", True)):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    return first, last + 0.001 * (first == last)


def _attention_factor(rope: Mapping[str, Any]) -> float:
    """`RotaryPositions.scale` of YaRN."""
    if rope.get("attention_factor") is not None:
        return values.positive("attention_factor", rope["attention_factor"])

    def scale(factor: float) -> float:
        return (
            0.1 * factor * math.log(rope["factor"]) + 1 if rope["factor"] > 1 else 1.0
        )

    over, under = rope.get("mscale"), rope.get("mscale_all_dim")
    if over and under:
        over = values.positive("mscale", over)
        return scale(over) / scale(values.positive("mscale_all_dim", under))
    return scale(1.0)


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entry rope_parameters, or its older form rope_scaling."""
    new, old = config.get("rope_parameters"), config.get("rope_scaling")
    if new and old and new != old:
        raise UserError(
            f"config.json: rope_scaling is {values.shown(old)} and rope_parameters, "
            f"its newer name, is {values.shown(new)}; expected the same."
        )
    rope = new or old or {}
    if not isinstance(rope, Mapping):
        raise UserError(
            f"config.json: rope_parameters is {values.shown(rope)}; expected an object."
        )
    partial = config.get("partial_rotary_factor")
    return dict(rope) | ({} if partial is None else {"partial_rotary_factor": partial})


def _check_keys(rope: Mapping[str, Any], kind: str) -> None:
    """Raises UserError for a key that this type lacks, or that it does not read."""
    readable = ("rope_type", "type", "rope_theta", *_TYPES[kind])
    readable += _OPTIONAL.get(kind, ())
    for key in _TYPES[kind]:
        if key not in rope:
            raise UserError(
                f"config.json: rope_parameters of type {kind!r} lacks {key!r}."
            )
    for key, value in rope.items():
        harmless = value is None or (key == "partial_rotary_factor" and value == 1)
        if key not in readable and not harmless:
            raise UserError(
                f"config.json: rope_parameters of type {kind!r} does not read {key!r} "
                f"({values.shown(value)}){nearest(key, readable)}"
                f"{'' if nearest(key, readable) else '.'}"
            )
