"""AFN: enlarges the norms of both domains' features, or brings them to one value."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain.domain_pair import DomainPairAtStage


def norms(x: jax.Array) -> jax.Array:
    """‖x_i‖₂ over the last axis, (..., d) -> (...,), with gradient 0 at x_i = 0.

    Args:
      x: features.

    Returns:
      Euclidean norms, not squared.
    """
    squares = jnp.sum(jnp.square(x), axis=-1)
    roots = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return jnp.where(squares > 0, roots, 0.0)


def hard_norm_loss(sizes: jax.Array, radius: float | jax.Array) -> jax.Array:
    """(mean ‖f‖ − R)² of one domain, without ½ (HAFN): the mean norm becomes R.

    Args:
      sizes: norms of the features, (batch,).
      radius: R, may be traced.

    Returns:
      A scalar.

    References:
      Xu et al., Larger Norm More Transferable: An Adaptive Feature Norm Approach for
      Unsupervised Domain Adaptation, ICCV 2019, with one R for both domains.
    """
    return jnp.square(jnp.mean(sizes) - radius)


def stepwise_norm_loss(sizes: jax.Array, step: float | jax.Array) -> jax.Array:
    """(‖f‖ − (‖f‖₋ + Δr))², mean over examples, ‖f‖₋ without gradient (SAFN).

    ‖f‖₋ is the norm at the last iterate in the paper, and here the present norm without
    gradient. So the value is always Δr²; the gradient is −2Δr times that of the mean
    norm.

    Args:
      sizes: norms of the features, (batch,).
      step: Δr, may be traced.

    Returns:
      A scalar.

    References:
      As `hard_norm_loss`.
    """
    return jnp.mean(jnp.square(sizes - jax.lax.stop_gradient(sizes) - step))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AFN(DomainPairAtStage):
    """`stepwise_norm_loss` of both domains' features; with a radius `hard_norm_loss`.

    The step's loss is a mean over the examples of both batches together, the radius'
    the mean of the two domains' losses; the authors add those of the domains: their
    weight of 0.05 is 0.1 here. Reports both mean norms, which show the progress.

    The authors' features are batch-normalized (a bottleneck of an affine map, BatchNorm
    and ReLU). Without BatchNorm the step does harm where it gains with it: see the
    measured effects of `experiments/office_caltech.py`.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: stage whose output is read, one vector per example; None is the last one
        before the head.
      step: Δr, by how much each norm should grow (1 in the paper).
      radius: R, the mean norm that each domain should have (25 in the paper), in place
        of the step; None uses the step.
    """

    compares: ClassVar[str] = "mean norms, with a radius"

    step: float = traced(1.0)
    radius: float | None = traced(None)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "step", self.step)
        if self.radius is not None:
            checks.positive(setup, "radius", self.radius)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        source = norms(self.features(context, self.source))
        target = norms(self.features(context, self.target))
        if self.radius is None:
            value = stepwise_norm_loss(jnp.concatenate([source, target]), self.step)
        else:
            radius = self.radius
            both = hard_norm_loss(source, radius) + hard_norm_loss(target, radius)
            value = 0.5 * both
        return value, {"source_norm": source.mean(), "target_norm": target.mean()}
