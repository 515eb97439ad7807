"""Jacobian difference: the derivatives of the model stay near those of the source.

The equations are in `jacobian_estimates.py` and, for dense layers, `jacobian_dense.py`.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree, vectors
from jaxtl.data.dataset import QUESTION_ANSWERING
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import Context, View
from jaxtl.terms.regularizers import dense_layers
from jaxtl.terms.regularizers.jacobian_dense import dense_params
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
    function_pair,
    value_if_due,
)
from jaxtl.terms.regularizers.source_network import has_source_head

_PROJECTED = {"params": projected_params, "inputs": projected_inputs}
_EXACT = {"params": exact_params, "inputs": exact_inputs}
_OPTIONS = {
    "wrt": ("params", "inputs"),
    "estimator": ("projected", "forward", "exact", "dense", "dense_projected"),
    "draws": ("signs", "orthogonal"),
}


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
        inputs it adds a fifth less (`benchmarks/jacobian.py`).
      "exact": per-example Jacobians, hundreds of plain steps; for small models.
      "dense": exact, for the kernels and biases of dense layers alone; one backward
        pass per output, and no per-example gradient is ever built.
      "dense_projected": the same with random signs in place of the outputs, `probes`
        backward passes. Unlike in "projected" examples never mix, which removes most
        of the noise.

    Attributes:
      wrt: "params", or "inputs" (then `select` is not used).
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

    wrt: Literal["params", "inputs"] = "params"
    estimator: Literal["projected", "forward", "exact", "dense", "dense_projected"] = (
        "projected"
    )
    probes: int = 1
    draws: Literal["signs", "orthogonal"] = "signs"
    directions: int = 0
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
        for field, options in _OPTIONS.items():
            checks.one_of(setup, field, getattr(self, field), options)
        checks.number(setup, "probes", self.probes, 1)
        checks.number(setup, "directions", self.directions, 0)
        checks.number(setup, "every", self.every, 1)
        checks.number(setup, "fraction", self.fraction, 0.0, 1.0)
        checks.stage(setup, "stage", self._stage_name(setup))
        if self.wrt == "params":
            checks.selected(setup, self.select, sourced=True)
        if self._is_dense:
            self._check_dense(setup)
        if self.estimator == "forward" and self.draws != "signs":
            raise UserError(
                f"{checks.where(setup, 'draws')}={self.draws!r}: estimator='forward' "
                "draws directions of the parameters, and expects draws='signs'."
            )
        if self.directions:
            if (self.estimator, self.wrt, self.probes) != ("forward", "params", 1):
                raise UserError(
                    f"{checks.where(setup, 'directions')}={self.directions}: expected "
                    "estimator='forward', wrt='params' and probes=1, or directions=0."
                )
            check_directions(setup, self._stage_name(setup))
        if not any(jax.tree.leaves(self._leaf_mask(setup))):
            raise UserError(
                f"{checks.where(setup, 'stage')}: no selected, trainable parameter "
                f"with a source lies at or before the stage {self._stage_name(setup)!r}"
                ", so this term would always be 0; choose a later stage or another "
                "select."
            )

    def _check_dense(self, setup: Setup) -> None:
        field = f"{checks.where(setup, 'estimator')}={self.estimator!r}"
        if self.wrt != "params":
            raise UserError(
                f"{field} differentiates by parameters and wrt={self.wrt!r}; use "
                "wrt='params', or estimator='projected'."
            )
        dense_layers.check_visible(setup, field)
        if not any(jax.tree.leaves(self._leaf_mask(setup))):
            mask = dataclasses.replace(self, estimator="projected")._leaf_mask(setup)
            selected = trees.flatten(selection.keep(mask, setup.params))
            layers = ", ".join(dense_layers.paths(setup.params)) or "none"
            raise UserError(
                f"{field}: none of the {len(selected)} parameters that this term "
                f"selects belongs to a dense layer (the model's are: {layers}); use "
                "estimator='projected' or another select."
            )

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
        if self.directions and isinstance(context, View):
            # Fixed directions move what any phase trains.
            selected = context.constants["selected"]
            return trees.map_with_path(lambda path, _: path in selected, context.params)

        def counts(path: str, is_trainable: bool) -> bool:
            if not is_trainable or path.split("/")[0] in later_stages:
                return False
            if self._is_dense and path.rpartition("/")[0] not in layers:
                return False
            is_selected = path in source_paths and selection.matches(self.select, path)
            return self.wrt == "inputs" or is_selected

        return trees.map_with_path(counts, context.program.trainable_mask)

    def describe(self, setup: Setup) -> str:
        """A sentence: the Jacobian of what, by what, and by how many parameters."""
        stage, last = self._stage_name(setup), setup.program.network.stages[-1]
        outputs = "the outputs" if stage == last else f"the features of stage {stage!r}"
        steps = "" if self.every == 1 else f", every {self.every} steps"
        if self.directions:
            steps = f", along {self.directions} fixed directions{steps}"
        if self.wrt == "inputs":
            return f"{self.estimator} Jacobian of {outputs} by the inputs{steps}"
        selected = trees.flatten(selection.keep(self._leaf_mask(setup), setup.params))
        modules = dict.fromkeys(path.split("/")[0] for path in selected)
        if self._is_dense:
            modules = dict.fromkeys(path.rpartition("/")[0] for path in selected)
        kind = "the dense layers " if self._is_dense else ""
        count = sum(leaf.size for leaf in selected.values())
        return (
            f"{self.estimator} Jacobian of {outputs} by {count:,} parameters of "
            f"{kind}{', '.join(modules)}{steps}"
        )

    @property
    def period(self) -> int:
        return self.every

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
        self, context: View | Context, sides: Sides, start: str | None = None
    ) -> FunctionPair:
        """The two functions whose Jacobians are compared, f and f₀.

        Args:
          context: of the step.
          sides: the model and the source.
          start: the stage that reads the inputs, None for the first.

        Returns:
          The pair, with the parameters by which it is differentiated.
        """
        stage = self._stage_name(context)
        stop = None if stage == context.program.network.stages[-1] else stage
        return function_pair(sides, self._leaf_mask(context), stop, start)

    @property
    def runs_first(self) -> bool:
        return self.estimator == "forward" and self.wrt == "params"

    def _function_value(
        self, context: View, sides: Sides, x: PyTree, start: str | None
    ) -> jax.Array:
        pair = self.functions(context, sides, start)
        if self.estimator == "forward":
            return self._forward_value(context, pair, x, start)
        args = (pair.f, pair.params, pair.source_params, x)
        if self.estimator == "exact":
            return _EXACT[self.wrt](*args, pair.source_f)
        estimate = _PROJECTED[self.wrt]
        return estimate(*args, context.key, self.probes, pair.source_f, self.draws)

    def _forward_value(
        self, context: View, pair: FunctionPair, x: PyTree, start: str | None
    ) -> jax.Array:
        f, params, source_f, source_params = pair
        keys = list(jax.random.split(context.key, self.probes))
        if self.wrt == "inputs":
            return forward(
                tangents(lambda z: f(params, z), x),
                tangents(lambda z: source_f(source_params, z), x),
                [random_signs(key, x) for key in keys],
            )
        own = tangents(lambda p: f(p, x), params)

        def tangent(u: PyTree) -> jax.Array:
            shared = self._shared_tangent(context, u, x, start)
            return own(u) if shared is None else shared

        if not self.directions:
            source = tangents(lambda p: source_f(p, x), source_params)
            directions = [random_signs(key, params) for key in keys]
            return forward(tangent, source, directions)
        rows = context.batches[self.stream]["row"][: len(jax.tree.leaves(x)[0])]
        return forward(
            lambda number: tangent(fixed_direction(number, params)),
            lambda number: context.constants["tangents"][rows, number],
            [jax.random.randint(context.key, (), 0, self.directions)],
        )

    def _shared_tangent(
        self, context: View, u: PyTree, x: PyTree, start: str | None
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
            self._leaf_mask(context),
            u,
            count=len(jax.tree.leaves(x)[0]),
        )

    def constants(self, setup: Setup) -> PyTree:
        """J₀u of each train example and direction, and the parameters that u moves."""
        if not self.directions:
            return {}
        mask, stage = self._leaf_mask(setup), self._stage_name(setup)
        stop = None if stage == setup.program.network.stages[-1] else stage
        paths = trees.flatten(selection.keep(mask, setup.params))
        return {
            "tangents": source_tangents(
                setup, self.stream, mask, stop, self.directions
            ),
            "selected": dict.fromkeys(paths, jnp.int32(0)),
        }

    def _dense_value(
        self, context: View, mask: PyTree, sides: Sides, x: PyTree
    ) -> jax.Array:
        selected = trees.flatten(selection.keep(mask, context.params))
        kernels, biases = (
            frozenset(p.removesuffix(name) for p in selected if p.endswith(name))
            for name in ("/kernel", "/bias")
        )
        network, stage = context.program.network, self._stage_name(context)
        watched, source_watched = (
            dense_layers.watch(network, s.params, s.stats, x, kernels | biases, stage)
            for s in (sides.model, sides.source)
        )
        shape, dtype = watched.outputs.shape, watched.outputs.dtype
        if self.estimator == "dense":
            directions, number = jnp.eye(shape[1])[:, None], 1
        else:
            number = self.probes
            directions = signs(context.key, number, shape, dtype, self.draws)
        value = dense_params(watched, source_watched, directions, kernels, biases)
        return value / number

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
        leaves = jax.tree.leaves(x)
        for leaf in leaves:
            if self.wrt == "inputs" and not jnp.issubdtype(leaf.dtype, jnp.inexact):
                raise UserError(
                    f"JacobianDifference(wrt='inputs'): the inputs are {leaf.dtype} "
                    "and have no derivative; use wrt='params'."
                )
        count = max(1, round(self.fraction * len(leaves[0])))
        return jax.tree.map(lambda a: a[:count], x), start
