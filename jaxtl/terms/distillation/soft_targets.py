"""Soft targets: the outputs of one teacher, or of several taken together."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.distillation import teacher as teachers
from jaxtl.terms.distillation.base import LOGITS, TeacherTerm


def mean_logits(
    logits: Sequence[jax.Array],
    temperature: ArrayLike = 1.0,
    combine: str = "probabilities",
    kind: str = "softmax",
) -> jax.Array:
    """Logits whose probabilities at temperature T are those of several teachers.

    Args:
      logits: of each teacher, (..., K).
      temperature: T > 0.
      combine: "probabilities" for the mean of softmax(z/T), or of sigmoid(z/T), over
        teachers; "logits" for the mean of z.
      kind: "softmax", "sigmoid", or "identity" for outputs that are values.

    Returns:
      (..., K). For "probabilities" these are T · log p̄, or T · logit(p̄).
    """
    if len(logits) == 1:
        return as_float32(logits[0])
    z = jnp.stack([as_float32(x) for x in logits])
    if combine == "logits" or kind == "identity":
        return jnp.mean(z, axis=0)
    log_count = jnp.log(len(logits))
    if kind == "softmax":
        log_p = jax.nn.log_softmax(z / temperature)
        return jnp.multiply(temperature, jax.nn.logsumexp(log_p, axis=0) - log_count)
    yes = jax.nn.logsumexp(jax.nn.log_sigmoid(z / temperature), axis=0)
    no = jax.nn.logsumexp(jax.nn.log_sigmoid(-z / temperature), axis=0)
    return jnp.multiply(temperature, yes - no)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftTargetTerm(TeacherTerm):
    """Base of terms that compare the model's outputs with those of its teachers.

    Attributes:
      teacher: trained weights with their head, or a tuple of several teachers, whose
        outputs are averaged. Its outputs are matched to the model's by their names.
      teacher_model: architecture of the teacher, or a tuple with one for each, where
        the weights don't bring one.
      combine: what is averaged over several teachers: "probabilities" at the
        temperature of the term, or "logits".
      stream: name of the stream; "unlabelled" distils from data without labels.
    """

    combine: Literal["probabilities", "logits"] = "probabilities"

    def check(self, setup: Setup) -> None:
        checks.outputs_of_examples(setup, type(self).__name__)
        checks.one_of(setup, "combine", self.combine, ("probabilities", "logits"))
        super().check(setup)
        for network in self.networks(setup):
            teachers.check_logits(setup, network, self.stream)

    def teacher_logits(
        self, context: View, temperature: ArrayLike = 1.0, kind: str = "softmax"
    ) -> jax.Array:
        """The teachers' logits, (batch, K); those of several as `mean_logits`."""
        logits = [out[LOGITS] for out in self.teacher_outputs(context)]
        return mean_logits(logits, temperature, self.combine, kind)
