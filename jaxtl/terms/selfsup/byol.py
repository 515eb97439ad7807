"""BYOL: each view predicts what a momentum encoder makes of the other one."""

import dataclasses
from typing import Any

import jax

from jaxtl.terms.base import Metrics
from jaxtl.terms.context import View
from jaxtl.terms.selfsup import projector
from jaxtl.terms.selfsup.momentum import MomentumTerm
from jaxtl.terms.selfsup.projector import project
from jaxtl.terms.selfsup.two_views import PredictedViews


def regression_loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Mean of ‖p/‖p‖ − z/‖z‖‖² = 2 − 2·cos(p, z), in [0, 4].

    Args:
      predicted, target: p and z, (n, width) each.

    Returns:
      A scalar, the mean over examples.

    References:
      Grill et al., NeurIPS 2020, eq. 2.
    """
    return 2 - 2 * projector.cosine(predicted, target)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOL(MomentumTerm, PredictedViews):
    """Prediction of a momentum encoder's projection of the other view.

    The sum of both directions; no example is compared with another one. The authors
    make the two views by different operations, `tl.selfsup.byol_views()`. Reports
    "spread", 0 for a collapse.

    Attributes:
      projector, predictor: widths of their layers; (4096, 256) both in the paper, whose
        features are 2048 wide.
      norm: whether their hidden layers are batch-normalized; without it BYOL easily
        collapses.
      momentum, rises: of the encoder, 0.996 rising to 1.
      stream, stage, views, second: as in `TwoViewTerm`.

    References:
      Grill et al., Bootstrap Your Own Latent, NeurIPS 2020.
    """

    projector: tuple[int, ...] = (4096, 256)
    predictor: tuple[int, ...] = (4096, 256)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        encoder, views = self.encoder(context), self.view_inputs(context)
        context.set_state(encoder)

        def predicted(x: Any) -> jax.Array:
            own = context.term_params
            z = project(own.get("projector", {}), self.features(context, x))
            return project(own["predictor"], z)

        def target(x: Any) -> jax.Array:
            heads = encoder["heads"].get("projector", {})
            return project(heads, self.encoded(context, encoder, x))

        first, second = (predicted(x) for x in views)
        value = regression_loss(first, target(views[1]))
        value += regression_loss(second, target(views[0]))
        return value, {"spread": projector.spread(first)}
