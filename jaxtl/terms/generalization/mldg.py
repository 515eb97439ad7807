"""MLDG: a step on some domains must also help on one that was left out."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.generalization import base


def descended(params: PyTree, gradient: PyTree, rate) -> PyTree:
    """θ′ = θ − α·g at the leaves that the gradient has, θ elsewhere."""
    known = trees.flatten(gradient)

    def leaf(path, x):
        return x - (rate * known[path]).astype(x.dtype) if path in known else x

    return trees.map_with_path(leaf, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLDG(Term):
    """F(θ) + β·G(θ − α·∇F(θ)): meta-train risk, and meta-test risk after a step on it.

    A task term by itself. In each step one of the domains, drawn at random, is
    meta-test (G is its mean cross-entropy), the others are meta-train (F is the mean of
    theirs), in nats. Batches of unequal size are cut to the smallest. The inner step
    moves the trainable parameters, after a reparametrization those of the merged model.
    Reports both risks.

    Attributes:
      streams: of the labelled domains, two or more.
      rate: α, the inner step's.
      beta: β.
      second_order: differentiate through ∇F; False drops that part (first-order
        MAML's approximation), at about half the cost.

    References:
      Li et al., Learning to Generalize: Meta-Learning for Domain Generalization, AAAI
      2018, eq. 3; β = 1 there.
    """

    streams: tuple[str, ...] = ()
    rate: float = traced(0.01)
    beta: float = traced(1.0)
    second_order: bool = True

    def check(self, setup: Setup):
        base.check(setup, "MLDG", self.streams)
        checks.number(setup, "rate", self.rate, 0.0)
        checks.number(setup, "beta", self.beta, 0.0)

    def __call__(self, context):
        x, y, start = base.equal(context, self.streams)
        draw, first, second = jax.random.split(context.key, 3)
        # One program for every choice: the chosen domain is turned to the first place.
        left_out = jax.random.randint(draw, (), 0, len(self.streams))
        x, y = jax.tree.map(lambda a: jnp.roll(a, -left_out, axis=0), (x, y))
        free, held = trees.partition(context.params, context.program.trainable_mask)

        def risk(params, places, key):
            some = jax.tree.map(lambda a: a[places].reshape(-1, *a.shape[2:]), x)
            labels = y[places].reshape(-1, *y.shape[2:])
            out = context.run(some, params=params, key=key, start=start)
            return losses.cross_entropy(out.logits, labels), out.stats

        def train_risk(free):
            return risk(trees.merge(free, held), slice(1, None), first)

        (train, stats), gradient = jax.value_and_grad(train_risk, has_aux=True)(free)
        context.keep_stats(stats, *self.streams)
        if not self.second_order:
            gradient = jax.lax.stop_gradient(gradient)
        moved = descended(context.params, gradient, self.rate)
        test, stats = risk(moved, slice(0, 1), second)
        context.keep_stats(stats, *self.streams)
        return train + self.beta * test, {"train": train, "test": test}
