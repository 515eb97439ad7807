"""Mean teacher: agree with a moving average of yourself."""

import dataclasses

import jax

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.models import merging
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.semi import augmented_views, pseudo_targets


def teach(state: PyTree, params: PyTree, stats: PyTree, decay, step) -> PyTree:
    """Returns the teacher after one more step of the student.

    d·teacher + (1 − d)·student, d = min(decay, t/(t + 1)) with t = step, so that the
    teacher is the plain mean of all students so far until that is the longer memory.

    Args:
      state: {"params", "stats"}; parameters are None where nothing is averaged.
      params, stats: the student's, whole trees.
      decay: in [0, 1).
      step: number of steps before this one.
    """
    kept = trees.like(state["params"], params)
    mask = jax.tree.map(lambda x: x is not None, state["params"], is_leaf=_missing)
    now = {"params": trees.restrict(kept, mask), "stats": stats}
    return merging.ema(state, now, decay, step)


def _missing(x) -> bool:
    return x is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanTeacher(pseudo_targets._OnUnlabelled):
    """Squared distance of probabilities to those of an averaged model.

    Mean over examples and classes. The teacher is the moving average of the trainable
    parameters and of BatchNorm's statistics (frozen ones are the student's), and lives
    in this term's state; no gradient flows through it. The student sees the batch as
    the experiment augments it, the teacher a view of its own. To evaluate the teacher
    in the student's place, give the experiment `average=tl.optim.EMA()` of the same
    decay. Reports "confidence", the teacher's mean largest probability.

    Attributes:
      weight: customary are 10 to 100 for this mean over classes, rising with
        `schedules.GaussianRamp` over the first epochs (the paper's 100 stands over 4000
        labels and 180,000 steps).
      decay: the paper's 0.99 at first and 0.999 later; it should look back over no
        more than a third of the run or so: 1/(1 − decay) steps.
      noisy: whether the teacher is in training mode (batch statistics and dropout of
        its own), as in the paper; otherwise it is in evaluation mode.
      view: operations of the teacher's view, on stored values; None mirrors and shifts
        images, and leaves others as they are.
      stream: name of the stream; its labels are not used.

    References:
      Tarvainen & Valpola, Mean Teachers Are Better Role Models, NeurIPS 2017, section
      2 and appendix B.1.
    """

    weight: float | Schedule = traced(10.0)
    decay: float = traced(0.99)
    noisy: bool = True
    view: tuple | None = None

    def check(self, setup: Setup):
        super().check(setup)
        checks.number(setup, "decay", self.decay, 0.0, 1.0)
        augmented_views.check(setup, "view", self.view)

    def init_state(self, setup: Setup):
        return {
            "params": trees.restrict(setup.params, setup.program.trainable_mask),
            "stats": setup.stats,
        }

    def __call__(self, context):
        hold = jax.lax.stop_gradient
        # First, so that the student's statistics are those after this step's pass.
        student = context.forward(self.stream).logits
        state = teach(
            context.state,
            hold(context.params),
            context.stats,
            self.decay,
            context.step,
        )
        operations = augmented_views.weak(self.view, context.batches[self.stream]["x"])
        teacher = context.run(
            context.view(self.stream, operations, context.key),
            params=trees.merge(state["params"], hold(context.params)),
            stats=state["stats"],
            train=None if self.noisy else (),
        ).logits
        context.set_state(state)
        p = pseudo_targets.held(teacher)
        value = pseudo_targets.squared_distance(pseudo_targets.softmax(student), p)
        return value, {"confidence": p.max(-1).mean()}
