"""Base classes of regularizers of parameters, and which leaves they count.

A leaf counts where it is selected, trainable and has a source. `strengths` maps path
patterns to factors of leaves; the first pattern that matches a leaf gives its factor,
and a leaf that none matches has the factor 1.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.context import View

# (path, θ, θ₀) of one leaf -> scalar
LeafEquation = Callable[[str, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterTerm(Term):
    """Base class of terms that read parameters alone, and no stream."""

    @property
    def streams(self) -> tuple[str, ...]:
        return ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeafTerm(ParameterTerm):
    """Base class of terms that sum an equation of (θ, θ₀) over the leaves that count.

    Attributes:
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it matches; the first match counts, and
        1 where there is none.
    """

    select: str = ".*"
    strengths: Mapping[str, float] = traced({})

    def check(self, setup: Setup) -> None:
        check(setup, self.select, self.strengths)

    def leaf_values(
        self, context: View, equation: LeafEquation
    ) -> dict[str, jax.Array]:
        """Path -> the equation's value, a scalar, of each leaf that counts."""
        return leaf_values(context, self.select, equation)

    def weighted_sum(self, values: Mapping[str, jax.Array]) -> jax.Array:
        """Σ strength · value over leaves, a scalar."""
        return weighted_sum(values, self.strengths)


def check(setup: Setup, pattern: str, strengths: Mapping[str, float]) -> None:
    """Checks the fields `select` and `strengths` of a term.

    Args:
      setup: what the term is checked against.
      pattern: the field `select`.
      strengths: the field `strengths`.

    Raises:
      UserError: if there is no source, no leaf counts, a pattern of `strengths` matches
        no parameter or none that an earlier one does not match, or a factor is not a
        number of at least 0.
    """
    checks.sourced(setup)
    checks.selected(setup, pattern, sourced=True)
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
        covers_all = all(selection.first(strengths, path) for path in paths)
        patterns = [*strengths, *([] if covers_all else [".*"])]
        selection.labels(patterns, setup.params, what=name)


def leaf_pairs(
    context: View | Setup, pattern: str
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Path -> (θ, θ₀) of each leaf that counts.

    Args:
      context: of the step, or the setup.
      pattern: the term's field `select`.
    """
    params = selection.keep(selection.mask(pattern, context.params), context.params)
    trainable = trees.flatten(context.program.trainable_mask)
    source = trees.flatten(context.source.params)
    return {
        path: (leaf, source[path])
        for path, leaf in trees.flatten(params).items()
        if trainable[path] and path in source
    }


def leaf_values(
    context: View, pattern: str, equation: LeafEquation
) -> dict[str, jax.Array]:
    """Path -> equation(path, θ, θ₀), a scalar, of each leaf that counts."""
    pairs = leaf_pairs(context, pattern)
    return {path: equation(path, *pair) for path, pair in pairs.items()}


def weighted_sum(
    values: Mapping[str, jax.Array], strengths: Mapping[str, float]
) -> jax.Array:
    """Σ strength · value over leaves, a scalar."""
    result = jnp.float32(0.0)
    for path, value in values.items():
        pattern = selection.first(strengths, path)
        result = result + (value if pattern is None else strengths[pattern] * value)
    return result


def unsourced_params(context: View) -> PyTree:
    """The trainable parameters that have no source, None in place of all others."""
    return jax.tree.map(
        lambda leaf, source: leaf if source is None else None,
        selection.keep(context.program.trainable_mask, context.params),
        context.source.params,
        is_leaf=lambda x: x is None,
    )
