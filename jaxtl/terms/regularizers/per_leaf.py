"""Which leaves a starting-point regularizer counts, and how strongly each.

A leaf counts where it is selected, trainable and has a source. `strengths` maps path
patterns to factors of leaves; the first that covers a leaf is its factor, and a leaf
that none covers has the factor 1.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup

Equation = Callable[[str, jax.Array, jax.Array], jax.Array]


def check(setup: Setup, pattern: str, strengths: Mapping[str, float]) -> PyTree:
    """Returns the mask of the leaves that count, once select= and strengths= are fine.

    Raises:
      UserError: if there is no source, nothing is left to count, a pattern of
        `strengths` matches no parameter or is hidden by an earlier one, or a factor
        is no number of at least 0.
    """
    checks.sourced(setup)
    mask = checks.selected(setup, pattern, sourced=True)
    name = checks.where(setup, "strengths")
    if not isinstance(strengths, Mapping):
        raise UserError(
            f"{name}={strengths!r}: expected a mapping from path patterns to factors, "
            'such as {"stem": 10.0}.'
        )
    for key, factor in strengths.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise UserError(f"{name}[{key!r}]={factor!r}: expected a number.")
        checks.number(setup, f"strengths[{key!r}]", factor, 0.0)
    if strengths:
        paths = trees.flatten(setup.params)
        rest = [] if all(selection.first(strengths, p) for p in paths) else [".*"]
        selection.labels([*strengths, *rest], setup.params, what=name)
    return mask


def pairs(context, pattern: str) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns path -> (θ, θ₀) of the leaves that count, for a context or a `Setup`."""
    params = selection.keep(selection.mask(pattern, context.params), context.params)
    trainable = trees.flatten(context.program.trainable_mask)
    start = trees.flatten(context.source.params)
    return {
        path: (theta, start[path])
        for path, theta in trees.flatten(params).items()
        if trainable[path] and path in start
    }


def measure(context, pattern: str, equation: Equation) -> dict[str, jax.Array]:
    """Returns path -> equation(path, θ, θ₀), a scalar, of the leaves that count."""
    found = pairs(context, pattern)
    return {path: equation(path, *both) for path, both in found.items()}


def total(values: Mapping[str, jax.Array], strengths: Mapping[str, float]) -> jax.Array:
    """Returns Σ factor · value, a scalar."""
    result = jnp.float32(0.0)
    for path, value in values.items():
        pattern = selection.first(strengths, path)
        result = result + (value if pattern is None else strengths[pattern] * value)
    return result
