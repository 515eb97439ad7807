"""Mean teacher: consistency with a moving average of the model."""

import dataclasses
import math
from typing import ClassVar

import jax

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.models import merging
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.semi import augmented_views, pseudo_targets


def updated_teacher(
    state: PyTree,
    params: PyTree,
    stats: PyTree,
    decay: float | jax.Array,
    step: jax.Array,
) -> PyTree:
    """Teacher after one more step of the student: d·teacher + (1 − d)·student.

    d = min(decay, t/(t + 1)) with t = step, so that the teacher is the plain mean of
    all students until that averages over more steps than `decay` does.

    Args:
      state: {"params", "stats"}; parameters are None where nothing is averaged.
      params, stats: the student's, whole trees.
      decay: in [0, 1).
      step: number of steps before this one.

    Returns:
      The new state.
    """
    averaged = trees.like(state["params"], params)
    mask = jax.tree.map(
        lambda x: x is not None, state["params"], is_leaf=lambda x: x is None
    )
    student = {"params": trees.restrict(averaged, mask), "stats": stats}
    return merging.ema(state, student, decay, step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanTeacher(pseudo_targets.UnlabelledTerm):
    """Squared distance of probabilities to those of an averaged model.

    Mean over examples and classes. The teacher is the moving average of the trainable
    parameters and of BatchNorm's statistics (frozen ones are the student's), and is
    this term's state; no gradient flows through it. The student sees the batch as the
    experiment augments it, the teacher another view. To evaluate the teacher instead of
    the student, give the experiment `average=tl.optim.EMA()` of the same decay. Reports
    "confidence", the teacher's mean largest probability.

    Attributes:
      weight: usually 10 to 100 for this mean over classes, rising with
        `schedules.GaussianRamp` over the first epochs (the paper's 100 is for 4000
        labels and 180,000 steps).
      decay: the paper's is 0.99 at first and 0.999 later; it should average over no
        more than about a third of the run: 1/(1 − decay) steps.
      noisy: whether the teacher is in training mode (with batch statistics and separate
        dropout), as in the paper; otherwise it is in evaluation mode.
      view: operations of the teacher's view, on stored values; None mirrors and shifts
        images, and leaves other inputs as they are.
      stream: name of the stream; its labels are not used.

    References:
      Tarvainen & Valpola, Mean Teachers Are Better Role Models, NeurIPS 2017, section
      2 and appendix B.1.
    """

    moves_once: ClassVar[bool] = True

    weight: float | Schedule = traced(10.0, low=-math.inf)
    decay: float = traced(0.99)
    noisy: bool = True
    view: tuple | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "decay", self.decay, 0.0, 1.0)
        augmented_views.check_operations(setup, "view", self.view)

    def init_state(self, setup: Setup) -> PyTree:
        return {
            "params": trees.restrict(setup.params, setup.program.trainable_mask),
            "stats": setup.stats,
        }

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        # Before the teacher, whose statistics average those after this pass.
        student = context.forward(self.stream).logits
        params = jax.lax.stop_gradient(context.params)
        state = updated_teacher(
            context.state, params, context.stats, self.decay, context.step
        )
        context.set_state(state)
        x = context.batches[self.stream]["x"]
        operations = augmented_views.weak_operations(self.view, x)
        teacher = context.run(
            context.view(self.stream, operations, context.key),
            params=trees.merge(state["params"], params),
            stats=state["stats"],
            train=None if self.noisy else (),
        ).logits
        p = pseudo_targets.target_probabilities(teacher)
        value = pseudo_targets.squared_distance(pseudo_targets.softmax(student), p)
        return value, {"confidence": p.max(-1).mean()}
