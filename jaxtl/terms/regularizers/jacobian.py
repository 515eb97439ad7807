"""Jacobian difference: the derivatives of the model stay near those of the source.

The equations are in `jacobian_estimates.py` and, for dense layers, `jacobian_dense.py`.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxtl.core import selection, serialization
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree, vectors
from jaxtl.data.dataset import QUESTION_ANSWERING
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import Context, View
from jaxtl.terms.regularizers import (
    dense_layers,
    jacobian_adapters,
    jacobian_settings,
    jacobian_stages,
)
from jaxtl.terms.regularizers.jacobian_dense import dense_params, watched_pair
from jaxtl.terms.regularizers.jacobian_directions import (
    check_directions,
    fixed_direction,
    source_tangents,
)
from jaxtl.terms.regularizers.jacobian_estimates import (
    exact_inputs,
    exact_params,
    forward,
    projected_inputs,
    projected_params,
    random_signs,
    signs,
    tangents,
)
from jaxtl.terms.regularizers.jacobian_sides import (
    FunctionPair,
    Sides,
    both_sides,
    first_rows,
    function_pair,
    value_if_due,
)
from jaxtl.terms.regularizers.source_network import has_source_head

_PROJECTED = {"params": projected_params, "inputs": projected_inputs}
_EXACT = {"params": exact_params, "inputs": exact_inputs}


@dataclasses.dataclass(frozen=True, kw_only=True)
class JacobianDifference(Term):
    """The Jacobian difference to the source, in evaluation mode on both sides.

    f is the whole network where its head has a source, otherwise the features of the
    last stage before the head, one vector per example (`core.types.vectors`);
    `describe` states which. Both sides differentiate by the selected, trainable
    parameters that have a source and lie no later than f's stage. All other parameters
    are constants of the differentiation: θ₀'s own where it has them, else the model's.
    The gradient of the term reaches every trainable parameter of f. At θ = θ₀ it is
    exactly 0.

    Cost and scope of the estimators:
      "projected": random signs; about four plain steps per draw, for any number of
        outputs.
      "forward": a random direction of the parameters (or inputs), the same for all
        examples of a step; one forward-mode pass and its reverse. By parameters it has
        the noise of "projected", by inputs nearly twice that. By parameters, on every
        step and for a model without dropout and BatchNorm its first probe shares the
        task's own pass, and adds a third less arithmetic than "projected" does; by
        inputs it adds a fifth less. `directions`, `stage_groups` and `fraction` make it
        cheaper: a small CNN's step has 2.3 times a plain step's arithmetic with
        directions=4, 1.4 with one of four stages a step besides, and 1.2 with that on
        half of the batch (`benchmarks/jacobian.py`). Stages below the first one that a
        direction moves, frozen ones for example, have no derivative to compute.
      "exact": per-example Jacobians, hundreds of plain steps; for small models.
      "dense": exact, for the kernels and biases of dense layers alone; one backward
        pass per output, and no per-example gradient is ever built.
      "dense_projected": the same with random signs in place of the outputs, `probes`
        backward passes. Unlike in "projected" examples never mix, which removes most
        of the noise.

    Attributes:
      wrt: "params", under LoRA and its kin the merged ones; "adapters", the parameters
        that move these ("forward" alone); or "inputs" (`select` is not used then).
      estimator: "projected", "forward", "exact", "dense" or "dense_projected", see
        above.
      probes: draws per step of all but the exact estimators; the variance falls as
        1/probes.
      draws: how several probes are drawn: "signs", independently, or "orthogonal",
        which removes noise between the outputs of an example (all of it where `probes`
        is a power of two and at least their number), and hardly any between many
        examples: useful by inputs, for "dense_projected", and where `fraction` leaves
        few examples. See `jacobian_estimates.signs`.
      directions: K directions of the "forward" estimator that are drawn once, the same
        in every run, and one of which each step takes; J₀u of each train example is
        computed before the first step and kept, examples · K · outputs numbers. The
        penalty then sees these K directions alone: the Jacobian may move freely along
        all others. 0 draws a new direction at each step.
      stage_groups: G groups of consecutive stages into which the "forward" estimator
        by parameters splits those that have selected parameters. The direction of a
        step lies in one of them, each of which comes once in G steps, in random order,
        and the value is G times as large: unbiased, with more noise. A late group
        costs little, as nothing before it moves. G programs are compiled, or one of the
        cost of all stages where several runs step together. 1 takes all at each step.
      every: the term acts on each `every`-th step alone, with `every` times the
        strength, so that a plain gradient step's mean is unchanged; it is 0 on all
        other steps, which then cost nothing (unless several runs step together in one
        vmapped program).
        Optimizers that scale by past gradients, as Adam does, behave differently.
      fraction: share of the batch that the term reads, at least one example. They are
        the batch's first rows, whose order is random already.
      select: pattern of the parameters to differentiate by.
      stage: the stage whose output f is; None is chosen by the source, see above.
      stream: name of the stream.
    """

    wrt: Literal["params", "inputs", "adapters"] = "params"
    estimator: Literal["projected", "forward", "exact", "dense", "dense_projected"] = (
        "projected"
    )
    probes: int = 1
    draws: Literal["signs", "orthogonal"] = "signs"
    directions: int = 0
    stage_groups: int = serialization.later_field(1)
    every: int = 1
    fraction: float = 1.0
    select: str = ".*"
    stage: str | None = None
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.sourced(setup)
        checks.outputs_of_examples(
            setup, "JacobianDifference", allowed=(QUESTION_ANSWERING,)
        )
        checks.stream(setup, "stream", self.stream)
        jacobian_settings.check_settings(setup, self._settings)
        checks.stage(setup, "stage", self._stage_name(setup))
        jacobian_adapters.check_adapters(setup, self.wrt)
        if self.wrt != "inputs":
            checks.selected(setup, self.select, sourced=True)
        if self._is_dense:
            projected = dataclasses.replace(self, estimator="projected")
            masks = self._leaf_mask(setup), projected._leaf_mask(setup)
            jacobian_settings.check_dense(setup, self.estimator, self.wrt, *masks)
        if self.directions:
            check_directions(setup, self._stage_name(setup))
        jacobian_settings.check_groups(setup, self._groups(setup))
        stage = self._stage_name(setup)
        jacobian_settings.check_selection(setup, self._leaf_mask(setup), stage)

    @property
    def _is_dense(self) -> bool:
        return self.estimator.startswith("dense")

    def _stage_name(self, context: View | Context | Setup) -> str:
        """The stage whose output f is."""
        stages = context.program.network.stages
        if self.stage is None and has_source_head(context):
            return stages[-1]
        return feature_stage(stages, self.stage)

    def _leaf_mask(self, context: View | Context | Setup) -> PyTree:
        """The mask of parameters that f is differentiated by (or, by inputs, reads)."""
        stages = context.program.network.stages
        later_stages = stages[stages.index(self._stage_name(context)) + 1 :]
        source_paths = set(trees.flatten(context.source.params))
        layers = dense_layers.paths(context.params) if self._is_dense else ()
        adapted = jacobian_adapters.adapted_paths(context, self.wrt)
        if self.directions and isinstance(context, View):
            # Fixed directions move what any phase trains.
            selected = context.constants["selected"]
            return trees.map_with_path(lambda path, _: path in selected, context.params)

        def counts(path: str, is_trainable: bool) -> bool:
            if not is_trainable or path.split("/")[0] in later_stages:
                return False
            if self._is_dense and path.rpartition("/")[0] not in layers:
                return False
            if adapted is not None and path not in adapted:
                return False
            is_selected = path in source_paths and selection.matches(self.select, path)
            return self.wrt == "inputs" or is_selected

        return trees.map_with_path(counts, context.program.trainable_mask)

    def describe(self, setup: Setup) -> str:
        """A sentence: the Jacobian of what, by what, and by how many parameters."""
        stage, last = self._stage_name(setup), setup.program.network.stages[-1]
        outputs = "the outputs" if stage == last else f"the features of stage {stage!r}"
        selected = trees.flatten(selection.keep(self._leaf_mask(setup), setup.params))
        return jacobian_settings.description(
            self._settings, outputs, selected, self._groups(setup)
        )

    @property
    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @property
    def period(self) -> int:
        return self.every

    @property
    def variants(self) -> int:
        return self.stage_groups

    def variant_at(self, step: Any) -> Any:
        """The group of stages in which the direction of a step lies.

        Args:
          step: its number since the term began, an int or a traced integer.

        Returns:
          The number of the group, int or traced as `step` is.
        """
        if self.stage_groups == 1:
            return 0
        return jacobian_stages.group_of_draw(step // self.every, self.stage_groups)

    def _groups(self, context: View | Setup) -> jacobian_stages.Groups:
        stages, mask = context.program.network.stages, self._leaf_mask(context)
        return jacobian_stages.stage_groups(stages, mask, self.stage_groups)

    def __call__(self, context: View) -> jax.Array:
        if self.every == 1 or context.program.idle_terms is not None:
            return self.every * self._value(context, context.params)
        # The last of each `every` steps: at step 0 θ is θ₀ and there is no difference.
        is_due = (context.step + 1) % self.every == 0
        params, frozen = trees.partition(context.params, context.program.trainable_mask)

        def value(params: PyTree) -> jax.Array:
            return self.every * self._value(context, trees.merge(params, frozen))

        return value_if_due(is_due, value, params)

    def _value(self, context: View, params: PyTree) -> jax.Array:
        mask = self._leaf_mask(context)
        if not any(jax.tree.leaves(mask)):
            return jnp.float32(0.0)  # a phase in which none of them is trainable
        x, start = self._inputs(context)
        sides = both_sides(context, params)
        if self._is_dense:
            value = self._dense_value(context, mask, sides, x)
        else:
            value = self._function_value(context, sides, x, start)
        # The compiler may fuse the two sides differently: at θ = θ₀ that would leave
        # rounding noise where the term is 0.
        return jnp.where(sides.are_equal, 0.0, value)

    def functions(
        self,
        context: View | Context,
        sides: Sides,
        start: str | None = None,
        mask: PyTree = None,
    ) -> FunctionPair:
        """The two functions whose Jacobians are compared, f and f₀.

        Args:
          context: of the step.
          sides: the model and the source.
          start: the stage that reads the inputs, None for the first.
          mask: of the parameters to differentiate by, None for all that are selected.

        Returns:
          The pair, with the parameters by which it is differentiated.
        """
        stage = self._stage_name(context)
        stop = None if stage == context.program.network.stages[-1] else stage
        mask = self._leaf_mask(context) if mask is None else mask
        return function_pair(sides, mask, stop, start)

    @property
    def runs_first(self) -> bool:
        return self.estimator == "forward" and self.wrt != "inputs"

    def _function_value(
        self, context: View, sides: Sides, x: PyTree, start: str | None
    ) -> jax.Array:
        if self.estimator == "forward":
            if self.wrt == "inputs":
                return self._forward_inputs(context, sides, x)
            return self._forward_params(context, sides, x, start)
        pair = self.functions(context, sides, start)
        args = (pair.f, pair.params, pair.source_params, x)
        if self.estimator == "exact":
            return _EXACT[self.wrt](*args, pair.source_f)
        estimate = _PROJECTED[self.wrt]
        return estimate(*args, context.key, self.probes, pair.source_f, self.draws)

    def _forward_inputs(self, context: View, sides: Sides, x: PyTree) -> jax.Array:
        f, params, source_f, source_params = self.functions(context, sides)
        return forward(
            tangents(lambda z: f(params, z), x),
            tangents(lambda z: source_f(source_params, z), x),
            [random_signs(k, x) for k in jax.random.split(context.key, self.probes)],
        )

    def _forward_params(
        self, context: View, sides: Sides, x: PyTree, start: str | None
    ) -> jax.Array:
        whole_mask, groups = self._leaf_mask(context), self._groups(context)
        number = context.program.variants.get(context.name)
        if number is None:
            number = self.variant_at(context.step)
        mask, in_group = jacobian_stages.group_restriction(whole_mask, groups, number)
        if not any(jax.tree.leaves(mask)):
            return jnp.float32(0.0)  # a phase trains fewer stages than there are groups
        pair = self.functions(context, sides, start, mask)
        # Signs are drawn for all groups: the same ones where the number is traced.
        selected, _ = trees.partition(sides.model.params, whole_mask)

        def tangent(u: PyTree) -> jax.Array:
            shared = self._shared_tangent(context, u, mask, x, start)
            if shared is not None:
                return shared
            return tangents(lambda p: pair.f(p, x), pair.params)(u)

        if not self.directions:
            keys = list(jax.random.split(context.key, self.probes))
            directions = [in_group(random_signs(key, selected)) for key in keys]
            if self.wrt == "adapters":
                directions = jacobian_adapters.weight_directions(context, keys, mask)
            source = tangents(lambda p: pair.source_f(p, x), pair.source_params)
            return self.stage_groups * forward(tangent, source, directions)
        rows = context.batches[self.stream]["row"][: len(jax.tree.leaves(x)[0])]
        kept = context.constants["tangents"]
        value = forward(
            lambda i: tangent(in_group(fixed_direction(i, selected))),
            lambda i: kept[rows, i * self.stage_groups + number],
            [jax.random.randint(context.key, (), 0, self.directions)],
        )
        return self.stage_groups * value

    def _shared_tangent(
        self, context: View, u: PyTree, mask: PyTree, x: PyTree, start: str | None
    ) -> jax.Array | None:
        """Ju by the task's own pass; None where that is another function or has run."""
        is_certain = self.every == 1 or context.program.idle_terms is not None
        if not (self.runs_first and is_certain):
            return None
        if start != context.entry(self.stream)[1]:
            return None
        stage = self._stage_name(context)
        return context.forward_tangent(
            self.stream,
            lambda out: vectors(out.features[stage]),
            mask,
            u,
            count=len(jax.tree.leaves(x)[0]),
        )

    def constants(self, setup: Setup) -> PyTree:
        """J₀u of each train example, direction and group, and what u moves."""
        if not self.directions:
            return {}
        mask, stage = self._leaf_mask(setup), self._stage_name(setup)
        stop = None if stage == setup.program.network.stages[-1] else stage
        paths = trees.flatten(selection.keep(mask, setup.params))
        return {
            "tangents": source_tangents(
                setup, self.stream, mask, stop, self.directions, self._groups(setup)
            ),
            "selected": dict.fromkeys(paths, jnp.int32(0)),
        }

    def _dense_value(
        self, context: View, mask: PyTree, sides: Sides, x: PyTree
    ) -> jax.Array:
        paths = trees.flatten(selection.keep(mask, context.params))
        network, stage = context.program.network, self._stage_name(context)
        pair = watched_pair(network, sides, x, paths, stage)
        shape, dtype = pair.model.outputs.shape, pair.model.outputs.dtype
        if self.estimator == "dense":
            return dense_params(pair, jnp.eye(shape[1])[:, None])
        directions = signs(context.key, self.probes, shape, dtype, self.draws)
        return dense_params(pair, directions) / self.probes

    def _inputs(self, context: View) -> tuple[PyTree, str | None]:
        """(rows of the inputs, None), or (of cached features, the stage they enter)."""
        x, start = context.entry(self.stream)
        stages = context.program.network.stages
        needs_inputs = self._is_dense or self.wrt == "inputs"
        if start is not None and (
            needs_inputs
            or not context.program.cached_source
            or stages.index(self._stage_name(context)) < stages.index(start)
        ):
            start = None
        if start is None:
            x = context.batches[self.stream]["x"]
        if self.wrt == "inputs":
            jacobian_settings.check_inputs(x)
        return first_rows(x, self.fraction), start
