"""Stage outputs as (batch, positions, channels), and the stages that terms compare."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, feature_stage


def flatten_positions(feature: jax.Array | Tokens) -> tuple[jax.Array, jax.Array]:
    """A stage's output with its positions along one axis, float32 or wider.

    Args:
      feature: (batch, …, channels) or Tokens; (batch, width) has one position.

    Returns:
      values: (batch, positions, channels), 0 at padding.
      mask: (batch, positions), 1 at real tokens and at every position of an image, 0
        at padding.
    """
    if isinstance(feature, Tokens):
        values, mask = feature
    else:
        values = feature.reshape(feature.shape[0], -1, feature.shape[-1])
        mask = jnp.ones(values.shape[:2], bool)
    values = trees.as_float32(values)
    mask = mask.astype(values.dtype)
    return values * mask[..., None], mask


def mean_over_positions(feature: jax.Array | Tokens) -> jax.Array:
    """A stage's output averaged over its (real) positions, (batch, channels)."""
    values, mask = flatten_positions(feature)
    return values.sum(1) / jnp.maximum(mask.sum(1), 1.0)[:, None]


def has_positions(feature: Any) -> bool:
    """Whether a stage's output (an array, Tokens or their shape) has positions."""
    return isinstance(feature, Tokens) or len(feature.shape) > 2


def stage_names(
    stages: tuple[str, ...] | None, network: Network, features: Mapping[str, Any]
) -> tuple[str, ...]:
    """The stages whose outputs a term compares.

    Args:
      stages: the term's field; None is all stages with positions between the first and
        the head, or the last stage before the head where there is none.
      network: the model.
      features: stage name -> its output or its shape.
    """
    if stages is not None:
        return tuple(stages)
    inner = [stage for stage in network.stages[1:-1] if stage in features]
    names = tuple(stage for stage in inner if has_positions(features[stage]))
    return names or (feature_stage(network.stages),)


def check_stages(setup: Setup, stages: tuple[str, ...] | None) -> tuple[str, ...]:
    """The stages that the field `stages` names, as `stage_names`.

    Raises:
      UserError: if it is not a tuple, is empty, or names a stage that the model lacks.
    """
    if isinstance(stages, str) or stages == ():
        raise UserError(
            f"{checks.where(setup, 'stages')}={stages!r}: expected a tuple of stages, "
            f"such as ({setup.program.network.stages[0]!r},), or None."
        )
    names = stage_names(stages, setup.program.network, setup.features)
    for stage in names:
        checks.stage(setup, "stages", stage)
    return names
