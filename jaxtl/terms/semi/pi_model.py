"""The Π-model: consistency of two stochastic passes of one example."""

import dataclasses
import math

import jax

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.semi import augmented_views, pseudo_targets

PAPER_RAMP = schedules.GaussianRamp(final=100.0, end=0.27)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiModel(pseudo_targets.UnlabelledTerm):
    """Squared distance of two passes' probabilities, mean over examples and classes.

    Both are in training mode, on different views and with different dropout, and
    gradients flow through both. The paper includes the labelled examples: a second term
    with stream="target" does that.

    Attributes:
      weight: w(t); by default the paper's rise to 100 over the first 80 of 300 epochs.
        The paper also scales it by the share of labelled examples.
      view: operations of the second view, on stored values; None mirrors and shifts
        images, and changes texts by the model's dropout alone. The first view is the
        batch as the experiment augments it.
      stream: name of the stream; its labels are not used.

    References:
      Laine & Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017,
      section 2.1 and algorithm 1.
    """

    weight: float | Schedule = traced(PAPER_RAMP, low=-math.inf)
    view: tuple | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        augmented_views.check_operations(setup, "view", self.view)
        x = augmented_views.first_inputs(setup, self.stream)
        if self.view is None and augmented_views.input_kind(x) == "vectors":
            raise UserError(
                f"{checks.where(setup, 'view')}=None: there is no default view of "
                f"vectors {tuple(x.shape[1:])}, and two equal passes agree; name "
                "operations that change them, such as "
                "view=(tl.data.Noise(scale=0.1),)."
            )

    def __call__(self, context: View) -> jax.Array:
        first = context.forward(self.stream).logits
        x = context.batches[self.stream]["x"]
        operations = augmented_views.weak_operations(self.view, x)
        view = context.view(self.stream, operations, context.key)
        second = context.run(view).logits
        return pseudo_targets.squared_distance(
            pseudo_targets.softmax(first), pseudo_targets.softmax(second)
        )
