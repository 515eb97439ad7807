"""Kinds of examples: images, texts, pairs of both and rows of numbers, by shape."""

from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError

# Kind of examples -> models that read it, and how an example looks.
_READERS = {
    "images": "tl.models.CNN or tl.models.ResNet",
    "texts": "tl.models.Bert or tl.models.GPT2",
    "pairs": "tl.models.TwoTowers",
    "table": "tl.models.MLP",
    "arrays": "tl.models.MLP",
}
_NEEDED = {
    "images": "images (height, width, channels)",
    "texts": "texts as token ids",
    "pairs": "images with texts",
    "arrays": "numbers",
}


def check(model: str, reads: str, shape: Any, owner: str) -> None:
    """Raises UserError for examples that are not of the kind that a model reads.

    Args:
      model: name of its class.
      reads: the kind, as `Staged.READS`.
      shape: of one example, or {input: shape}.
      owner: whose examples they are, "data=CSV".
    """
    kind = _kind(shape)
    is_array = kind not in ("texts", "pairs")
    if reads not in ("", kind) and not (reads == "arrays" and is_array):
        raise UserError(
            f"model={model} reads {_NEEDED[reads]}, but an example of {owner} is "
            f"{_described(shape)}, for which there is {_READERS[kind]}."
        )


def check_one_text(model: str, shape: Any, owner: str) -> None:
    """Raises UserError for texts of a pair that are tokenized separately.

    Args:
      model, shape, owner: as of `check`.
    """
    if _kind(shape) == "texts" and len(shape["input_ids"]) != 1:
        raise UserError(
            f"model={model} reads one text, or the two of a pair at once, but those of "
            f"{owner} are tokenized each by itself; leave separate= out, or compare "
            "them by tl.models.BiEncoder(encoder=…)."
        )


def _kind(shape: Any) -> str:
    if isinstance(shape, Mapping):
        if {"image", "input_ids"} <= set(shape):
            return "pairs"
        return "texts" if "input_ids" in shape else "arrays"
    return {1: "table", 3: "images"}.get(len(shape), "arrays")


def _described(shape: Any) -> str:
    """An example in words, by its shape."""
    if isinstance(shape, Mapping):
        other = f"a dict of {', '.join(shape)}"
        names = {"pairs": "an image with a text", "texts": "a text of token ids"}
        return names.get(_kind(shape), other)
    sides = " × ".join(map(str, shape)) or "a number"
    names = {1: f"a row of {sides} numbers", 3: f"an image of {sides}"}
    return names.get(len(shape), f"an array of {sides}")
