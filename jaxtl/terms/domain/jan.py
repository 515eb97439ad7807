"""JAN: the distance of two domains' features and predictions, taken together."""

import dataclasses
import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain import domain_pair
from jaxtl.terms.domain.dan import ESTIMATORS, POWERS, distances, kernel, weights


def joint_mmd(
    source: Sequence[jax.Array],
    target: Sequence[jax.Array],
    kernels: Sequence[dict],
    estimator: str = "biased",
) -> jax.Array:
    """`dan.mmd` by the product of one kernel per layer, Π_l k_l(x_l, y_l).

    Args:
      source: activations of some layers in one domain, (n, d_l) each.
      target: those of the other domain, (m, d_l) each.
      kernels: for each layer the `multipliers` or `bandwidths` of `dan.kernel`.
      estimator: as in `dan.weights`.

    Returns:
      A scalar.

    References:
      Long et al., Deep Transfer Learning with Joint Adaptation Networks, ICML 2017,
      section 4.
    """
    layers = [
        kernel(*distances(a, b, estimator), **bank)
        for a, b, bank in zip(source, target, kernels)
    ]
    factors = weights(source[0].shape[0], target[0].shape[0], estimator)
    return jnp.sum(factors * functools.reduce(operator.mul, layers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JAN(Term):
    """`joint_mmd` of two streams' features and their predictions, softmax(logits).

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: whose outputs to align together with the predictions; None is the last
        before the head.
      multipliers: widths of the features' bank of kernels, as in `DAN`.
      bandwidth: γ of the predictions' one kernel exp(−‖p − q‖² / γ).
      estimator: "biased", "unbiased" or "linear".
    """

    source: str = "source"
    target: str = "unlabelled"
    stages: tuple[str, ...] | None = None
    multipliers: tuple[float, ...] = traced(POWERS)
    bandwidth: float = traced(1.68)
    estimator: str = "biased"

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        checks.task(setup, "JAN", "classification")
        domain_pair.check(setup, self.source, self.target, self.stages)
        checks.one_of(setup, "estimator", self.estimator, ESTIMATORS)
        domain_pair.bank(setup, "multipliers", self.multipliers)
        checks.positive(setup, "bandwidth", self.bandwidth)

    def __call__(self, context):
        stages = domain_pair.chosen(self.stages, context.program.network)

        def layers(stream: str):
            out = context.forward(stream)
            features = [domain_pair.feature(context, stream, stage) for stage in stages]
            return [*features, jax.nn.softmax(vectors(out.logits))]

        kernels = [{"multipliers": self.multipliers} for _ in stages]
        kernels.append({"bandwidths": (self.bandwidth,)})
        source, target = layers(self.source), layers(self.target)
        return joint_mmd(source, target, kernels, self.estimator)
