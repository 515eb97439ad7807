"""Second looks at a batch: the usual weak and strong changes by kind of input.

A term names its own operations (callables (key, x) -> x, such as those of `tl.data`),
or leaves None for what is usual. Operations see stored values, [0, 1] for images.
"""

import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.data.augment.image import Crop, Flip
from jaxtl.data.augment.randaugment import Cutout, RandAugment
from jaxtl.data.augment.text import SPECIAL_IDS, WordDropout, WordReplacement, WordSwap
from jaxtl.terms import checks
from jaxtl.terms.base import Setup

Operations = tuple | None


def kind(x) -> str:
    """Returns "tokens" (a dict with input_ids), "images" (4 axes) or "vectors"."""
    if isinstance(x, dict):
        return "tokens"
    return "images" if x.ndim == 4 else "vectors"


def weak(operations: Operations, x) -> tuple:
    """Returns the given operations, or what is usual for a weak view.

    Images are mirrored and shifted by up to an eighth of their height; others stay,
    and dropout is what makes two passes differ.
    """
    if operations is not None or kind(x) != "images":
        return operations or ()
    return (Flip(), Crop(pad=x.shape[1] // 8, mode="reflect"))


def strong(operations: Operations, x) -> tuple:
    """Returns the given operations, or what is usual for a strong view.

    Images: the weak ones, `RandAugment` and `Cutout`. Tokens: some words are dropped
    to [MASK], replaced and swapped, by the ids of BERT's vocabularies.
    """
    if operations is not None:
        return operations
    if kind(x) == "images":
        return (*weak(None, x), RandAugment(), Cutout())
    return (WordReplacement(), WordSwap(), WordDropout())


def check_strong(
    setup: Setup, stream: str, operations: Operations, field: str = "strong"
) -> None:
    """Raises UserError where nothing is usual: vectors, and other vocabularies."""
    check(setup, field, operations)
    if operations is not None:
        return
    x = first(setup, stream)
    name = checks.where(setup, field)
    if kind(x) == "vectors":
        raise UserError(
            f"{name}=None: no strong view is usual for vectors {tuple(x.shape[1:])}; "
            f"name what changes them, such as {field}=(tl.data.Noise(scale=0.1),)."
        )
    if kind(x) == "tokens" and not jnp.all(x["input_ids"][:, 0] == SPECIAL_IDS[1]):
        raise UserError(
            f"{name}=None: the usual strong view of texts knows BERT's vocabularies, "
            f"and these texts don't begin with its [CLS] ({SPECIAL_IDS[1]}); name "
            f"operations with ids of your own, such as {field}="
            "(tl.data.WordDropout(to=…, special=…),)."
        )


def check(setup: Setup, field: str, operations: Operations) -> None:
    """Raises UserError for what can't be called."""
    for operation in operations or ():
        if not callable(operation):
            raise UserError(
                f"{checks.where(setup, field)}={operations!r}: expected callables "
                "(key, x) -> x, such as tl.data.Flip()."
            )


def first(setup: Setup, stream: str):
    """Returns the inputs of a stream's first batch."""
    return next(iter(setup.batches(stream)))["x"]


def pair(context, stream: str, operations: Operations):
    """Returns logits of a stream's batch and of its strong view, (batch, K) each.

    The batch is as the experiment augments it (the weak view). Both passes are in
    training mode; the first is the stream's own, run once for all terms.
    """
    weak = context.forward(stream).logits
    operations = strong(operations, context.batches[stream]["x"])
    view = context.view(stream, operations, context.key)
    return weak, context.run(view).logits
