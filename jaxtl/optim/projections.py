"""Projections: after each update, parameters go back to the neighbourhood of θ₀.

They stand in `optim.project` and not among the terms, as they change parameters and not
the loss. Only trainable leaves that have a source are touched.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree


def l2_ball(params: PyTree, source: PyTree, radius: jax.Array | float) -> PyTree:
    """θ₀ + (θ − θ₀) / max(1, ‖θ − θ₀‖₂ / radius): the nearest point of the ball.

    Args:
      params: θ, an array or a tree of them; the norm is over all their elements.
      source: θ₀, the same structure.
      radius: of the ball, in units of the parameters.

    Returns:
      The structure of `params`; θ itself inside the ball.

    References:
      Gouk, Hospedales, Pontil, Distance-Based Regularisation of Deep Networks for
      Fine-Tuning, ICLR 2021 (the projection that they compare MARS with).
    """
    norm = jnp.sqrt(trees.sum_squares(trees.sub(params, source)))
    return jax.tree.map(lambda x, x0: _scaled(x, x0, norm, radius), params, source)


def mars(kernel: jax.Array, source: jax.Array, radius: jax.Array | float) -> jax.Array:
    """wᵢ⁰ + (wᵢ − wᵢ⁰) / max(1, ‖wᵢ − wᵢ⁰‖₁ / radius) for every output unit i.

    Afterwards the maximum absolute row sum norm ‖W − W⁰‖_∞ is at most the radius. Rows
    are scaled, which is not the Euclidean projection onto the L1 ball.

    Args:
      kernel: (..., out), all axes but the last are inputs (of a convolution: rows,
        columns, channels).
      source: its value at θ₀, (..., out).
      radius: of the ball, in units of the parameters.

    Returns:
      (..., out), the kernel's dtype; units inside the ball stay the same.

    References:
      Gouk, Hospedales, Pontil, ICLR 2021, section 4.
    """
    inputs = tuple(range(kernel.ndim - 1))
    norm = jnp.sum(jnp.abs(kernel - source), axis=inputs, keepdims=True)
    return _scaled(kernel, source, norm, radius)


def _scaled(x: Any, start: Any, norm: Any, radius: Any):
    """Scales x − start to the radius where its norm exceeds it."""
    # Chosen by `where`, so that points inside keep their bits.
    factor = radius / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    return jnp.where(norm > radius, start + factor * (x - start), x).astype(x.dtype)


def deviation_ratio(
    params: jax.Array, before: jax.Array, source: jax.Array
) -> jax.Array:
    """r = max(0, γ − γ′) / γ in [0, 1], γ = ‖params − θ₀‖₂ and γ′ = ‖before − θ₀‖₂.

    The share of the distance to θ₀ that the last update added; 0 at θ₀.

    Args:
      params: θ of one leaf after the update.
      before: the same before it.
      source: θ₀ of the leaf.

    Returns:
      r, a float32 scalar (or wider).

    References:
      Tian, Huang, Kira, Rethinking Weight Decay for Robust Fine-Tuning of Foundation
      Models, NeurIPS 2024, section 3 (r_t).
    """
    new, old = (jnp.sqrt(trees.sum_squares(x - source)) for x in (params, before))
    return jnp.maximum(new - old, 0) / jnp.maximum(new, jnp.finfo(new.dtype).tiny)


def selective_decay(
    params: jax.Array,
    before: jax.Array,
    grad: jax.Array,
    source: jax.Array,
    strength: jax.Array | float,
) -> jax.Array:
    """θ ← θ − strength · r · (θ − θ₀) where c = −⟨g, θ′ − θ₀⟩ < 0, else θ.

    c < 0 says that the loss would fall on the way back to θ₀; if the optimizer (by its
    momentum, or a long step) went further away nevertheless, r > 0 and the step is
    taken back in part. With strength 1 the distance to θ₀ becomes what it was before.

    Args:
      params: θ of one leaf after the update.
      before: θ′, before it.
      grad: g, of the loss at θ′.
      source: θ₀.
      strength: λ.

    Returns:
      θ, of the leaf's shape and dtype.

    References:
      Tian, Huang, Kira, NeurIPS 2024, section 3 (selective projection decay).
    """
    moves_back = trees.dot(grad, before - source) > 0
    decay = strength * deviation_ratio(params, before, source)
    return jnp.where(moves_back, params - decay * (params - source), params).astype(
        params.dtype
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection:
    """A step after each update that moves parameters towards θ₀.

    Attributes:
      select: pattern of the parameters that are projected.
    """

    select: str = ".*"

    def check(self, name: str, params: PyTree, mask: PyTree, source: PyTree) -> None:
        """Raises UserError where this projection can't work.

        Args:
          name: the projection's place, "optim.project.0".
          params: the model's parameters.
          mask: tree of bools, True where a parameter is trainable.
          source: θ₀, None where a leaf has none (or as a whole).
        """
        selected = selections.mask(self.select, params, what=f"{name}.select")
        source_leaves = trees.flatten(source)
        if not source_leaves:
            raise UserError(
                f"{name}={type(self).__name__}(…): the experiment starts from scratch, "
                "so there is no θ₀ to stay near; give it an init=."
            )
        trained, leaves = trees.flatten(mask), trees.flatten(params)
        touched = [
            path
            for path, yes in trees.flatten(selected).items()
            if yes
            and trained[path]
            and path in source_leaves
            and self.takes(leaves[path])
        ]
        if not touched:
            raise UserError(
                f"{name}.select={self.select!r}: selects no parameter that is "
                f"trainable, has a source and is one for {type(self).__name__}; those "
                f"with a source are in: {', '.join(_stages(source_leaves))}."
            )

    def takes(self, leaf: Any) -> bool:
        """Whether a leaf of this shape is projected."""
        return True

    def __call__(
        self, params: PyTree, before: PyTree, grads: PyTree, source: PyTree
    ) -> PyTree:
        """The projected parameters.

        Args:
          params: the model's trainable leaves after the update, None at frozen ones.
          before: the same before the update.
          grads: gradients of the loss at `before`.
          source: θ₀, None where a leaf has none.
        """
        raise TypeError(f"{type(self).__name__} defines no __call__")

    def each(self, fn: Callable[..., Any], params: PyTree, source: PyTree, *more_trees):
        """Maps `fn(leaf, its source, ...)` over the leaves that are projected."""

        def one(path: str, x: Any, start: Any, *more_leaves):
            projected = x is not None and start is not None
            projected = (
                projected and self.takes(x) and selections.matches(self.select, path)
            )
            return fn(x, start, *more_leaves) if projected else x

        return jax.tree_util.tree_map_with_path(
            lambda path, *leaves: one(trees.path_str(path), *leaves),
            params,
            source,
            *more_trees,
            is_leaf=lambda x: x is None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ball(Projection):
    """A projection into a ball around θ₀."""

    radius: float = traced()

    def check(self, name: str, params: PyTree, mask: PyTree, source: PyTree):
        if not self.radius > 0:
            raise UserError(
                f"{name}.radius={self.radius!r}: a projection of radius "
                f"{self.radius:g} leaves nothing to learn; expected a number above 0 "
                "(to keep parameters as they are use groups={…: tl.FROZEN})."
            )
        super().check(name, params, mask, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2Ball(_Ball):
    """Keeps ‖θ − θ₀‖₂ ≤ radius; see `l2_ball`.

    Attributes:
      radius: of the ball.
      per: "leaf" gives every leaf a ball of its own, "all" one ball to all of them.
    """

    per: Literal["leaf", "all"] = "leaf"

    def check(self, name: str, params: PyTree, mask: PyTree, source: PyTree):
        if self.per not in ("leaf", "all"):
            raise UserError(f"{name}.per={self.per!r}: expected 'leaf' or 'all'.")
        super().check(name, params, mask, source)

    def __call__(self, params: PyTree, before: PyTree, grads: PyTree, source: PyTree):
        if self.per == "leaf":
            return self.each(lambda x, x0: l2_ball(x, x0, self.radius), params, source)
        pairs: list[tuple[jax.Array, jax.Array]] = []
        self.each(lambda *pair: pairs.append(pair), params, source)
        leaves, start = map(list, zip(*pairs))
        inside = iter(l2_ball(leaves, start, self.radius))
        return self.each(lambda *_: next(inside), params, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MARS(_Ball):
    """Keeps the maximum absolute row sum of every kernel's change ≤ radius; see `mars`.

    Leaves of fewer than two dimensions (biases, norms) are left alone.

    Attributes:
      radius: bound of ‖wᵢ − wᵢ⁰‖₁ for each output unit's weights wᵢ.
    """

    def takes(self, leaf: Any):
        return leaf.ndim >= 2

    def __call__(self, params: PyTree, before: PyTree, grads: PyTree, source: PyTree):
        return self.each(lambda x, x0: mars(x, x0, self.radius), params, source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveDecay(Projection):
    """Takes back steps away from θ₀ that the gradient is against: `selective_decay`.

    Every leaf decides for itself. To be used without weight decay.

    Attributes:
      strength: λ ≥ 0; with 1 such a step adds no distance at all.
    """

    strength: float = traced(1.0)

    def check(self, name: str, params: PyTree, mask: PyTree, source: PyTree):
        if not self.strength >= 0:
            raise UserError(
                f"{name}.strength={self.strength!r}: expected a number of at least 0."
            )
        super().check(name, params, mask, source)

    def __call__(self, params: PyTree, before: PyTree, grads: PyTree, source: PyTree):
        def one(param: Any, start: Any, old: Any, grad: Any):
            return selective_decay(param, old, grad, start, self.strength)

        return self.each(one, params, source, before, grads)


def _stages(paths: Iterable[str]) -> list[str]:
    return sorted({path.split("/")[0] for path in paths})
