"""The axes of a model's parameters that count its outputs or its input columns.

They are seen by counting: the ones that grow by one where the model gets one output, or
one column, more.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.pretrained.match import Weights


def output_axes(config: Any, x: PyTree) -> dict[str, int] | None:
    """Path -> the axis that counts the head's outputs; None where it can't be seen.

    Args:
      config: the model as configuration with its number of outputs, or a `Network`.
      x: a batch of its inputs.
    """
    outputs = getattr(config, "outputs", None)
    if isinstance(config, Network) or outputs is None:
        return None
    wider = dataclasses.replace(config, outputs=outputs + 1).pure()
    return growing_axes(_shapes(config.pure(), x), _shapes(wider, x))


def input_axes(network: Network, x: PyTree) -> dict[str, int] | None:
    """Path -> the axis that counts input columns; None where it can't be seen.

    Args:
      network: the model's pure functions.
      x: a batch of its inputs, (batch, columns).
    """
    if getattr(x, "ndim", 0) != 2:
        return None
    wider = jnp.zeros((len(x), x.shape[1] + 1), x.dtype)
    try:
        return growing_axes(_shapes(network, x), _shapes(network, wider))
    except Exception:  # functions of a user, which may need the width as it is
        return None


def _shapes(network: Network, x: PyTree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter and statistic."""
    params, stats = jax.eval_shape(network.init, jax.random.key(0), x)
    leaves = {**trees.flatten(params), **trees.flatten(stats)}
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def growing_axes(
    shapes: Mapping[str, tuple[int, ...]], larger: Mapping[str, tuple[int, ...]]
) -> dict[str, int] | None:
    """Path -> the axis that is longer by one.

    Args:
      shapes: path -> shape of every leaf of a model.
      larger: the same of the model with one output, or one input column, more.

    Returns:
      The leaves that grow; None where none does, or one differs in another way.
    """
    if shapes.keys() != larger.keys():
        return None
    axes = {}
    for path, shape in shapes.items():
        if shape == larger[path]:
            continue
        steps = [b - a for a, b in zip(shape, larger[path])]
        is_one_more = sorted(set(steps)) in ([1], [0, 1]) and sum(steps) == 1
        if len(shape) != len(larger[path]) or not is_one_more:
            return None
        axes[path] = steps.index(1)
    return axes or None


def permuted(
    weights: Weights, axes: Mapping[str, int], places: Sequence[int]
) -> Weights:
    """The weights with some axes in another order.

    Args:
      weights: of any source; they are not changed.
      axes: path -> axis. A leaf of too few dimensions stays, `match.match` reports it.
      places: place in the weights of each place of the result. Further ones stay.

    Raises:
      UserError: a leaf that has fewer places.
    """
    permute = _permutation(axes, places)
    return dataclasses.replace(
        weights,
        params=trees.map_with_path(permute, weights.params),
        stats=trees.map_with_path(permute, weights.stats),
    )


def _permutation(
    axes: Mapping[str, int], places: Sequence[int]
) -> Callable[[str, Any], Any]:
    def permute(path: str, leaf: Any) -> Any:
        axis = axes.get(path)
        if axis is None or axis >= len(leaf.shape):
            return leaf
        if leaf.shape[axis] < len(places):
            raise UserError(
                f"the weights name {len(places)} outputs or columns, and {path!r} of "
                f"shape {tuple(leaf.shape)} has {leaf.shape[axis]}."
            )
        order = [*places, *range(len(places), leaf.shape[axis])]
        return np.take(np.asarray(leaf), order, axis=axis)

    return permute
