"""DKD: the teacher's trust in the label, and its ranking of all other classes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.distillation.soft_targets import SoftTargetTerm

WARM_UP = schedules.LinearRamp(end=20 / 240)


def decoupled_losses(
    teacher: jax.Array, logits: jax.Array, labels: jax.Array, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """T² · KL of (label, not label), and T² · KL among the classes but the label.

    Args:
      teacher: z_T, (batch, K).
      logits: z, (batch, K).
      labels: (batch,).
      temperature: T.

    Returns:
      The two losses of each example, (batch,), at least 0. KD is the first plus
      1 − p_T(label) times the second.

    References:
      Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, eq. 7.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)

    def parts(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """log p(label), log p(not label), and log p of the others among themselves."""
        log_p = jax.nn.log_softmax(as_float32(z) / temperature)
        others = jnp.where(is_label, -jnp.inf, log_p)
        rest = jax.nn.logsumexp(others, axis=-1)
        log_q = jnp.where(is_label, 0.0, log_p - rest[:, None])
        return jnp.sum(jnp.where(is_label, log_p, 0.0), axis=-1), rest, log_q

    label_t, rest_t, others_t = parts(teacher)
    label, rest, others = parts(logits)
    target = jnp.exp(label_t) * (label_t - label) + jnp.exp(rest_t) * (rest_t - rest)
    q = jnp.where(is_label, 0.0, jnp.exp(others_t))
    other = jnp.sum(q * (others_t - others), axis=-1)
    return jnp.square(temperature) * target, jnp.square(temperature) * other


@dataclasses.dataclass(frozen=True, kw_only=True)
class DKD(SoftTargetTerm):
    """target · TCKD + other · NCKD of `decoupled_losses`, mean over examples.

    Attributes:
      weight: λ, by default rising from 0 to 1 over the first twelfth of the run, as in
        the authors' program (20 of 240 epochs). From 1 at once it does worse: see
        `experiments/distillation_cifar.py`.
      temperature: T.
      target: α, of the label's probability.
      other: β, of the other classes.
      stream: a stream with labels.

    References:
      As `decoupled_losses`; megvii-research/mdistiller, `mdistiller/engine/cfg.py`:
      α = 1, β = 8, T = 4 and 20 epochs of warm-up; β = 2 for ResNet-56 → ResNet-20.
    """

    weight: float | Schedule = traced(WARM_UP, low=-math.inf)
    temperature: float = traced(4.0)
    target: float = traced(1.0)
    other: float = traced(8.0)

    def check(self, setup: Setup) -> None:
        checks.class_labels(setup, "DKD", "stream", self.stream)
        super().check(setup)
        checks.positive(setup, "temperature", self.temperature)

    def __call__(self, context: View) -> jax.Array:
        teacher = self.teacher_logits(context, self.temperature)
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        target, other = decoupled_losses(teacher, logits, labels, self.temperature)
        return jnp.mean(self.target * target + self.other * other)
