"""Which inputs an output of a traced function depends on."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex


def first_other_input(
    fn: Callable[[list[Any], Any], Sequence[Any]], inputs: list[Any], fixed: Any
) -> tuple[int, int] | None:
    """The first output that reads another than its own input.

    Args:
      fn: `(inputs, fixed) -> outputs`, as many as inputs.
      inputs: trees of arrays or their shapes.
      fixed: a further argument that every output may read.

    Returns:
      (index of the output, index of the other input), None where output i reads input
      i alone.
    """
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(inputs, fixed)
    origins: dict[Any, frozenset[int]] = {}
    variables = iter(closed.jaxpr.invars)
    for index, tree in enumerate(inputs):
        for _ in jax.tree.leaves(tree):
            origins[next(variables)] = frozenset([index])
    for equation in closed.jaxpr.eqns:
        read = frozenset().union(
            *(origins.get(v, frozenset()) for v in _variables(equation.invars))
        )
        origins.update(dict.fromkeys(equation.outvars, read))
    results = iter(closed.jaxpr.outvars)
    for index, tree in enumerate(shapes):
        outputs = [next(results) for _ in jax.tree.leaves(tree)]
        read = frozenset().union(
            *(origins.get(v, frozenset()) for v in _variables(outputs))
        )
        if others := read - {index}:
            return index, min(others)
    return None


def _variables(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if not isinstance(value, jex.Literal)]
