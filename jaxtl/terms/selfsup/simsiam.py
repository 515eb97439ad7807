"""SimSiam: each view predicts the other one, whose gradient is stopped."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxtl.terms.base import Metrics
from jaxtl.terms.context import View
from jaxtl.terms.selfsup import projector
from jaxtl.terms.selfsup.projector import cosine, project
from jaxtl.terms.selfsup.two_views import PredictedViews


def symmetric_similarity(
    predictions: Sequence[jax.Array], projections: Sequence[jax.Array]
) -> jax.Array:
    """−½ cos(p₁, z₂) − ½ cos(p₂, z₁), mean over examples, in [−1, 1].

    Args:
      predictions: p of the first and of the second view, (n, width) each.
      projections: z of both, through which no gradient flows.

    Returns:
      A scalar, to be minimized.

    References:
      Chen & He, CVPR 2021, eq. 4.
    """
    first, second = map(jax.lax.stop_gradient, projections)
    return -0.5 * (cosine(predictions[0], second) + cosine(predictions[1], first))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiam(PredictedViews):
    """Prediction of one view's projection from the other one's.

    Neither other examples nor a momentum encoder: the stopped gradient and the
    predictor keep it from collapsing. Reports "spread", 0 for a collapse, about 1
    otherwise.

    Attributes:
      projector: widths of its layers, (2048, 2048, 2048) in the paper and (2048, 2048)
        for CIFAR-10; its output is batch-normalized as well.
      predictor: widths of its layers, a bottleneck of a quarter and the output.
      norm: whether hidden layers, and the projection, are batch-normalized.
      stream, stage, views, second: as in `TwoViewTerm`.

    References:
      Chen & He, Exploring Simple Siamese Representation Learning, CVPR 2021.
    """

    projector: tuple[int, ...] = (2048, 2048)
    predictor: tuple[int, ...] = (512, 2048)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        own: Any = context.term_params
        projections = [
            project(own.get("projector", {}), x, output_norm=self.norm)
            for x in self.view_features(context)
        ]
        first, second = (project(own["predictor"], z) for z in projections)
        value = symmetric_similarity((first, second), projections)
        return value, {"spread": projector.spread(projections[0])}
