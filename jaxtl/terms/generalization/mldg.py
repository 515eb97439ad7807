"""MLDG: a gradient step on some domains must also improve a held-out one."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base


def gradient_step(params: PyTree, gradient: PyTree, rate: float | jax.Array) -> PyTree:
    """θ′ = θ − α·g at the leaves that the gradient has, θ elsewhere.

    Args:
      params: θ.
      gradient: g, a tree like θ with None in place of some leaves.
      rate: α, may be traced.

    Returns:
      A tree like θ, in its dtypes; differentiable by θ and g.
    """
    gradients = trees.flatten(gradient)

    def step(path: str, x: jax.Array) -> jax.Array:
        if path not in gradients:
            return x
        return x - (rate * gradients[path]).astype(x.dtype)

    return trees.map_with_path(step, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLDG(base.MultiDomainTerm):
    """F(θ) + β·G(θ − α·∇F(θ)): meta-train risk, and meta-test risk after a step on it.

    A task term by itself. In each step one of the domains, drawn at random, is
    meta-test (G is its mean cross-entropy), the others are meta-train (F is the mean of
    theirs), in nats. Batches of unequal size are cut to the smallest. The inner step
    moves the trainable parameters, with a reparametrization those of the merged model.
    Reports both risks.

    Attributes:
      streams: streams of the labelled domains, two or more.
      rate: α, the step size of the inner step.
      beta: β, the factor of the meta-test risk.
      second_order: differentiate through ∇F; False drops that part (first-order
        MAML's approximation), at about half the cost.

    References:
      Li et al., Learning to Generalize: Meta-Learning for Domain Generalization, AAAI
      2018, eq. 3; β = 1 there. DomainBed's program takes Adam's step in place of
      −α·∇F and is of first order.
    """

    compares: ClassVar[str] = "a gradient step on the batch"

    rate: float = traced(0.01)
    beta: float = traced(1.0)
    second_order: bool = True

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "rate", self.rate, 0.0)
        checks.number(setup, "beta", self.beta, 0.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        x, y, start = base.stacked_batches(context, self.streams)
        domain_key, train_key, test_key = jax.random.split(context.key, 3)
        # One program for every draw: the meta-test domain is rolled to index 0.
        test_domain = jax.random.randint(domain_key, (), 0, len(self.streams))
        x, y = jax.tree.map(lambda a: jnp.roll(a, -test_domain, axis=0), (x, y))
        mask = context.program.trainable_mask
        trainable, frozen = trees.partition(context.params, mask)

        def risk(
            params: PyTree, domains: slice, key: jax.Array
        ) -> tuple[jax.Array, PyTree]:
            inputs = jax.tree.map(lambda a: a[domains].reshape(-1, *a.shape[2:]), x)
            labels = y[domains].reshape(-1, *y.shape[2:])
            output = context.run(inputs, params=params, key=key, start=start)
            return losses.cross_entropy(output.logits, labels), output.stats

        def train_risk(trainable: PyTree) -> tuple[jax.Array, PyTree]:
            return risk(trees.merge(trainable, frozen), slice(1, None), train_key)

        (train, stats), gradient = jax.value_and_grad(train_risk, has_aux=True)(
            trainable
        )
        context.keep_stats(stats, *self.streams)
        if not self.second_order:
            gradient = jax.lax.stop_gradient(gradient)
        stepped = gradient_step(context.params, gradient, self.rate)
        test, stats = risk(stepped, slice(0, 1), test_key)
        context.keep_stats(stats, *self.streams)
        return train + self.beta * test, {"train": train, "test": test}
