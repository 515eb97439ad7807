"""Attention transfer: spatial attention maps stay near the source's."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import feature_maps

_TINY = 1e-24  # least squared norm, so that a map that is 0 everywhere stays 0


def attention_map(values: jax.Array) -> jax.Array:
    """Q / ‖Q‖₂ with Q = Σ_c |A_c|², the activation-based spatial attention.

    Args:
      values: A, (batch, positions, channels), float32 or wider.

    Returns:
      (batch, positions), each row of norm 1 (0 where all activations are 0).

    References:
      Zagoruyko & Komodakis, Paying More Attention to Attention, ICLR 2017, section
      3.1, F²_sum.
    """
    q = jnp.sum(jnp.square(values), axis=-1)
    norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(q), axis=-1, keepdims=True), _TINY))
    return q / norm


def attention_distance(
    student: jax.Array, teacher: jax.Array, squared: bool = True
) -> jax.Array:
    """‖Q_S/‖Q_S‖ − Q_T/‖Q_T‖‖₂ or its square, mean over examples, without ½.

    Args:
      student: A of the student, (batch, positions, channels).
      teacher: A of the teacher, whose number of channels may differ.
      squared: whether the norm is squared, as in the authors' program (which also
        divides it by the number of positions). The norm itself, as in eq. 2, has no
        derivative where the maps agree; it is taken as 0 there.

    Returns:
      A scalar.

    References:
      Zagoruyko & Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2 for
      p = 2; there with a factor β / 2.
    """
    gap = attention_map(student) - attention_map(teacher)
    square = jnp.sum(jnp.square(gap), axis=-1)
    if squared:
        return jnp.mean(square)
    differs = square > _TINY
    return jnp.mean(jnp.where(differs, jnp.sqrt(jnp.where(differs, square, 1.0)), 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionTransfer(Term):
    """`attention_distance` to the source's maps, summed over stages.

    The model's side is its training pass, the source's in evaluation mode. Padding
    tokens have attention 0.

    Attributes:
      stages: stages with positions (images, tokens); None is all of them between the
        first stage and the head.
      squared: as in `attention_distance`.
      stream: name of the stream.
    """

    stages: tuple[str, ...] | None = None
    squared: bool = True
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.sourced(setup)
        checks.stream(setup, "stream", self.stream)
        for stage in feature_maps.check_stages(setup, self.stages):
            if not feature_maps.has_positions(setup.features[stage]):
                raise UserError(
                    f"{checks.where(setup, 'stages')}: the stage {stage!r} gives one "
                    "vector per example, and attention compares the positions of an "
                    "image or a text; name other stages."
                )

    def describe(self, setup: Setup) -> str:
        network, features = setup.program.network, setup.features
        names = feature_maps.stage_names(self.stages, network, features)
        return f"attention of {', '.join(names)}"

    def __call__(self, context: View) -> jax.Array:
        features = context.forward(self.stream).features
        source_features = context.source_forward(self.stream).features
        network, total = context.program.network, jnp.float32(0.0)
        for stage in feature_maps.stage_names(self.stages, network, features):
            student, _ = feature_maps.flatten_positions(features[stage])
            teacher, _ = feature_maps.flatten_positions(source_features[stage])
            total = total + attention_distance(student, teacher, self.squared)
        return total
