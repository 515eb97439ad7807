"""FitNets: stages of the model, through a projector, become those of the teacher."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import PositionPairTerm, Positions, width


def hint_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """(F_T − F)² of each position, mean over channels.

    Args:
      student: F, projected, (batch, positions, channels).
      teacher: F_T, the same shape.

    Returns:
      (batch, positions).

    References:
      Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3; there half the
      sum over channels and positions.
    """
    return jnp.mean(jnp.square(teacher - student), axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitNets(PositionPairTerm):
    """`hint_distance` of projected stages, mean over (real) positions and examples.

    The larger of two feature maps is averaged to the size of the smaller one. The
    projectors are parameters of the term: they are trained, and their gradients
    clipped, with the model's; "terms/NAME/.*" of `optim.groups` names them.

    Attributes:
      projector: "linear" for an affine map of the model's channels to the teacher's at
        each position, "none" for stages of the same number of channels.
      stages: as in `StagePairTerm`.

    References:
      As `hint_distance`; the projector there is a convolution, in RepDistiller followed
      by BatchNorm and ReLU. Its weight 100 is for this mean over channels.
    """

    projector: Literal["linear", "none"] = "linear"

    def check(self, setup: Setup) -> None:
        checks.one_of(setup, "projector", self.projector, ("linear", "none"))
        super().check(setup)

    def check_pair(self, setup: Setup, stage: str, student: Any, teacher: Any) -> None:
        super().check_pair(setup, stage, student, teacher)
        widths = width(student), width(teacher)
        if self.projector == "none" and widths[0] != widths[1]:
            raise UserError(
                f"{checks.where(setup, 'projector')}='none': the stage {stage!r} has "
                f"{widths[0]} channels and the teacher's {widths[1]}; take 'linear'."
            )

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        if self.projector == "none":
            return {}
        pairs = self.pair_shapes(setup)
        keys = dict(zip(pairs, jax.random.split(key, len(pairs))))
        return {
            stage: affine_init(keys[stage], width(student), width(teacher))
            for stage, (student, teacher) in pairs.items()
        }

    def position_value(self, context: View, stage: str, pair: Positions) -> jax.Array:
        student = pair.student
        if self.projector == "linear":
            student = affine(context.term_params[stage], student)
        return context.mean(hint_distance(student, pair.teacher), pair.mask)


def affine_init(key: jax.Array, inputs: int, outputs: int) -> PyTree:
    """Parameters of an affine map: kernel of variance 1/inputs, bias 0.

    Args:
      key: PRNG key.
      inputs: width of what it reads.
      outputs: width of its result.

    Returns:
      {"kernel": (inputs, outputs), "bias": (outputs,)}, float32.
    """
    kernel = jax.random.normal(key, (inputs, outputs)) / jnp.sqrt(inputs)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def affine(params: PyTree, values: jax.Array) -> jax.Array:
    """The map along the last axis.

    Args:
      params: of `affine_init`.
      values: (..., inputs); of feature maps the channels come last, a 1 × 1
        convolution.

    Returns:
      (..., outputs).
    """
    return values @ params["kernel"] + params["bias"]
