"""Rotary positions of a Hugging Face config.json, in its old and its new form."""

from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError, nearest
from jaxtl.models import config_values as values

# rope_type -> the keys beside rope_theta that it reads. "dynamic" changes frequencies
# for texts beyond max_position_embeddings alone, which the model refuses.
_TYPES = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def fields(config: Mapping[str, Any], context: int) -> dict[str, Any]:
    """Fields of `Llama` for the rotary positions of a config.json.

    Args:
      config: its content.
      context: largest number of tokens, the default of
        original_max_position_embeddings.

    Raises:
      UserError: another type of positions, unknown or missing keys.
    """
    rope = _parameters(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _TYPES:
        raise UserError(
            f"config.json: rope type {kind!r} is not supported{nearest(kind, _TYPES)} "
            f"(known: {', '.join(_TYPES)})."
        )
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    result = {"rope_theta": values.positive("rope_theta", theta)}
    if kind == "llama3":
        rope.setdefault(
            "original_max_position_embeddings",
            config.get("original_max_position_embeddings") or context,
        )
    _check_keys(rope, kind)
    numbers = {key: values.positive(key, rope[key]) for key in _TYPES[kind]}
    if kind in ("linear", "llama3"):
        result["rope_factor"] = numbers.pop("factor")
    if kind == "llama3":
        result["rope_bands"] = tuple(numbers.values())
        if numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
            raise UserError(
                "config.json: rope_parameters has low_freq_factor "
                f"{numbers['low_freq_factor']}; expected less than high_freq_factor, "
                f"{numbers['high_freq_factor']}."
            )
    return result


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
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
