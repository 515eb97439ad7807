"""Dispatches: the compiled step, one or many at a time, and what it costs."""

import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core import compilation
from jaxtl.core.errors import UserError
from jaxtl.terms.base import Term
from jaxtl.terms.program import Program
from jaxtl.training.step import Fixed, State, step


class Compiled(NamedTuple):
    """A compiled dispatch and what it costs.

    Attributes:
      call: `(state, fixed, data, n) -> (state, table)`; the table is float32
        (most, len(names)), of whose rows the first n are the steps taken.
      names: of the metrics, in the table's order.
      most: the largest n.
      seconds: time of tracing and compiling.
      flops: floating-point operations per step by XLA's count (None if unknown).
      temp_bytes: temporary memory of one step.
    """

    call: Any
    names: tuple[str, ...]
    most: int
    seconds: float
    flops: float | None
    temp_bytes: int | None


class StepKind(NamedTuple):
    """What tells the programs of steps apart, among which the host chooses.

    Attributes:
      idle: names of the terms with a period that are 0.
      variants: (name, number) of the variant of each other term that has several.
    """

    idle: tuple[str, ...] = ()
    variants: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The compiled dispatches of a phase, among which a step's number chooses.

    Where one dispatch takes one step, there is a program for each kind of step, and the
    host chooses. One program with a condition inside would be slower: XLA's CPU backend
    runs convolutions several times slower within conditions.

    Attributes:
      dispatches: kind of the step -> the dispatch; None is the only key where all steps
        are of one kind, or one program takes all kinds.
      terms: name -> term that makes kinds of steps, `Program.varying_terms`.
      starts: name of a term that began after the run's first step -> that step.
    """

    dispatches: Mapping[StepKind | None, Compiled]
    terms: Mapping[str, Term]
    starts: Mapping[str, int]

    def at(self, step: int) -> Compiled:
        """The dispatch that takes the step of this number."""
        if not self.terms:
            return self.dispatches[None]
        return self.dispatches[step_kind(self.terms, self.starts, step)]

    @property
    def most(self) -> int:
        """The largest number of steps of one dispatch."""
        return next(iter(self.dispatches.values())).most

    @property
    def seconds(self) -> float:
        """Time of tracing and compiling all."""
        return sum(dispatch.seconds for dispatch in self.dispatches.values())

    @property
    def flops(self) -> float | None:
        """Floating-point operations per step, the mean over steps (None if unknown)."""
        if not self.terms:
            return self.dispatches[None].flops
        means = []
        for kinds in kinds_by_step(self.terms, self.starts):
            flops = [self.dispatches[kind].flops for kind in kinds]
            means.append(statistics.mean(f or math.nan for f in flops))
        mean = statistics.mean(means)
        return None if math.isnan(mean) else mean

    @property
    def temp_bytes(self) -> int | None:
        """Temporary memory of the step that needs most."""
        sizes = [d.temp_bytes for d in self.dispatches.values()]
        return max((size for size in sizes if size is not None), default=None)


def idle_terms(
    terms: Mapping[str, Term], starts: Mapping[str, int], step: int
) -> tuple[str, ...]:
    """Names of the terms with a period that are 0 on a step.

    They act on the last of each `period` steps: on the first one θ is θ₀.

    Args:
      terms: name -> term.
      starts: name of a term that began after the run's first step -> that step.
      step: its number in the run.
    """
    return tuple(
        name
        for name, term in terms.items()
        if (step - starts.get(name, 0) + 1) % term.period
    )


def step_kind(
    terms: Mapping[str, Term], starts: Mapping[str, int], step: int
) -> StepKind:
    """The kind of a step.

    Args:
      terms, starts, step: as for `idle_terms`.

    Returns:
      What is left out of its program, and which variants it has.
    """
    idle = idle_terms(terms, starts, step)
    variants = tuple(
        (name, term.variant_at(step - starts.get(name, 0)))
        for name, term in terms.items()
        if name not in idle and term.variants > 1
    )
    return StepKind(idle, variants)


def kinds_by_step(
    terms: Mapping[str, Term], starts: Mapping[str, int]
) -> list[list[StepKind]]:
    """The kinds of the steps of the terms' common period.

    Args:
      terms, starts: as for `idle_terms`.

    Returns:
      For each of these steps the kinds that it may have, equally likely.
    """
    first = max(starts.values(), default=0)
    period = math.lcm(*(term.period for term in terms.values()))
    steps = []
    for number in range(first, first + period):
        idle = idle_terms(terms, starts, number)
        counts = {
            name: term.variants
            for name, term in terms.items()
            if name not in idle and term.variants > 1
        }
        rows = itertools.product(*map(range, counts.values()))
        steps.append([StepKind(idle, tuple(zip(counts, row))) for row in rows])
    return steps


def compiled_steps(
    program: Program,
    state: State,
    fixed: Fixed,
    data: Mapping[str, Any],
    most: int,
    starts: Mapping[str, int],
) -> CompiledSteps:
    """The compiled dispatches of a phase.

    Args:
      program, state, fixed, data, most: as for `compiled`.
      starts: as in `CompiledSteps`.
    """
    terms = program.varying_terms if most == 1 else {}
    if not terms:
        dispatch = compiled(program, state, fixed, data, most)
        return CompiledSteps({None: dispatch}, {}, {})
    dispatches: dict[StepKind | None, Compiled] = {}
    for kind in dict.fromkeys(itertools.chain(*kinds_by_step(terms, starts))):
        of_step = dataclasses.replace(
            program, idle_terms=kind.idle, variants=dict(kind.variants)
        )
        dispatches[kind] = compiled(of_step, state, fixed, data, most)
    return CompiledSteps(dispatches, terms, starts)


def compiled(
    program: Program, state: State, fixed: Fixed, data: Mapping[str, Any], most: int
):
    """The compiled dispatch for these shapes, from the process's store.

    Args:
      program, state, fixed, data: as for `step`; only shapes matter here.
      most: steps per dispatch; more than one makes a loop on the device, with a traced
        number of steps, so any number of steps runs the same code.
    """
    leaves, treedef = jax.tree.flatten((state, fixed, data))
    leaves = [(x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves]
    key = (program.key(), most, treedef, tuple(leaves))
    build = functools.partial(_compile, program, state, fixed, data, most)
    return compilation.cached(compiled, key, build)


def _compile(program: Any, state: Any, fixed: Any, data: Mapping[str, Any], most: int):
    start = time.perf_counter()
    names, single = measured(program, state, fixed, data)

    def many(state: Any, fixed: Any, data: Mapping[str, Any], n: Any):
        def body(i: Any, carry: Any):
            state, table = carry
            state, row = single(state, fixed, data)
            return state, table.at[i].set(row)

        table = jnp.zeros((most, len(names)), jnp.float32)
        return jax.lax.fori_loop(0, n, body, (state, table))

    def one(state: Any, fixed: Any, data: Mapping[str, Any], n: Any):
        state, row = single(state, fixed, data)
        return state, row[None]

    run = jax.jit(one if most == 1 else many, donate_argnums=0)
    lowered = run.lower(state, fixed, data, jnp.int32(1))
    platform = program.mesh.devices.flat[0].platform
    built = lowered.compile(compilation.options(platform))
    cost = built.cost_analysis() or {}
    memory = built.memory_analysis()
    return Compiled(
        built,
        names,
        most,
        time.perf_counter() - start,
        cost.get("flops"),
        getattr(memory, "temp_size_in_bytes", None),
    )


def measured(program: Program, state: State, fixed: Fixed, data: Mapping[str, Any]):
    """(names, the step with its metrics as one float32 row of these names)."""
    shapes = jax.eval_shape(functools.partial(step, program), state, fixed, data)[1]
    names = tuple(shapes)
    _check_scalars(shapes)

    def single(state: Any, fixed: Any, data: Mapping[str, Any]):
        state, metrics = step(program, state, fixed, data)
        # One array: fetching each number for itself costs as much as a small step.
        return state, jnp.stack([metrics[n].astype(jnp.float32) for n in names])

    return names, single


def _check_scalars(shapes: Mapping[str, Any]) -> None:
    for name, shape in shapes.items():
        if shape.shape:
            raise UserError(
                f"the metric {name!r} has the shape {shape.shape}; a term's value and "
                "the metrics it reports must be scalars."
            )


LOOP = 50  # steps of one dispatch where a loop hides what a dispatch costs


def steps_per_dispatch(
    program: Program,
    state: State,
    fixed: Fixed,
    data: Mapping[str, Any],
    steps: int | None,
) -> int:
    """Number of steps that one dispatch takes.

    Host streams take one, accelerators 50. So do CPUs where the step computes no
    convolution, which XLA's CPU backend runs several times slower inside a loop than
    outside: a perceptron's step of 0.1 ms takes half of that, with the same bits.
    There, programs on several devices, and those that leave a term out of some steps,
    take one; everywhere those do whose terms have variants.

    Args:
      program, state, fixed, data: as for `step`; only shapes matter here.
      steps: what the experiment asks for, None to decide here.
    """
    if program.host_streams:
        return 1
    if steps is not None:
        return steps
    varying = program.varying_terms
    if any(term.variants > 1 for term in varying.values()):
        return 1
    if program.mesh.devices.flat[0].platform != "cpu":
        return LOOP
    head_alone = program.cached_until in program.network.stages[-2:-1]
    if not head_alone and (varying or program.mesh.size > 1):
        return 1
    arrays = (state, fixed, data)
    leaves, treedef = jax.tree.flatten(arrays)
    key = (program.key(), treedef, tuple((x.shape, x.dtype) for x in leaves))
    has_convolution = compilation.cached(
        steps_per_dispatch,
        key,
        lambda: compilation.has_convolution(functools.partial(step, program), *arrays),
    )
    return 1 if has_convolution else LOOP
