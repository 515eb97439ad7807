"""Feature maps: stages seen as (batch, positions, channels), whatever the model."""

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, feature_stage


def grid(feature) -> tuple[jax.Array, jax.Array]:
    """Returns a stage's output as (values, mask), float32 or wider.

    Args:
      feature: (batch, …, channels) or Tokens; (batch, width) is one position.

    Returns:
      (batch, positions, channels), and (batch, positions) with 1 at real tokens and
      at every place of an image, 0 at padding. Values are 0 at padding.
    """
    if isinstance(feature, Tokens):
        values, mask = feature
    else:
        values = feature.reshape(feature.shape[0], -1, feature.shape[-1])
        mask = jnp.ones(values.shape[:2], bool)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    mask = mask.astype(values.dtype)
    return values * mask[..., None], mask


def pooled(feature) -> jax.Array:
    """Returns the mean over positions, (batch, channels)."""
    values, mask = grid(feature)
    return values.sum(1) / jnp.maximum(mask.sum(1), 1.0)[:, None]


def spatial(feature) -> bool:
    """Returns whether a stage's output (or its shape) has positions."""
    return isinstance(feature, Tokens) or len(feature.shape) > 2


def names(stages: tuple[str, ...] | None, network: Network, features) -> tuple:
    """Returns the stages to compare: those asked for, or all with positions between
    the first and the head; where there is none, the last before the head."""
    if stages is not None:
        return tuple(stages)
    inner = [s for s in network.stages[1:-1] if s in features]
    found = tuple(s for s in inner if spatial(features[s]))
    return found or (feature_stage(network.stages),)


def check(setup: Setup, stages: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the stages to compare; raises for one that is not there."""
    if isinstance(stages, str) or stages == ():
        raise UserError(
            f"{checks.where(setup, 'stages')}={stages!r}: expected a tuple of stages, "
            f"such as ({setup.program.network.stages[0]!r},), or None."
        )
    found = names(stages, setup.program.network, setup.features)
    for stage in found:
        checks.stage(setup, "stages", stage)
    return found
