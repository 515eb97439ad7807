"""The plan of a sweep: which cells share a compiled program, and what that takes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.evaluation import feature_cache
from jaxtl.sweep import axes, grid, vectorized_runs
from jaxtl.training.experiment import Variant
from jaxtl.training.run import Run

MANY = 200  # programs, above which a warning is due
LANES = 64  # at once: more save no time on CPUs, and a crash loses what is under way
# Fields of data sets that change labels and rows, of the same arrays.
ROWS = ("labels_per_class", "labels", "label_noise", "split_seed")
TRACED = ("terms", "optim", "peft", "average")


@dataclasses.dataclass(frozen=True, eq=False)
class ProgramGroup:
    """Cells that one compiled program can run.

    Attributes:
      cells: in the sweep's order.
      fixed: axis -> label, of the axes that are compiled in.
      traced: the axes that are numbers of the program.
    """

    cells: tuple[grid.Cell, ...]
    fixed: Mapping[str, Any]
    traced: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ExecutionPlan:
    """How a program's cells will run.

    Attributes:
      mode: "vmap", "map" or "alone".
      why: why alone, "" otherwise.
      lanes: side by side.
      lane_bytes, shared_bytes: memory of each lane, and of what all share.
    """

    mode: str
    why: str
    lanes: int
    lane_bytes: int
    shared_bytes: int


def programs(cells: Sequence[grid.Cell]) -> list[ProgramGroup]:
    """Groups cells by what is compiled in; no experiment is set up for it."""
    groups: dict[Any, list[grid.Cell]] = {}
    known: dict[Any, bool] = {}
    for cell in cells:
        static = []
        for path, value in cell.changes:
            # A text may mean a number or an object.
            kind = value if isinstance(value, str) else type(value)
            at = (cell.variant, tuple(static), path, kind)
            if at not in known:
                known[at] = is_traced(cell.exp, path)
            if not known[at]:
                static.append((path, repr(value)))
        groups.setdefault((cell.variant, tuple(static)), []).append(cell)
    return [_program(found) for found in groups.values()]


def _program(cells: list[grid.Cell]) -> ProgramGroup:
    first = cells[0].labels
    fixed = {
        axis: label
        for axis, label in first.items()
        if all(cell.labels.get(axis) == label for cell in cells)
    }
    return ProgramGroup(tuple(cells), fixed, tuple(a for a in first if a not in fixed))


def is_traced(exp, path: str) -> bool:
    """Whether a field is a number (or seed, or rows) that no program depends on."""
    head, _, rest = path.partition(".")
    if path == axes.SEED:
        return True
    if head == "streams":
        head, rest = "data", rest.partition(".")[2]
    if head == "data":
        return rest in ROWS
    if head not in TRACED or not rest:
        return False
    found = config.hyperparameters(getattr(exp, head))
    while rest:
        known = [k for k in found if rest == k or rest.startswith(f"{k}.")]
        if not known:
            return False
        key = max(known, key=len)
        found, rest = found[key], rest[len(key) + 1 :]
        if not isinstance(found, dict):
            return not rest
    return False


def plan_execution(run: Run, count: int, mode: str = "auto", most: int | None = None):
    """Returns how `count` cells like this run will be run.

    Args:
      run: one of them, set up and not begun.
      count: of cells.
      mode: "auto", or one of the modes for all that can be lanes.
      most: lanes side by side at most; None takes what memory allows, up to 64.
    """
    why, each = vectorized_runs.why_alone(run), vectorized_runs.replica_bytes(run)
    chosen = vectorized_runs.mode_of(run) if mode == "auto" else mode
    if why or count == 1:
        chosen, why = vectorized_runs.ALONE, why or "a single cell"
    elif chosen == vectorized_runs.ALONE:
        why = "convolutions on a CPU" if mode == "auto" else "asked for"
    shared = trees.nbytes(run.fixed) + sum(
        trees.nbytes(stream.x) for stream in run.parts.device_streams.values()
    )
    if chosen == vectorized_runs.ALONE:
        return ExecutionPlan(chosen, why, 1, each, shared)
    fitting = max(1, int((memory() / 2 - shared) // max(each, 1)))
    turns = -(-count // min(count, most or LANES, fitting))
    # Turns of one size run one program.
    return ExecutionPlan(chosen, "", -(-count // turns), each, shared)


def describe_plan(
    program: ProgramGroup, mode: str, most: int | None
) -> tuple[str, str]:
    """Returns (how a program's cells will run, their memory), for people."""
    exp = program.cells[0].exp
    if isinstance(exp.init, Variant):
        return f"after {exp.init.name!r} is trained", "–"
    try:
        found = plan_execution(Run(exp), len(program.cells), mode, most)
    except UserError as error:
        return f"fails: {error}", "–"
    return describe(found), size(found)


def memory() -> int:
    """Returns the bytes of memory that are free on the device."""
    found = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        return found["bytes_limit"] - found.get("bytes_in_use", 0)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def warning(found: Sequence[ProgramGroup]) -> str:
    """Returns a sentence where there are very many programs, "" otherwise."""
    if len(found) <= MANY:
        return ""
    values: dict[str, set] = {}
    for program in found:
        for axis, label in program.fixed.items():
            values.setdefault(axis, set()).add(label)
    axis = max(values, key=lambda name: len(values[name]))
    return (
        f"{len(found):,} programs will be compiled, since {axis!r} with its "
        f"{len(values[axis]):,} values is part of the program; numbers that are traced "
        "(rates, weights, seeds, labels per class) cost no program of their own."
    )


def describe(found: ExecutionPlan) -> str:
    """Returns a footing for people."""
    if found.mode == vectorized_runs.ALONE:
        return f"one by one ({found.why})"
    return f"{found.lanes} lanes ({found.mode})"


def size(found: ExecutionPlan) -> str:
    """Returns the memory of a footing for people."""
    return feature_cache.size(found.shared_bytes + found.lanes * found.lane_bytes)
