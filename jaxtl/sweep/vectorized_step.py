"""The compiled training steps of many replicas, in one dispatch.

Replicas are runs of one program that differ in arrays only. By vmap their steps are
taken side by side; by "map" one replica after the other inside one loop on the device,
which is faster on CPUs, where batched products of small matrices are slow.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation
from jaxtl.core.types import PyTree
from jaxtl.sweep import stacking
from jaxtl.terms.program import Program
from jaxtl.training import compiled_step, step

VMAP, MAP = "vmap", "map"


class StepInputs(NamedTuple):
    """Everything but the states that a dispatch reads.

    Attributes:
      stacked: leaves of the constants that differ between replicas, (replicas, …).
      shared: leaves of the constants that all replicas share.
      rows: stream name -> int32 (replicas, steps, batch), the rows of each step.
      order: int32 (replicas,), the indices of the active replicas first.
      active: int32 (), number of active replicas.
    """

    stacked: Sequence[jax.Array]
    shared: Sequence[jax.Array]
    rows: Mapping[str, np.ndarray]
    order: np.ndarray
    active: np.int32


class VectorizedStep(NamedTuple):
    """A compiled dispatch of many replicas.

    Attributes:
      call: `(states, inputs, n) -> (states, table)`: takes n steps in every active
        replica; the states are donated; the table is float32 (replicas, max_steps,
        len(names)), of which the first n rows of active replicas are defined.
      names: of a step's metrics, in the table's order.
    """

    call: Any
    names: tuple[str, ...]


def compiled(
    program: Program,
    layout: stacking.StackedLayout,
    mode: str,
    states: step.State,
    inputs: StepInputs,
    max_steps: int,
    options: Mapping[str, str],
) -> VectorizedStep:
    """Compiles the dispatch for these shapes, once per process.

    Args:
      program: the static description that all replicas share.
      layout: of the replicas' constants, {"fixed": Fixed, "data": streams}.
      mode: "vmap" or "map".
      states: the stacked states; only shapes matter, as for `inputs`.
      inputs: the other inputs.
      max_steps: largest number of steps in one dispatch.
      options: for XLA's compiler.
    """
    key = (program.key(), layout, mode, max_steps, str(options))
    build = functools.partial(
        _compile, program, layout, mode, states, inputs, max_steps, options
    )
    shapes = compilation.shapes((states, inputs))
    return compilation.cached(compiled, (*key, shapes), build)


def _compile(
    program: Program,
    layout: stacking.StackedLayout,
    mode: str,
    states: step.State,
    inputs: StepInputs,
    max_steps: int,
    options: Mapping[str, str],
) -> VectorizedStep:
    state, stacked, rows = _replica(0, (states, inputs.stacked, inputs.rows))
    fixed, data = _constants(layout, inputs.shared, stacked, rows, jnp.int32(0))
    names, single = compiled_step.measured(program, state, fixed, data)

    def take_steps(state, stacked, rows, shared, n):
        fixed, data = _constants(layout, shared, stacked, rows, state.step)

        def body(i, carry):
            state, table = carry
            state, row = single(state, fixed, data)
            return state, table.at[i].set(row)

        table = jnp.zeros((max_steps, len(names)), jnp.float32)
        return jax.lax.fori_loop(0, n, body, (state, table))

    if mode == VMAP:
        dispatch = functools.partial(_side_by_side, take_steps)
    else:
        dispatch = functools.partial(_in_turn, take_steps, (max_steps, len(names)))
    lowered = jax.jit(dispatch, donate_argnums=0).lower(states, inputs, np.int32(1))
    return VectorizedStep(lowered.compile(options), names)


def _constants(
    layout: stacking.StackedLayout,
    shared: Sequence[jax.Array],
    stacked: Sequence[jax.Array],
    rows: Mapping[str, jax.Array],
    first: jax.Array,
) -> tuple[step.Fixed, dict[str, Any]]:
    """One replica's (fixed arrays, streams with their drawn rows from step `first`)."""
    tree = layout.join(shared, stacked)
    data = {
        name: dataclasses.replace(stream, drawn_rows=rows[name], first_step=first)
        for name, stream in tree["data"].items()
        if name in rows
    }
    return tree["fixed"], data


def _side_by_side(
    take_steps: Callable[..., Any], states: step.State, inputs: StepInputs, n: jax.Array
) -> tuple[step.State, jax.Array]:
    """Takes n steps in all replicas at once."""
    batched = jax.vmap(take_steps, (0, 0, 0, None, None))
    return batched(states, inputs.stacked, inputs.rows, inputs.shared, n)


def _in_turn(
    take_steps: Callable[..., Any],
    table_shape: tuple[int, int],
    states: step.State,
    inputs: StepInputs,
    n: jax.Array,
) -> tuple[step.State, jax.Array]:
    """Takes n steps in one active replica after the other."""

    def body(j, carry):
        i = inputs.order[j]
        state, stacked, rows = _replica(i, (carry[0], inputs.stacked, inputs.rows))
        results = take_steps(state, stacked, rows, inputs.shared, n)
        return jax.tree.map(lambda xs, x: xs.at[i].set(x), carry, results)

    tables = jnp.zeros((len(inputs.order), *table_shape), jnp.float32)
    return jax.lax.fori_loop(0, inputs.active, body, (states, tables))


def _replica(index: Any, tree: PyTree) -> PyTree:
    """The slice of a stacked tree that belongs to one replica."""
    return jax.tree.map(lambda x: x[index], tree)
