"""JAN: the distance of two domains' joint distribution of features and predictions."""

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain import dan
from jaxtl.terms.domain.domain_pair import DomainPairAtStages


def joint_mmd(
    source: Sequence[jax.Array],
    target: Sequence[jax.Array],
    kernels: Sequence[Mapping[str, Any]],
    estimator: str = "biased",
) -> jax.Array:
    """`dan.mmd` with the product of one kernel per layer, Π_l k_l(x_l, y_l).

    Args:
      source: activations of some layers in one domain, (n, d_l) each.
      target: those of the other domain, (m, d_l) each.
      kernels: for each layer the `multipliers` or `bandwidths` of `dan.kernel`.
      estimator: as in `dan.pair_weights`.

    Returns:
      A scalar.

    References:
      Long et al., Deep Transfer Learning with Joint Adaptation Networks, ICML 2017,
      section 4.
    """
    layers = [
        dan.kernel(*dan.squared_distances(a, b, estimator), **widths)
        for a, b, widths in zip(source, target, kernels)
    ]
    weights = dan.pair_weights(source[0].shape[0], target[0].shape[0], estimator)
    return jnp.sum(weights * functools.reduce(operator.mul, layers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JAN(DomainPairAtStages):
    """`joint_mmd` of two streams' features and their predictions, softmax(logits).

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: stages whose outputs to align together with the predictions; None is the
        last one before the head.
      multipliers: widths of the features' kernels, as in `DAN`.
      bandwidth: γ of the predictions' one kernel exp(−‖p − q‖² / γ); 1.68 as in the
        authors' program (tllib's σ = 0.92 is 1.6928).
      estimator: "biased", "unbiased" or "linear".
    """

    compares: ClassVar[str] = "pairs of examples"

    multipliers: tuple[float, ...] = traced(dan.MULTIPLIERS)
    bandwidth: float = traced(1.68)
    estimator: str = "biased"

    def check(self, setup: Setup) -> None:
        checks.task(setup, "JAN", "classification")
        super().check(setup)
        checks.one_of(setup, "estimator", self.estimator, dan.ESTIMATORS)
        dan.check_widths(setup, "multipliers", self.multipliers)
        checks.positive(setup, "bandwidth", self.bandwidth)

    def __call__(self, context: View) -> jax.Array:
        features = self.feature_pairs(context)
        predictions = tuple(
            jax.nn.softmax(vectors(context.forward(stream).logits))
            for stream in self.streams
        )
        kernels = [{"multipliers": self.multipliers} for _ in features]
        kernels.append({"bandwidths": (self.bandwidth,)})
        source, target = zip(*features, predictions)
        return joint_mmd(source, target, kernels, self.estimator)
