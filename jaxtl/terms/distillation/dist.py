"""DIST: predictions correlate with the teacher's, by example and by class."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.distillation.soft_targets import SoftTargetTerm

_EPSILON = 1e-8  # added to the product of norms, as in the authors' program
_TINY = 1e-24  # least squared norm, so that constant rows have a gradient of 0


def pearson_distance(first: jax.Array, second: jax.Array) -> jax.Array:
    """1 − the Pearson correlation of two rows, mean over rows.

    Args:
      first, second: (rows, columns).

    Returns:
      A scalar in [0, 2].

    References:
      Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022,
      section 4; ε from the authors' program.
    """
    a = first - jnp.mean(first, axis=1, keepdims=True)
    b = second - jnp.mean(second, axis=1, keepdims=True)
    norms = [jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=1), _TINY)) for x in (a, b)]
    return 1.0 - jnp.mean(jnp.sum(a * b, axis=1) / (norms[0] * norms[1] + _EPSILON))


def correlation_losses(
    teacher: jax.Array, logits: jax.Array, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """T² d(p, p_T) and T² d(pᵀ, p_Tᵀ), d = `pearson_distance`.

    The first compares the classes of each example, the second the examples of a batch
    in each class.

    Args:
      teacher: logits of p_T, (batch, K).
      logits: of p, (batch, K).
      temperature: T of both softmax functions.

    Returns:
      (loss of examples, loss of classes), scalars.
    """
    p, q = (jax.nn.softmax(as_float32(z) / temperature) for z in (logits, teacher))
    square = jnp.square(temperature)
    return square * pearson_distance(p, q), square * pearson_distance(p.T, q.T)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIST(SoftTargetTerm):
    """inter · L_examples + intra · L_classes of `correlation_losses`.

    Attributes:
      temperature: T of both softmax functions.
      inter: β.
      intra: γ.

    References:
      As `pearson_distance`; β = γ = 1 there for ImageNet, with T = 1.
    """

    compares: ClassVar[str] = "correlations over examples"

    temperature: float = traced(1.0)
    inter: float = traced(1.0)
    intra: float = traced(1.0)

    def check(self, setup: Setup) -> None:
        checks.task(setup, "DIST", "classification")
        super().check(setup)
        checks.positive(setup, "temperature", self.temperature)
        checks.batch_of(setup, "DIST", self.stream, 2)

    def __call__(self, context: View) -> jax.Array:
        teacher = self.teacher_logits(context, self.temperature)
        logits = context.forward(self.stream).logits
        inter, intra = correlation_losses(teacher, logits, self.temperature)
        return self.inter * inter + self.intra * intra
