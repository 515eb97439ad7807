"""Directions of the Jacobian difference that lie in one group of stages at each step.

The stages whose parameters are selected are split into G groups, so that the Jacobian
is J = (J_1, …, J_G). With random signs u and a group g that is drawn uniformly,

    E G ‖(J_g − J⁰_g) u_g‖² = Σ_g ‖J_g − J⁰_g‖²_F = ‖J − J⁰‖²_F.

Stages before group g do not move along u_g, so their derivative is 0 and is never
computed: a late group costs little. The price is noise, since a draw sees one group.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.data import sampler

Groups = tuple[tuple[str, ...], ...]

# Groups depend on the step's number alone, so that the host knows them, and all runs of
# a vectorized sweep have the same one.
_SEED = 0
_ROUNDS = 64  # drawn at once on the host


def stage_groups(stages: Sequence[str], mask: PyTree, count: int) -> Groups:
    """The stages that have a selected parameter, as groups of consecutive ones.

    Args:
      stages: of the network, in order.
      mask: tree of bools by stage: the selected parameters.
      count: number of groups.

    Returns:
      `count` groups whose sizes differ by one at most, the larger ones first; empty
      ones where there are fewer stages.
    """
    names = [name for name in stages if any(jax.tree.leaves(mask.get(name)))]
    parts = np.array_split(np.arange(len(names)), count)
    return tuple(tuple(names[i] for i in part) for part in parts)


def group_of_draw(draw: Any, count: int) -> Any:
    """The group of a draw; each one comes once in `count` draws, in random order.

    Args:
      draw: its number, from 0; an int or a traced integer.
      count: number of groups.

    Returns:
      A number below `count`, int or traced as `draw` is.
    """
    if isinstance(draw, jax.Array):
        return sampler.indices(_SEED, draw, 1, count)[0]
    block, place = divmod(int(draw), _ROUNDS * count)
    return _drawn_groups(block, count)[place]


@functools.lru_cache(maxsize=64)
def _drawn_groups(block: int, count: int) -> tuple[int, ...]:
    """The groups of `_ROUNDS` rounds; drawing each by itself takes 0.1 ms of a step."""
    return tuple(sampler.indices(_SEED, block, _ROUNDS * count, count).tolist())


def group_mask(mask: PyTree, group: Sequence[str]) -> PyTree:
    """The mask of the selected parameters of one group.

    Args:
      mask: tree of bools.
      group: names of stages.

    Returns:
      The mask with False outside of these stages.
    """
    return trees.map_with_path(
        lambda path, keep: keep and path.split("/")[0] in group, mask
    )


def group_restriction(
    mask: PyTree, groups: Groups, number: Any
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """The restriction of directions to the parameters of one group.

    Args:
      mask: tree of bools: the selected parameters.
      groups: of `stage_groups`.
      number: of the group, int or traced.

    Returns:
      (the mask of the parameters that move, u -> the part of u that moves them). Where
      the number is traced, all of them move, and u is 0 outside of the group.
    """
    if not isinstance(number, int):
        return mask, lambda u: within_group(u, groups, number)
    part = group_mask(mask, groups[number])
    return part, lambda u: trees.restrict(u, part)


def within_group(direction: PyTree, groups: Groups, number: Any) -> PyTree:
    """The part of a direction in one group.

    Args:
      direction: of the selected parameters, None elsewhere.
      groups: of `stage_groups`.
      number: of the group, int or traced.

    Returns:
      The direction with 0 outside of the group.
    """
    group_of = {stage: i for i, group in enumerate(groups) for stage in group}

    def part(path: str, leaf: jax.Array) -> jax.Array:
        is_inside = group_of[path.split("/")[0]] == number
        return jnp.where(is_inside, leaf, jnp.zeros_like(leaf))

    return trees.map_with_path(part, direction)
