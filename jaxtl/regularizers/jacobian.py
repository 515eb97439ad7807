"""Jacobian difference: keep how the function responds near how the source's did.

    Ω(θ) = mean over examples of ‖∂f(xᵢ; θ)/∂z − ∂f(xᵢ; θ₀)/∂z‖²_F,

summed over outputs and over z, which is the parameters ("preserving gradient") or the
inputs ("Jacobian matching"). Per-example Jacobians cost hundreds of plain steps, so the
projected estimator draws one random sign v_ic per example and output: with

    g(θ) = ∇_z Σ_ic v_ic f_c(xᵢ; θ)         (one backward pass for the whole batch)

E‖g(θ) − g(θ₀)‖² = Σᵢ ‖…‖²_F, since E v vᵀ is the identity and cross terms vanish.
With t = g(θ) − g(θ₀) held constant, the gradient of ‖t‖² is that of 2⟨v, ∂f/∂z · t⟩:
one forward-mode pass, reversed once, where differentiating g(θ) itself would reverse
the backward pass. A second derivative of the estimate is not to be had that way.

References:
  Srinivas & Fleuret, Knowledge Transfer with Jacobian Matching, ICML 2018 (inputs).
  Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl import checks, core, select
from jaxtl import tree as trees
from jaxtl.core import PyTree, Setup, Term, UserError

Function = Callable[[PyTree, PyTree], jax.Array]


def exact_params(
    f: Function, params: PyTree, source_params: PyTree, x, source_f: Function = None
) -> jax.Array:
    """Mean over examples of ‖∂f(xᵢ; θ)/∂θ − ∂f₀(xᵢ; θ₀)/∂θ₀‖²_F.

    Takes the Jacobians example by example, in memory for one: for small models, and
    for holding `projected_params` against.

    Args:
      f: (params, x) -> (batch, outputs); an example's outputs depend on it alone.
        Gradients reach what `f` closes over, too.
      params: θ, the leaves to differentiate by.
      source_params: θ₀, the same structure, held constant.
      x: (batch, ...) array, or a tree of such.
      source_f: f₀; `f` if left out.

    Returns:
      A scalar: the sum over outputs and parameters, the mean over examples.
    """
    f0 = source_f or f

    def one(row):
        ours = _jacobian(lambda p: f(p, row)[0], params)
        return _distance(ours, _jacobian(lambda p: f0(p, row)[0], source_params))

    return jnp.mean(_rowwise(one, x))


def exact_inputs(
    f: Function, params: PyTree, source_params: PyTree, x, source_f: Function = None
) -> jax.Array:
    """Mean over examples of ‖∂f(xᵢ; θ)/∂xᵢ − ∂f₀(xᵢ; θ₀)/∂xᵢ‖²_F.

    Arguments as in `exact_params`; `x` must be floating point.
    """
    f0 = source_f or f

    def one(row):
        ours = _jacobian(lambda r: f(params, r)[0], row)
        return _distance(ours, _jacobian(lambda r: f0(source_params, r)[0], row))

    return jnp.mean(_rowwise(one, x))


def projected_params(
    f: Function,
    params: PyTree,
    source_params: PyTree,
    x,
    key: jax.Array,
    probes: int = 1,
    source_f: Function = None,
) -> jax.Array:
    """An unbiased estimate of `exact_params` by random signs; mean over `probes` draws.

    Its value is ‖g(θ) − g(θ₀)‖² / batch and its gradient the estimate's own. Memory
    and time do not grow with the number of outputs.
    """
    f0 = source_f or f
    return _projected(
        lambda p: f(p, x), params, lambda p: f0(p, x), source_params, key, probes
    )


def projected_inputs(
    f: Function,
    params: PyTree,
    source_params: PyTree,
    x,
    key: jax.Array,
    probes: int = 1,
    source_f: Function = None,
) -> jax.Array:
    """An unbiased estimate of `exact_inputs`, as `projected_params` is of its own."""
    f0 = source_f or f
    return _projected(
        lambda z: f(params, z), x, lambda z: f0(source_params, z), x, key, probes
    )


def _projected(f, at, f0, at0, key, probes):
    """Returns the estimate for two functions of what is differentiated by."""
    hold = jax.lax.stop_gradient
    out = jax.eval_shape(f, at)
    total = 0.0
    for probe in jax.random.split(key, probes):  # few, so unrolled
        signs = jax.random.rademacher(probe, out.shape, out.dtype)
        ours = jax.grad(lambda z, v=signs: jnp.sum(v * f(z)))(hold(at))
        theirs = jax.grad(lambda z, v=signs: jnp.sum(v * f0(z)))(hold(at0))
        t = hold(trees.sub(ours, theirs))
        slope = 2.0 * jnp.sum(signs * jax.jvp(f, (at,), (t,))[1])
        # The bracket is 0 and carries the gradient. Without it the value would drown:
        # near θ₀ the slope is far larger than ‖t‖².
        total = total + trees.sum_squares(t) + (slope - hold(slope))
    return total / (probes * out.shape[0])


def _jacobian(f, at):
    return jax.jacrev(f)(at)


def _distance(ours, theirs):
    return trees.sum_squares(trees.sub(ours, jax.lax.stop_gradient(theirs)))


def _rowwise(one, x):
    """Maps over examples, each a batch of one; the backward pass recomputes."""
    rows = jax.tree.map(lambda a: a[:, None], x)
    return jax.lax.map(jax.checkpoint(one), rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JacobianDifference(Term):
    """The Jacobian difference to the source, in evaluation mode on both sides.

    f is the whole network where its head has a source, otherwise the features of the
    last stage before the head, one vector per example (`core.vectors`); `describe`
    says which. Both sides differentiate by the selected, trainable parameters that
    have a source and lie no later than f's stage. All other parameters are constants
    of the differentiation: θ₀'s own where it has them, else the model's. The gradient
    of the term reaches every trainable parameter of f. At θ = θ₀ it is exactly 0.

    Attributes:
      wrt: "params", or "inputs" (then `select` is not used).
      estimator: "projected" (random signs) or "exact" (small models only).
      probes: draws of the projected estimator per step; its variance falls as 1/probes.
      fraction: share of the batch that is looked at, at least one example. They are
        the batch's first rows, whose order is random already.
      select: pattern of the parameters to differentiate by.
      stage: the stage whose output f is; None lets the source decide as told above.
      stream: name of the stream.
    """

    wrt: Literal["params", "inputs"] = "params"
    estimator: Literal["projected", "exact"] = "projected"
    probes: int = core.static(1)
    fraction: float = core.static(1.0)
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
        checks.one_of(setup, "estimator", self.estimator, ("projected", "exact"))
        checks.number(setup, "probes", self.probes, 1)
        checks.number(setup, "fraction", self.fraction, 0.0, 1.0)
        checks.stage(setup, "stage", self.reads(setup))
        if self.wrt == "params":
            checks.selected(setup, self.select, sourced=True)
        if not any(jax.tree.leaves(self.leaves(setup))):
            raise UserError(
                f"{checks.where(setup, 'stage')}: no selected, trainable parameter "
                f"with a source lies at or before the stage {self.reads(setup)!r}, so "
                "this term would always be 0; choose a later stage or another select."
            )

    def reads(self, setup) -> str:
        """Returns the stage whose output f is, for a `Setup` or a context."""
        if self.stage is not None:
            return self.stage
        head = setup.network.stages[-1]
        known = trees.flatten({head: setup.source.params.get(head)})
        whole = set(trees.flatten({head: setup.params[head]})) <= set(known)
        return head if whole else checks.last_feature(setup.network.stages)

    def leaves(self, setup) -> PyTree:
        """Returns the mask of parameters that f is differentiated by (or moved by)."""
        stages = setup.network.stages
        late = set(stages[stages.index(self.reads(setup)) + 1 :])
        known = set(trees.flatten(setup.source.params))
        inputs = self.wrt == "inputs"

        def counts(path, trainable):
            if not trainable or path.split("/")[0] in late:
                return False
            return inputs or (path in known and select.matches(self.select, path))

        return trees.map_with_path(counts, setup.mask)

    def describe(self, setup) -> str:
        """Returns a sentence: whose Jacobian, by what, of how many parameters."""
        stage = self.reads(setup)
        last = setup.network.stages[-1]
        what = "the outputs" if stage == last else f"the features of stage {stage!r}"
        if self.wrt == "inputs":
            return f"{self.estimator} Jacobian of {what} by the inputs"
        chosen = trees.flatten(select.keep(self.leaves(setup), setup.params))
        stages = ", ".join(dict.fromkeys(p.split("/")[0] for p in chosen))
        count = sum(leaf.size for leaf in chosen.values())
        return (
            f"{self.estimator} Jacobian of {what} by {count:,} parameters of {stages}"
        )

    def __call__(self, context):
        x = self._rows(context.batches[self.stream]["x"])
        params, source_params, f, f0, same = self._sides(context)
        if self.wrt == "params":
            exact, projected = exact_params, projected_params
        else:
            exact, projected = exact_inputs, projected_inputs
        args = (f, params, source_params, x)
        if self.estimator == "exact":
            value = exact(*args, f0)
        else:
            value = projected(*args, context.key, self.probes, f0)
        # The compiler may fuse the two sides differently: at θ = θ₀ that would leave
        # rounding noise where the term is 0.
        return jnp.where(same, 0.0, value)

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

    def _sides(self, context):
        """Returns (θ, θ₀, f, f₀, whether they are the same); f closes over the rest."""
        stage = self.reads(context)
        stop = None if stage == context.network.stages[-1] else stage
        source, hold = context.source, jax.lax.stop_gradient
        chosen = self.leaves(context)
        params, rest = trees.partition(context.params, chosen)
        everything0 = trees.fill(source.params, hold(context.params))
        params0, rest0 = trees.partition(everything0, chosen)
        # A training pass before this term moves the statistics with θ.
        stats = hold(context.stats)
        stats0 = trees.fill(source.stats, stats)

        def function(rest, stats):
            def f(params, x):
                whole = trees.merge(params, rest)
                out = context.network.apply(whole, stats, x, stop=stop)
                return core.vectors(out.logits)

            return f

        same = _equal((context.params, stats), (everything0, stats0))
        return params, params0, function(rest, stats), function(rest0, stats0), same


def _equal(a: PyTree, b: PyTree) -> jax.Array:
    """Returns a bool scalar: every element of two trees of one structure agrees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return jnp.stack([jnp.array_equal(x, y) for x, y in pairs]).all()
