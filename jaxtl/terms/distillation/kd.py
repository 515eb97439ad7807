"""KD: the model's softened outputs come near those of a teacher."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, feature_stage
from jaxtl.terms.context import View
from jaxtl.terms.distillation.soft_targets import SoftTargetTerm
from jaxtl.terms.regularizers.function_distance import (
    KINDS,
    bernoulli_kl,
    kl_divergence,
    squared_distance,
)
from jaxtl.terms.regularizers.source_network import mean_over_tokens


def distillation_loss(
    teacher: jax.Array,
    logits: jax.Array,
    temperature: ArrayLike = 4.0,
    kind: str = "softmax",
) -> jax.Array:
    """T² · KL(softmax(z_T / T) ‖ softmax(z / T)) of each example.

    Args:
      teacher: z_T, (..., K).
      logits: z, (..., K).
      temperature: T.
      kind: "softmax"; "sigmoid" for K independent binary outputs, whose divergences
        are added; "identity" for values: Σ (z − z_T)², without T.

    Returns:
      (...,), at least 0.

    References:
      Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network,
      arXiv:1503.02531, section 2: T² keeps the gradient's size as T grows. There as a
      cross-entropy, which is larger by the teacher's entropy, a constant.
    """
    if kind == "identity":
        return squared_distance(teacher, logits)
    divergence = kl_divergence if kind == "softmax" else bernoulli_kl
    return jnp.square(temperature) * divergence(teacher, logits, temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KD(SoftTargetTerm):
    """`distillation_loss` to the teacher, mean over examples (or real tokens).

    The labels have a term of their own: Hinton's objective is
    `terms={"task": CrossEntropy(weight=0.1), "kd": KD(teacher=…, weight=0.9)}`.
    A teacher that is an earlier run of the same model makes a born-again network.

    Attributes:
      temperature: T.
      kind: what outputs are: logits of a "softmax", logits of independent "sigmoid"s,
        or values ("identity"); None is that of the experiment's task.

    References:
      Hinton, Vinyals & Dean, arXiv:1503.02531; T = 4 and weight 0.9 as in Tian et al.,
      Contrastive Representation Distillation, ICLR 2020. Furlanello et al., Born Again
      Neural Networks, ICML 2018.
    """

    temperature: float = traced(4.0)
    kind: Literal["softmax", "sigmoid", "identity"] | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        if self.kind is not None:
            checks.one_of(setup, "kind", self.kind, dict.fromkeys(KINDS.values()))
        checks.positive(setup, "temperature", self.temperature)

    def __call__(self, context: View) -> jax.Array:
        kind = self.kind or KINDS[context.program.task]
        teacher = self.teacher_logits(context, self.temperature, kind)
        out = context.forward(self.stream)
        value = distillation_loss(teacher, out.logits, self.temperature, kind)
        feature = out.features.get(feature_stage(context.program.network.stages))
        return mean_over_tokens(value, feature, context.mean)
