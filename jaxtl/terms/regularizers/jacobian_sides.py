"""The two functions of a Jacobian difference, and a value that is due on some steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core import types
from jaxtl.core.types import Output, PyTree
from jaxtl.terms.context import Context, View
from jaxtl.terms.regularizers.jacobian_estimates import Function


class Side(NamedTuple):
    """A model whose Jacobian is compared: at θ, or at θ₀.

    Attributes:
      params: all parameters.
      stats: BatchNorm statistics.
      apply: as `Network.apply`.
    """

    params: PyTree
    stats: PyTree
    apply: Callable[..., Output]

    def function(
        self, fixed_params: PyTree, stop: str | None, start: str | None
    ) -> Function:
        """(params, x) -> outputs, one vector per example, in evaluation mode.

        Args:
          fixed_params: the parameters that are no argument of the function.
          stop: the stage whose output is the function's, None for the head.
          start: the stage that reads x, None for the first.
        """
        settings = {"stop": stop, "start": start}
        # A network that is a plain pair of functions may accept neither.
        settings = {name: stage for name, stage in settings.items() if stage}

        def f(params: PyTree, x: PyTree) -> jax.Array:
            params = trees.merge(params, fixed_params)
            return types.vectors(self.apply(params, self.stats, x, **settings).logits)

        return f


class Sides(NamedTuple):
    """The model, the source, and whether they are equal, a bool scalar."""

    model: Side
    source: Side
    are_equal: jax.Array


class FunctionPair(NamedTuple):
    """The two functions whose Jacobians are compared, with their arguments.

    Attributes:
      f: (params, x) -> (batch, outputs).
      params: the leaves of θ by which f is differentiated.
      source_f: f₀, the same at θ₀.
      source_params: the same leaves of θ₀.
    """

    f: Function
    params: PyTree
    source_f: Function
    source_params: PyTree


def both_sides(context: View | Context, params: PyTree) -> Sides:
    """The model at θ and the source at θ₀.

    Args:
      context: of the step.
      params: θ.
    """
    source, stop_gradient = context.source, jax.lax.stop_gradient
    source_params = trees.fill(source.params, stop_gradient(params))
    # A training pass before this term moves the statistics with θ.
    stats = stop_gradient(context.stats)
    source_stats = trees.fill(source.stats, stats)
    are_equal = _are_equal((params, stats), (source_params, source_stats))
    # Adapters and prompts are parameters that θ₀ does not have.
    base = context.program.base_params(params)
    are_equal &= len(jax.tree.leaves(params)) == len(jax.tree.leaves(base))
    model = Side(params, stats, context.program.network.apply)
    source_side = Side(source_params, source_stats, context.source_apply)
    return Sides(model, source_side, are_equal)


def function_pair(
    sides: Sides, mask: PyTree, stop: str | None, start: str | None = None
) -> FunctionPair:
    """The functions of both sides.

    Args:
      sides: of `both_sides`.
      mask: tree of bools: the parameters by which the functions are differentiated.
      stop: the stage whose output is the functions', None for the head.
      start: the stage that reads x, None for the first.
    """
    params, fixed = trees.partition(sides.model.params, mask)
    source_params, source_fixed = trees.partition(sides.source.params, mask)
    f = sides.model.function(fixed, stop, start)
    source_f = sides.source.function(source_fixed, stop, start)
    return FunctionPair(f, params, source_f, source_params)


def _are_equal(a: PyTree, b: PyTree) -> jax.Array:
    """A bool scalar: every element of two trees of one structure agrees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return jnp.stack([jnp.array_equal(x, y) for x, y in pairs]).all()


def first_rows(x: PyTree, fraction: float) -> PyTree:
    """The first rows of a batch, that share of them, at least one.

    Args:
      x: (batch, ...), or a tree of such.
      fraction: in [0, 1].

    Returns:
      (rows, ...), or a tree of such.
    """
    count = max(1, round(fraction * len(jax.tree.leaves(x)[0])))
    return jax.tree.map(lambda a: a[:count], x)


def value_if_due(
    is_due: jax.Array, value: Callable[[PyTree], jax.Array], params: PyTree
) -> jax.Array:
    """value(params) on the steps on which it is due, 0 at no cost on all others.

    The gradient is computed inside of the condition, since the backward pass of a
    condition would fill its residuals with zeros on every step that does not need them.

    Args:
      is_due: a bool scalar.
      value: a scalar function of the parameters.
      params: what the value is differentiated by.

    Returns:
      A scalar.
    """
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    zeros = jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, params)
    result, gradient = jax.lax.cond(
        is_due,
        jax.value_and_grad(lambda p: value(p).astype(dtype)),
        lambda _: zeros,
        jax.lax.stop_gradient(params),
    )
    # The second summand is 0 and carries the gradient.
    difference = trees.sub(params, jax.lax.stop_gradient(params))
    return result + trees.dot(gradient, difference)
