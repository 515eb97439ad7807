"""Attention transfer: look where the source looked."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import feature_maps

_TINY = 1e-24  # of a squared norm: a map that is 0 everywhere stays 0


def attention_map(values: jax.Array) -> jax.Array:
    """Q / ‖Q‖₂ with Q = Σ_c |A_c|², the activation-based spatial attention.

    Args:
      values: A, (batch, positions, channels), float32 or wider.

    Returns:
      (batch, positions), each row of norm 1 (0 where all activations are).

    References:
      Zagoruyko & Komodakis, Paying More Attention to Attention, ICLR 2017, section
      3.1, F²_sum.
    """
    q = jnp.sum(jnp.square(values), axis=-1)
    norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(q), axis=-1, keepdims=True), _TINY))
    return q / norm


def attention_distance(
    ours: jax.Array, theirs: jax.Array, squared: bool = True
) -> jax.Array:
    """‖Q_S/‖Q_S‖ − Q_T/‖Q_T‖‖₂ or its square, mean over examples, without ½.

    Args:
      ours: A of the student, (batch, positions, channels).
      theirs: A of the teacher; its channels may be another number.
      squared: the square, as in the authors' program (which divides it by the number
        of positions besides). The norm itself, as in eq. 2, has no derivative where
        the maps agree; it is taken as 0 there.

    References:
      Zagoruyko & Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2 for
      p = 2; there with a factor β / 2.
    """
    gap = attention_map(ours) - attention_map(theirs)
    square = jnp.sum(jnp.square(gap), axis=-1)
    if squared:
        return jnp.mean(square)
    moved = square > _TINY
    return jnp.mean(jnp.where(moved, jnp.sqrt(jnp.where(moved, square, 1.0)), 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionTransfer(Term):
    """`attention_distance` to the source's maps, summed over stages.

    The model's side is its training pass, the source's in evaluation mode. Padding
    tokens have attention 0.

    Attributes:
      stages: stages with positions (images, tokens); None takes all between the first
        and the head.
      squared: of the norm, as told at `attention_distance`.
      stream: name of the stream.
    """

    stages: tuple[str, ...] | None = None
    squared: bool = True
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.sourced(setup)
        checks.stream(setup, "stream", self.stream)
        for stage in feature_maps.check(setup, self.stages):
            if not feature_maps.spatial(setup.features[stage]):
                raise UserError(
                    f"{checks.where(setup, 'stages')}: the stage {stage!r} gives one "
                    "vector per example, and attention needs positions (an image's or "
                    "a text's) to differ between; name other stages."
                )

    def describe(self, setup: Setup) -> str:
        found = feature_maps.names(self.stages, setup.program.network, setup.features)
        return f"attention of {', '.join(found)}"

    def __call__(self, context):
        ours = context.forward(self.stream).features
        theirs = context.source_forward(self.stream).features
        total = 0.0
        for stage in feature_maps.names(self.stages, context.program.network, ours):
            pair = (
                feature_maps.grid(ours[stage])[0],
                feature_maps.grid(theirs[stage])[0],
            )
            total = total + attention_distance(*pair, self.squared)
        return total
