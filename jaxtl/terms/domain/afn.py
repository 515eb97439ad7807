"""AFN: features of larger norms transfer; bring both domains' to one."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.domain import domain_pair


def norms(x: jax.Array) -> jax.Array:
    """‖x_i‖₂ of rows, (batch, d) -> (batch,), with the gradient 0 at 0."""
    square = jnp.sum(jnp.square(x), axis=-1)
    root = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return jnp.where(square > 0, root, 0.0)


def hard(sizes: jax.Array, radius) -> jax.Array:
    """(‖f‖ − R)², mean over examples, without ½ (HAFN).

    Args:
      sizes: norms of the features, (batch,).
      radius: R, may be traced.

    References:
      Xu et al., Larger Norm More Transferable: An Adaptive Feature Norm Approach for
      Unsupervised Domain Adaptation, ICCV 2019, with one R for both domains.
    """
    return jnp.mean(jnp.square(sizes - radius))


def stepwise(sizes: jax.Array, step) -> jax.Array:
    """(‖f‖ − (‖f‖₋ + Δr))², mean over examples, ‖f‖₋ without gradient (SAFN).

    The norm of the last iterate that the paper writes is the present norm, held, so
    the value is Δr² always; its gradient is −2Δr times that of the mean norm.

    Args:
      sizes: norms of the features, (batch,).
      step: Δr, may be traced.

    References:
      As `hard`.
    """
    return hard(sizes, jax.lax.stop_gradient(sizes) + step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AFN(Term):
    """`stepwise` of both domains' feature norms, or `hard` with a radius.

    The mean is over the examples of both batches together. Reports both mean norms,
    which is where progress shows.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: whose features are meant, one vector per example; None is the last before
        the head.
      step: Δr, by how much norms are asked to grow (the paper's is 1).
      radius: R, the norm that all are asked to have (the paper's is 25), in place of
        the step; None grows step by step.
    """

    source: str = "source"
    target: str = "unlabelled"
    stage: str | None = None
    step: float = traced(1.0)
    radius: float | None = traced(None)

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        domain_pair.check(setup, self.source, self.target)
        checks.stage(setup, "stage", self._stage(setup.program.network))
        checks.positive(setup, "step", self.step)
        if self.radius is not None:
            checks.positive(setup, "radius", self.radius)

    def _stage(self, network) -> str:
        return feature_stage(network.stages, self.stage)

    def __call__(self, context):
        stage = self._stage(context.program.network)
        source, target = (
            norms(domain_pair.feature(context, stream, stage))
            for stream in self.streams
        )
        both = jnp.concatenate([source, target])
        if self.radius is None:
            value = stepwise(both, self.step)
        else:
            value = hard(both, self.radius)
        return value, {"source_norm": source.mean(), "target_norm": target.mean()}
