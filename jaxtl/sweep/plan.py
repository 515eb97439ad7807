"""Plans of sweeps: the cells that share a compiled program, and how they will run."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core import compilation, config, devices, progress
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.data import device_stream
from jaxtl.evaluation import feature_cache
from jaxtl.evaluation.metrics import experiment_metrics
from jaxtl.sweep.axes import SEED
from jaxtl.sweep.cells import Cell
from jaxtl.sweep.vectorized_step import MAP, VMAP
from jaxtl.training import frozen_stages, step
from jaxtl.training.experiment import Experiment, Variant
from jaxtl.training.run import Run

CONVOLUTIONS = "convolutions on a CPU"  # a reason to run alone
ALONE = "alone"  # mode of runs that can't be replicas, or are faster on their own
MANY_PROGRAMS = 200  # more of them cause a warning
# Replicas at once: more save no time on CPUs, and a crash loses those under way.
MAX_REPLICAS = 64
# A table of a plan sets up the first programs to estimate their mode and memory.
EXAMINED_PROGRAMS = 12
UNKNOWN = "–"
# Fields of data sets that change labels and rows, not the arrays.
_FIELDS_OF_ROWS = ("labels_per_class", "labels", "label_noise", "split_seed")
_TRACED_FIELDS = ("terms", "optim", "peft", "average")


@dataclasses.dataclass(frozen=True, eq=False)
class ProgramGroup:
    """Cells that one compiled program can run.

    Attributes:
      cells: in the sweep's order.
      fixed: axis -> label, of the axes that are compiled in.
      traced: the axes that are arguments of the program.
    """

    cells: tuple[Cell, ...]
    fixed: Mapping[str, Any]
    traced: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ExecutionPlan:
    """How the cells of a program group will run.

    Attributes:
      mode: "vmap", "map" or "alone".
      reason: why they run alone, "" otherwise.
      replicas: number of cells side by side.
      replica_bytes: memory of each replica.
      shared_bytes: memory that all replicas share.
    """

    mode: str
    reason: str
    replicas: int
    replica_bytes: int
    shared_bytes: int

    def describe(self) -> str:
        """The mode, for tables."""
        if self.mode == ALONE:
            return f"one by one ({self.reason})"
        return f"{self.replicas} lanes ({self.mode})"

    def memory(self) -> str:
        """The memory, for tables."""
        nbytes = self.shared_bytes + self.replicas * self.replica_bytes
        return feature_cache.format_bytes(nbytes)


def group_by_program(cells: Sequence[Cell]) -> list[ProgramGroup]:
    """Groups cells by the values that are compiled in, without setting any of them up.

    Groups, and the cells of each, keep the sweep's order.
    """
    groups: dict[Any, list[Cell]] = {}
    traced: dict[Any, bool] = {}
    for cell in cells:
        static: list[tuple[str, str]] = []
        for path, value in cell.changes:
            # A text may stand for a number or for an object.
            kind = value if isinstance(value, str) else type(value)
            key = (cell.variant, tuple(static), path, kind)
            if key not in traced:
                traced[key] = is_traced(cell.exp, path)
            if not traced[key]:
                static.append((path, repr(value)))
        groups.setdefault((cell.variant, tuple(static)), []).append(cell)
    return [_program_group(group) for group in groups.values()]


def _program_group(cells: Sequence[Cell]) -> ProgramGroup:
    labels = cells[0].labels
    fixed = {
        axis: label
        for axis, label in labels.items()
        if all(cell.labels.get(axis) == label for cell in cells)
    }
    traced = tuple(axis for axis in labels if axis not in fixed)
    return ProgramGroup(tuple(cells), fixed, traced)


def is_traced(exp: Experiment, path: str) -> bool:
    """Whether no program depends on a field: a traced number, the seed, or the rows."""
    head, _, remaining = path.partition(".")
    if path == SEED:
        return True
    if head == "streams":
        head, remaining = "data", remaining.partition(".")[2]
    if head == "data":
        return remaining in _FIELDS_OF_ROWS
    if head not in _TRACED_FIELDS or not remaining:
        return False
    hypers = config.hyperparameters(getattr(exp, head))
    while remaining:
        # Keys may contain dots: the longest that fits is the one that is meant.
        names = [k for k in hypers if remaining == k or remaining.startswith(f"{k}.")]
        if not names:
            return False
        name = max(names, key=len)
        hypers, remaining = hypers[name], remaining[len(name) + 1 :]
        if not isinstance(hypers, dict):
            return not remaining
    return False


def why_alone(run: Run) -> str:
    """The reason why runs like this one can't be replicas, "" if they can."""
    program, exp = run.program, run.exp
    if len(run.parts.phases) > 1:
        return "phases"
    if exp.wise_ft:
        return "wise_ft"
    if exp.threshold is not None:
        return "threshold"
    if exp.patience is not None:
        return "patience"
    if program.host_streams:
        return "data streamed from the host"
    if program.mesh.size > 1:
        return "several devices"
    if run.datasets["target"].episodes is not None:
        return "evaluations over episodes"
    if experiment_metrics.of_features(exp.metrics):
        return "metrics of features"
    if program.task == "language":
        return "language models"
    if program.task == "contrastive":
        return "pairs of images and texts"
    if exp.steps == 0:
        return "no steps"
    return ""


def mode_of(run: Run) -> str:
    """The fastest way to train many runs like this one: "vmap", "map" or "alone".

    On CPUs, XLA's convolutions are several times slower inside a loop than outside, so
    networks whose steps run convolutions are trained alone there.
    """
    if why_alone(run):
        return ALONE
    if run.program.mesh.devices.flat[0].platform != "cpu":
        return VMAP
    stages, _ = frozen_stages.frozen_stages(run)
    if stages and stages[-1] == run.program.network.stages[-2]:
        return MAP  # a step runs the head only
    return ALONE if _runs_convolutions(run) else MAP


def _runs_convolutions(run: Run) -> bool:
    data = {
        name: device_stream.with_drawn_rows(
            stream, np.uint32(0), 0, run.program.batch_sizes[name], 1
        )
        for name, stream in run.parts.device_streams.items()
    }
    one_step = functools.partial(step.step, run.program)
    return compilation.has_convolution(one_step, run.state, run.fixed, data)


def replica_bytes(run: Run) -> int:
    """Memory of one replica in bytes: its state and its best weights."""
    weights = step.averaged_tree(run.state.trainable, run.state.stats)
    return trees.nbytes(run.state) + trees.nbytes(weights)


def plan_execution(
    run: Run, count: int, mode: str = "auto", max_replicas: int | None = None
) -> ExecutionPlan:
    """Plans how a number of cells like one run will run.

    Args:
      run: one of them, set up and not begun.
      count: number of cells.
      mode: "auto", or a mode for all that can be replicas.
      max_replicas: replicas at once at most; None takes as many as fit into half of the
        free memory, up to 64.
    """
    reason = why_alone(run)
    each_bytes = replica_bytes(run)
    automatic = mode == "auto"
    mode = mode_of(run) if automatic else mode
    if reason or count == 1:
        mode, reason = ALONE, reason or "a single cell"
    elif mode == ALONE:
        reason = CONVOLUTIONS if automatic else "asked for"
    shared_bytes = trees.nbytes(run.fixed) + sum(
        trees.nbytes(stream.x) for stream in run.parts.device_streams.values()
    )
    if mode == ALONE:
        return ExecutionPlan(mode, reason, 1, each_bytes, shared_bytes)
    fitting = max(1, int((free_memory() / 2 - shared_bytes) // max(each_bytes, 1)))
    chunks = -(-count // min(count, max_replicas or MAX_REPLICAS, fitting))
    # Chunks of one size run one compiled program.
    replicas = -(-count // chunks)
    return ExecutionPlan(mode, "", replicas, each_bytes, shared_bytes)


def free_memory() -> int:
    """Free memory of the first device in bytes; of the machine where it tells none."""
    stats = devices.first().memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def plan_rows(
    groups: Sequence[ProgramGroup], mode: str, max_replicas: int | None
) -> list[tuple[str, str, str, int, str]]:
    """Rows of a plan's table: (fixed axes, traced axes, runs as, cells, memory).

    The first `EXAMINED_PROGRAMS` groups are set up for the last columns.

    Args:
      groups: the program groups of a sweep.
      mode: as for `plan_execution`.
      max_replicas: as for `plan_execution`.
    """
    rows = []
    first = groups[:EXAMINED_PROGRAMS]
    examined = [
        _describe_group(group, mode, max_replicas)
        for group in progress.track(first, "examining programs")
    ]
    for index, group in enumerate(groups):
        runs_as = memory = UNKNOWN
        if index < len(examined):
            runs_as, memory = examined[index]
        fixed = ", ".join(f"{k}={v}" for k, v in group.fixed.items()) or "everything"
        traced = ", ".join(group.traced)
        rows.append((fixed, traced, runs_as, len(group.cells), memory))
    return rows


def _describe_group(
    group: ProgramGroup, mode: str, max_replicas: int | None
) -> tuple[str, str]:
    """Sets a group's first cell up; returns (mode, memory) of the group for tables."""
    exp = group.cells[0].exp
    if isinstance(exp.init, Variant):
        return f"after {exp.init.name!r} is trained", UNKNOWN
    try:
        execution = plan_execution(Run(exp), len(group.cells), mode, max_replicas)
    except UserError as error:
        return f"fails: {error}", UNKNOWN
    return execution.describe(), execution.memory()


def warn_of_many(groups: Sequence[ProgramGroup]) -> str:
    """A warning if there are many programs, naming the axis that causes most of them.

    Returns "" for up to `MANY_PROGRAMS` groups.
    """
    if len(groups) <= MANY_PROGRAMS:
        return ""
    values: dict[str, set] = {}
    for group in groups:
        for axis, label in group.fixed.items():
            values.setdefault(axis, set()).add(label)
    axis = max(values, key=lambda name: len(values[name]))
    return (
        f"{len(groups):,} programs will be compiled, since {axis!r} with its "
        f"{len(values[axis]):,} values is part of the program; numbers that are traced "
        "(rates, weights, seeds, labels per class) cost no program of their own."
    )
