"""Weakly and strongly augmented views of a batch, with defaults by kind of input.

A term's field holds its operations (callables (key, x) -> x, such as those of
`tl.data`), or None for the defaults. Operations see stored values, [0, 1] for images.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data.augment.image import Crop, Flip
from jaxtl.data.augment.randaugment import Cutout, RandAugment
from jaxtl.data.augment.text import SPECIAL_IDS, WordDropout, WordReplacement, WordSwap
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View

Operations = tuple[Callable[..., Any], ...]


def input_kind(x: PyTree) -> str:
    """Kind of a batch of inputs.

    Args:
      x: an array (batch, ...), or a dict of arrays.

    Returns:
      "tokens" (a dict with input_ids), "images" (4 axes) or "vectors".
    """
    if isinstance(x, dict):
        return "tokens"
    return "images" if x.ndim == 4 else "vectors"


def weak_operations(operations: Operations | None, x: PyTree) -> Operations:
    """A term's operations for a weak view, or the defaults.

    By default images are mirrored and shifted by up to an eighth of their height. Other
    inputs remain as they are, so that two passes differ by dropout alone.

    Args:
      operations: field of the term, None for the defaults.
      x: a batch of inputs.

    Returns:
      A tuple of callables `(key, x) -> x`, applied in order; () for none.
    """
    if operations is not None or input_kind(x) != "images":
        return operations or ()
    return (Flip(), Crop(pad=x.shape[1] // 8, mode="reflect"))


def strong_operations(operations: Operations | None, x: PyTree) -> Operations:
    """A term's operations for a strong view, or the defaults.

    Images: the weak operations, `RandAugment` and `Cutout`. Tokens: some words are
    replaced, swapped and masked as [MASK], by the ids of BERT's vocabularies.

    Args:
      operations: field of the term, None for the defaults.
      x: a batch of inputs.

    Returns:
      A tuple of callables `(key, x) -> x`, applied in order.
    """
    if operations is not None:
        return operations
    if input_kind(x) == "images":
        return (*weak_operations(None, x), RandAugment(), Cutout())
    return (WordReplacement(), WordSwap(), WordDropout())


def check_strong(
    setup: Setup, stream: str, operations: Operations | None, field: str = "strong"
) -> None:
    """Raises UserError if a strong view has no default: vectors, other vocabularies.

    Args:
      setup: what the term is checked against.
      stream: whose inputs.
      operations: value of the field.
      field: name of the field, for the message.
    """
    check_operations(setup, field, operations)
    if operations is not None:
        return
    x = first_inputs(setup, stream)
    name = checks.where(setup, field)
    if input_kind(x) == "vectors":
        raise UserError(
            f"{name}=None: there is no default strong view of vectors "
            f"{tuple(x.shape[1:])}; name operations that change them, such as "
            f"{field}=(tl.data.Noise(scale=0.1),)."
        )
    if input_kind(x) == "tokens" and not jnp.all(
        x["input_ids"][:, 0] == SPECIAL_IDS[1]
    ):
        raise UserError(
            f"{name}=None: the default strong view of texts uses the ids of BERT's "
            f"vocabularies, and these texts don't begin with its [CLS] "
            f"({SPECIAL_IDS[1]}); name operations with the ids of your vocabulary, "
            f"such as {field}=(tl.data.WordDropout(to=…, special=…),)."
        )


def check_operations(setup: Setup, field: str, operations: Operations | None) -> None:
    """Raises UserError if an operation is not callable.

    Args:
      setup: names the term in the message.
      field: of the term that holds the operations.
      operations: the field's value, None for the defaults.
    """
    for operation in operations or ():
        if not callable(operation):
            raise UserError(
                f"{checks.where(setup, field)}={operations!r}: expected callables "
                "(key, x) -> x, such as tl.data.Flip()."
            )


def first_inputs(setup: Setup, stream: str) -> PyTree:
    """Reads the inputs of a stream's first batch.

    Args:
      setup: of the term; one batch of the data is read.
      stream: its name.

    Returns:
      A batch as the network reads it: (batch, ...) or a dict of arrays.
    """
    return next(iter(setup.batches(stream)))["x"]


def weak_and_strong_logits(
    context: View, stream: str, operations: Operations | None
) -> tuple[jax.Array, jax.Array]:
    """Logits of a stream's batch and of its strong view.

    The batch as the experiment augments it is the weak view. Both passes are in
    training mode; the first one is the stream's own, run once for all terms.

    Args:
      context: of the step.
      stream: whose batch.
      operations: of the strong view, None for the defaults.

    Returns:
      (batch, K) each.
    """
    weak_logits = context.forward(stream).logits
    operations = strong_operations(operations, context.batches[stream]["x"])
    strong_view = context.view(stream, operations, context.key)
    return weak_logits, context.run(strong_view).logits
