"""Rotation prediction: by which of four angles an image has been turned."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.selfsup import projector
from jaxtl.terms.selfsup.two_views import RepresentationTerm
from jaxtl.terms.semi import augmented_views


def quarter_turns(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All four rotations of each image, and their numbers.

    Args:
      x: (n, side, side, channels).

    Returns:
      (4n, side, side, channels), turned by 0, 90, 180 and 270 degrees
      counter-clockwise, n of each; (4n,) the numbers 0 to 3.
    """
    turned = jnp.concatenate([jnp.rot90(x, k, (1, 2)) for k in range(4)])
    return turned, jnp.repeat(jnp.arange(4), len(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationPrediction(RepresentationTerm):
    """Cross-entropy of the angle by which images were turned, of four.

    A linear map of the term's own classifies all four rotations of each image, as the
    experiment augments it; a pass has four times the batch. Digits and other images
    without an upright direction teach little. Reports "accuracy" of the angles.

    Attributes:
      stream: name of the stream; its labels are not used.
      stage: stage whose output is read; None is the last one before the head.

    References:
      Gidaris, Singh, Komodakis, Unsupervised Representation Learning by Predicting
      Image Rotations, ICLR 2018.
    """

    def check(self, setup: Setup) -> None:
        super().check(setup)
        x = augmented_views.first_inputs(setup, self.stream)
        if augmented_views.input_kind(x) != "images" or x.shape[1] != x.shape[2]:
            kind = "a dict of tokens" if isinstance(x, dict) else tuple(x.shape[1:])
            raise UserError(
                f"terms.{setup.name}: RotationPrediction turns square images, and the "
                f"inputs of the stream {self.stream!r} are {kind}; bring images to a "
                "square by data.size=."
            )

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        return projector.projector_init(key, self.width(setup), (4,), norm=False)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        x, angles = quarter_turns(context.batches[self.stream]["x"])
        logits = projector.project(context.term_params, self.features(context, x))
        hits = jnp.mean(jnp.argmax(logits, -1) == angles)
        return losses.cross_entropy(logits, angles), {"accuracy": hits}
