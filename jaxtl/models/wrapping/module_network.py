"""A `Network` of a module: stages, features and statistics from its sub-modules."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError, describe_error, first_line
from jaxtl.core.types import Network, Output, PyTree
from jaxtl.models.staged import stage_range
from jaxtl.models.wrapping.adapter import ModuleAdapter, Pass, Path, Result
from jaxtl.models.wrapping.dependence import first_other_input
from jaxtl.models.wrapping.stage_layout import StageLayout

_UNKNOWN = "its stages' order is not known before it has seen an example"


def network_of(adapter: ModuleAdapter, layout: StageLayout) -> Network:
    """The network of a module.

    Args:
      adapter: the module as pure functions.
      layout: its stages.

    Returns:
      A network that cannot start at a stage; `network.specialize(x)` gives the one for
      inputs like x, which can where each stage reads the one before it alone.
    """
    passes = _StagedPasses(adapter, layout)
    networks: dict[Any, Network] = {}

    def specialize(x: PyTree) -> Network:
        example = jax.tree.map(lambda leaf: (tuple(leaf.shape[1:]), leaf.dtype), x)
        key = (jax.tree.structure(x), str(example))
        if key not in networks:
            networks[key] = passes.network(_Cuts(passes, x), specialize)
        return networks[key]

    return passes.network(None, specialize)


class _StagedPasses:
    """Forward passes of a module in terms of stages."""

    def __init__(self, adapter: ModuleAdapter, layout: StageLayout):
        self.adapter, self.layout = adapter, layout
        self.watched = frozenset(
            path for members in layout.members.values() for path in members if path
        )

    def network(
        self, cuts: "_Cuts | None", specialize: Callable[[PyTree], Network]
    ) -> Network:
        """The network, with what is known about its stages for one kind of inputs."""

        def apply(
            params,
            stats,
            x,
            *,
            train=(),
            frozen_stats=(),
            key=None,
            start=None,
            stop=None,
        ) -> Output:
            names = stage_range(self.layout.stages, start, stop)
            last = self.layout.stages[-1]
            replaced: Mapping[Path, Any] = {}
            if start not in (None, self.layout.stages[0]):
                x, replaced = self._from_stage(cuts, start, x)
            on = tuple(stage for stage in train if stage in names)
            result = self.run(params, stats, x, on, frozen_stats, key, replaced)
            features = {s: result.outputs[p] for s, p in self.last_calls(result)}
            features[last] = result.out
            features = {stage: features[stage] for stage in names if stage in features}
            if names[-1] not in features:
                raise UserError(f"stop={stop!r}: no sub-module of that stage runs.")
            new = self.layout.staged(result.state)
            stats = {**stats, **{s: new[s] for s in names if s in new}}
            return Output(features[names[-1]], features, stats)

        return Network(
            self.layout.stages,
            self.init,
            apply,
            can_start=cuts is not None and not cuts.reason,
            no_start=_UNKNOWN if cuts is None else cuts.reason,
            specialize=specialize,
            weights=self.own_weights if self.adapter.has_weights else None,
        )

    def init(self, key: jax.Array, x: Any) -> tuple[PyTree, PyTree]:
        """Initial parameters and state by stage."""
        params, state = self.adapter.init(key, x)
        return self.layout.staged(params), self.layout.staged(state)

    def own_weights(self) -> tuple[PyTree, PyTree]:
        """The parameters and the state that the module came with, by stage."""
        params, state = self.adapter.init(jax.random.key(0), None)
        return self.layout.staged(params), self.layout.staged(state)

    def run(
        self,
        params: PyTree,
        stats: PyTree,
        x: Any,
        train: tuple[str, ...] = (),
        frozen_stats: tuple[str, ...] = (),
        key: jax.Array | None = None,
        replaced: Mapping[Path, Any] = {},
    ) -> Result:
        """One pass of the whole module; `Result.out` is its first output."""

        def trains(path: Path) -> bool:
            stage = self.layout.stage_of(path)
            return bool(train) if stage is None else stage in train

        def keeps_statistics(path: Path) -> bool:
            inside = "/".join(self.layout.staged_path(path) or path) + "/"
            # Some libraries keep a layer's statistics in modules of their own below it.
            return any(
                inside.startswith(f"{frozen}/") or f"{frozen}/".startswith(inside)
                for frozen in frozen_stats
            )

        mode = Pass(bool(train), trains, keeps_statistics, key, self.watched, replaced)
        leaves = self.layout.leaves
        result = self.adapter.run(leaves(params), leaves(stats), x, mode)
        out = result.out[0] if isinstance(result.out, tuple | list) else result.out
        return result._replace(out=out)

    def last_calls(self, result: Result) -> list[tuple[str, Path]]:
        """(stage, the last of its sub-modules that ran), of stages with such."""
        order = list(result.outputs)
        return [
            (stage, max(ran, key=order.index))
            for stage, members in self.layout.members.items()
            if (ran := [path for path in members if path in result.outputs])
        ]

    def _from_stage(
        self, cuts: "_Cuts | None", start: str, x: Any
    ) -> tuple[Any, dict[Path, Any]]:
        """Inputs of zeros, and the output that takes the place of the stage before."""
        if cuts is None or cuts.reason:
            reason = _UNKNOWN if cuts is None else cuts.reason
            raise UserError(f"this model can't start at {start!r}: {reason}.")
        stages = self.layout.stages
        path = cuts.ends[stages[stages.index(start) - 1]]
        size = jax.tree.leaves(x)[0].shape[0]
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), cuts.example
        )
        return zeros, {path: x}


class _Cuts:
    """Where a module can be cut into stages.

    Attributes:
      example: shapes and dtypes of the inputs.
      ends: stage -> the sub-module whose output is the stage's.
      reason: why it can't start at a stage, "" where it can.
    """

    def __init__(self, passes: _StagedPasses, x: PyTree):
        self.example = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x
        )
        try:
            weights = jax.eval_shape(passes.init, jax.random.key(0), x)
            result = jax.eval_shape(passes.run, *weights, x)
        except UserError:
            raise
        except Exception as error:  # of the user's own code, whatever it raises
            shapes = jax.tree.map(lambda leaf: tuple(leaf.shape), x)
            raise UserError(
                f"the module can't be run on inputs of shape {shapes}: "
                f"{describe_error(error)}"
            ) from error
        leaves = [p for tree in weights for p in passes.layout.leaves(tree)]
        passes.layout.check_paths([*leaves, *result.outputs])
        self.ends = dict(passes.last_calls(result))
        missing = [s for s in passes.layout.stages[:-1] if s not in self.ends]
        if missing:
            names = ", ".join("/".join(p) for p in passes.layout.members[missing[0]])
            self.reason = f"none of the sub-modules of {missing[0]!r} ({names}) runs"
            return
        self.reason = _reason(passes, weights, self.example, result, self.ends)


def _reason(
    passes: _StagedPasses,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
    shapes: Result,
    ends: Mapping[str, Path],
) -> str:
    """Why the stages are not sequential, "" where they are.

    One pass is traced in which each stage's output is replaced by a free input: the
    output of a stage may depend on the input that replaced the one before, and on no
    other.
    """
    *inner, last = passes.layout.stages
    cuts = {stage: shapes.outputs[ends[stage]] for stage in inner}

    def cut(x: PyTree, cuts: dict[str, Any], weights: Any) -> list[Any]:
        replaced = {ends[stage]: cuts[stage] for stage in inner}
        result = passes.run(*weights, x, replaced=replaced)
        return [*(result.outputs[ends[stage]] for stage in inner), result.out]

    inputs = [x, *([cuts[stage]] for stage in inner)]

    def flat(inputs: list[Any], weights: Any) -> list[Any]:
        x, *values = inputs
        return cut(x, {stage: value[0] for stage, value in zip(inner, values)}, weights)

    try:
        origin = first_other_input(flat, inputs, weights)
    except Exception as error:  # a transformation of the module's own library
        return f"its stages can't be cut apart ({first_line(error)})"
    if origin is None:
        return ""
    stage, source = origin
    names = ["the inputs", *map(repr, inner)]
    return f"the stage {(*inner, last)[stage]!r} also reads {names[source]}"
