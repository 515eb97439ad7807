"""Jacobian difference: keep how the function responds near how the source's did.

The equations are in `jacobian_estimates.py` and, for dense layers, `jacobian_dense.py`.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl.core import selection, types
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.regularizers import dense_layers
from jaxtl.terms.regularizers.jacobian_dense import Seen, dense_params
from jaxtl.terms.regularizers.jacobian_estimates import (
    exact_inputs,
    exact_params,
    projected_inputs,
    projected_params,
    signs,
)

_ESTIMATORS = ("projected", "exact", "dense", "dense_projected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JacobianDifference(Term):
    """The Jacobian difference to the source, in evaluation mode on both sides.

    f is the whole network where its head has a source, otherwise the features of the
    last stage before the head, one vector per example (`core.vectors`); `describe`
    says which. Both sides differentiate by the selected, trainable parameters that
    have a source and lie no later than f's stage. All other parameters are constants
    of the differentiation: θ₀'s own where it has them, else the model's. The gradient
    of the term reaches every trainable parameter of f. At θ = θ₀ it is exactly 0.

    What the estimators cost and cover:
      "projected": random signs; some four plain steps a draw, whatever the outputs.
      "exact": per-example Jacobians, hundreds of plain steps; for small models.
      "dense": exact, of the kernels and biases of dense layers alone; one backward
        pass per output, and no per-example gradient is ever built.
      "dense_projected": the same with random signs in place of the outputs, `probes`
        backward passes. Unlike in "projected" examples never mix, which takes most of
        the noise away.

    Attributes:
      wrt: "params", or "inputs" (then `select` is not used).
      estimator: "projected", "exact", "dense" or "dense_projected", as told above.
      probes: draws of the projected estimators per step; the variance falls as
        1/probes.
      draws: how several probes are drawn: "signs", independently, or "orthogonal",
        which takes away noise between the outputs of an example (none of it is left
        where `probes` is a power of two and at least their number), and hardly any
        between many examples: worth it by inputs, for "dense_projected", and where
        `fraction` leaves few examples. See `jacobian_estimates.signs`.
      every: the term acts on each `every`-th step alone, `every` times as strongly, so
        that a plain gradient step's mean is unchanged; it is 0 on the others, which
        then cost nothing (unless several runs step together in one vmapped program, or
        the network has convolutions and runs on a CPU, where XLA's are several times
        slower inside a condition: `fraction` saves more there).
        An optimizer that scales by past gradients, as Adam does, sees the difference.
      fraction: share of the batch that is looked at, at least one example. They are
        the batch's first rows, whose order is random already.
      select: pattern of the parameters to differentiate by.
      stage: the stage whose output f is; None lets the source decide as told above.
      stream: name of the stream.
    """

    wrt: Literal["params", "inputs"] = "params"
    estimator: Literal["projected", "exact", "dense", "dense_projected"] = "projected"
    probes: int = 1
    draws: Literal["signs", "orthogonal"] = "signs"
    every: int = 1
    fraction: float = 1.0
    select: str = ".*"
    stage: str | None = None
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.sourced(setup)
        checks.stream(setup, "stream", self.stream)
        checks.one_of(setup, "wrt", self.wrt, ("params", "inputs"))
        checks.one_of(setup, "estimator", self.estimator, _ESTIMATORS)
        checks.one_of(setup, "draws", self.draws, ("signs", "orthogonal"))
        checks.number(setup, "probes", self.probes, 1)
        checks.number(setup, "every", self.every, 1)
        checks.number(setup, "fraction", self.fraction, 0.0, 1.0)
        checks.stage(setup, "stage", self.reads(setup))
        if self.wrt == "params":
            checks.selected(setup, self.select, sourced=True)
        if self._dense:
            self._check_dense(setup)
        if not any(jax.tree.leaves(self.leaves(setup))):
            raise UserError(
                f"{checks.where(setup, 'stage')}: no selected, trainable parameter "
                f"with a source lies at or before the stage {self.reads(setup)!r}, so "
                "this term would always be 0; choose a later stage or another select."
            )

    def _check_dense(self, setup):
        asked = f"{checks.where(setup, 'estimator')}={self.estimator!r}"
        if self.wrt != "params":
            raise UserError(
                f"{asked} is about parameters and wrt={self.wrt!r}; use wrt='params', "
                "or estimator='projected'."
            )
        dense_layers.visible(setup, asked)
        if not any(jax.tree.leaves(self.leaves(setup))):
            every = dataclasses.replace(self, estimator="projected").leaves(setup)
            chosen = trees.flatten(selection.keep(every, setup.params))
            found = ", ".join(dense_layers.paths(setup.params)) or "none"
            raise UserError(
                f"{asked}: none of the {len(chosen)} parameters that this term "
                f"chooses belongs to a dense layer (the model's are: {found}); use "
                "estimator='projected' or another select."
            )

    @property
    def _dense(self) -> bool:
        return self.estimator.startswith("dense")

    def reads(self, setup) -> str:
        """Returns the stage whose output f is, for a `Setup` or a context."""
        if self.stage is not None:
            return self.stage
        head = setup.program.network.stages[-1]
        known = trees.flatten({head: setup.source.params.get(head)})
        whole = set(trees.flatten({head: setup.params[head]})) <= set(known)
        return head if whole else feature_stage(setup.program.network.stages)

    def leaves(self, setup) -> PyTree:
        """Returns the mask of parameters that f is differentiated by (or moved by)."""
        stages = setup.program.network.stages
        late = set(stages[stages.index(self.reads(setup)) + 1 :])
        known = set(trees.flatten(setup.source.params))
        inputs = self.wrt == "inputs"
        layers = dense_layers.paths(setup.params) if self._dense else ()

        def counts(path, trainable):
            if not trainable or path.split("/")[0] in late:
                return False
            if self._dense and path.rpartition("/")[0] not in layers:
                return False
            return inputs or (path in known and selection.matches(self.select, path))

        return trees.map_with_path(counts, setup.program.trainable_mask)

    def describe(self, setup) -> str:
        """Returns a sentence: whose Jacobian, by what, of how many parameters."""
        stage = self.reads(setup)
        last = setup.program.network.stages[-1]
        what = "the outputs" if stage == last else f"the features of stage {stage!r}"
        often = "" if self.every == 1 else f", every {self.every} steps"
        if self.wrt == "inputs":
            return f"{self.estimator} Jacobian of {what} by the inputs{often}"
        chosen = trees.flatten(selection.keep(self.leaves(setup), setup.params))
        where = dict.fromkeys(p.split("/")[0] for p in chosen)
        if self._dense:
            where = dict.fromkeys(p.rpartition("/")[0] for p in chosen)
        among = "the dense layers " * self._dense + ", ".join(where)
        count = sum(leaf.size for leaf in chosen.values())
        return (
            f"{self.estimator} Jacobian of {what} by {count:,} parameters of "
            f"{among}{often}"
        )

    def __call__(self, context):
        if self.every == 1:
            return self._value(context, context.params)
        # The last of each `every` steps: at step 0 θ is θ₀ and there is no difference.
        due = (context.step + 1) % self.every == 0
        params, frozen = trees.partition(context.params, context.program.trainable_mask)

        def value(params):
            return self.every * self._value(context, trees.merge(params, frozen))

        return _where(due, value, params)

    def _value(self, context, params):
        if not any(jax.tree.leaves(self.leaves(context))):
            return jnp.float32(0.0)  # a phase in which none of them is trainable
        x, start = self._entry(context)
        x = self._rows(x)
        if self._dense:
            same = self._whole(context, params)[-1]
            return jnp.where(same, 0.0, self._by_layers(context, params, x))
        params, source_params, f, f0, same = self._sides(context, params, start)
        if self.wrt == "params":
            exact, projected = exact_params, projected_params
        else:
            exact, projected = exact_inputs, projected_inputs
        args = (f, params, source_params, x)
        if self.estimator == "exact":
            value = exact(*args, f0)
        else:
            value = projected(*args, context.key, self.probes, f0, self.draws)
        # The compiler may fuse the two sides differently: at θ = θ₀ that would leave
        # rounding noise where the term is 0.
        return jnp.where(same, 0.0, value)

    def _by_layers(self, context, params, x):
        ours, theirs, _ = self._whole(context, params)
        chosen = trees.flatten(selection.keep(self.leaves(context), context.params))
        kernels, biases = (
            frozenset(p.removesuffix(end) for p in chosen if p.endswith(end))
            for end in ("/kernel", "/bias")
        )
        stage = self.reads(context)

        def seen(params, stats):
            layers = kernels | biases
            return Seen(
                *dense_layers.watched(
                    context.program.network, params, stats, x, layers, stage
                )
            )

        ours, theirs = seen(*ours), seen(*theirs)
        if self.estimator == "dense":
            directions, number = jnp.eye(ours.outputs.shape[1])[:, None], 1
        else:
            shape, dtype = ours.outputs.shape, ours.outputs.dtype
            number = self.probes
            directions = signs(context.key, number, shape, dtype, self.draws)
        return dense_params(ours, theirs, directions, kernels, biases) / number

    def _rows(self, x):
        leaves = jax.tree.leaves(x)
        if self.wrt == "inputs":
            for leaf in leaves:
                if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                    raise UserError(
                        f"JacobianDifference(wrt='inputs'): the inputs are {leaf.dtype}"
                        " and have no derivative; use wrt='params'."
                    )
        keep = max(1, round(self.fraction * len(leaves[0])))
        return jax.tree.map(lambda a: a[:keep], x)

    def _entry(self, context):
        """Returns (inputs, None), or (cached features, the stage that reads them)."""
        x, start = context.entry(self.stream)
        stages = context.program.network.stages
        needs_inputs = self._dense or self.wrt == "inputs"
        if start is None or needs_inputs or not context.program.cached_source:
            return context.batches[self.stream]["x"], None
        if stages.index(self.reads(context)) < stages.index(start):
            return context.batches[self.stream]["x"], None
        return x, start

    def _whole(self, context, params):
        """Returns (θ, statistics), (θ₀, statistics), and whether they are the same."""
        source, hold = context.source, jax.lax.stop_gradient
        params0 = trees.fill(source.params, hold(params))
        # A training pass before this term moves the statistics with θ.
        stats = hold(context.stats)
        stats0 = trees.fill(source.stats, stats)
        same = _equal((params, stats), (params0, stats0))
        # Adapters and prompts are parameters that θ₀ does not have.
        base = context.program.base_params(params)
        same = same & (len(jax.tree.leaves(params)) == len(jax.tree.leaves(base)))
        return (params, stats), (params0, stats0), same

    def _sides(self, context, params, start=None):
        """Returns (θ, θ₀, f, f₀, whether they are the same); f closes over the rest."""
        stage = self.reads(context)
        settings = {} if start is None else {"start": start}
        if stage != context.program.network.stages[-1]:
            settings["stop"] = stage
        chosen = self.leaves(context)
        (params, stats), (params0, stats0), same = self._whole(context, params)
        params, rest = trees.partition(params, chosen)
        params0, rest0 = trees.partition(params0, chosen)

        def function(apply, rest, stats):
            def f(params, x):
                whole = trees.merge(params, rest)
                return types.vectors(apply(whole, stats, x, **settings).logits)

            return f

        ours = function(context.program.network.apply, rest, stats)
        theirs = function(context.source_apply, rest0, stats0)
        return params, params0, ours, theirs, same


def _where(due: jax.Array, value, params: PyTree) -> jax.Array:
    """Returns value(params) where due, and 0 at no cost elsewhere.

    The gradient is taken inside of the condition: what the backward pass needs stays
    there, and is not filled with zeros each time that it is not needed.
    """
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    nothing = jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, params)
    found, slope = jax.lax.cond(
        due,
        jax.value_and_grad(lambda p: value(p).astype(dtype)),
        lambda _: nothing,
        jax.lax.stop_gradient(params),
    )
    # The second summand is 0 and carries the gradient.
    apart = trees.sub(params, jax.lax.stop_gradient(params))
    return found + trees.dot(slope, apart)


def _equal(a: PyTree, b: PyTree) -> jax.Array:
    """Returns a bool scalar: every element of two trees of one structure agrees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return jnp.stack([jnp.array_equal(x, y) for x, y in pairs]).all()
