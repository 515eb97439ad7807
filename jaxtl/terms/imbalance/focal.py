"""Focal loss: cross-entropy that counts examples less the surer they are right."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.imbalance.base import WeightedTerm
from jaxtl.terms.imbalance.class_weights import mean_loss


def focal_losses(
    logits: jax.Array, labels: jax.Array, gamma: float | jax.Array
) -> jax.Array:
    """−(1 − p_y)^γ · log p_y of each example, p = softmax(logits), in nats.

    Args:
      logits: (batch, K), before the softmax.
      labels: y, (batch,) class indices.
      gamma: γ ≥ 0, may be traced; 0 is cross-entropy.

    Returns:
      (batch,).

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 4.
    """
    logits = as_float32(logits)
    is_label = jnp.arange(logits.shape[-1]) == labels[:, None]
    # log(1 − p_y) from the other classes: 1 − p_y itself rounds to 0.
    others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    log_rest = others - jax.nn.logsumexp(logits, axis=-1)
    log_p = losses.label_log_probabilities(logits, labels)
    return -jnp.exp(gamma * log_rest) * log_p


def sigmoid_focal_losses(
    logits: jax.Array, targets: jax.Array, gamma: float | jax.Array
) -> jax.Array:
    """−(1 − p_t)^γ · log p_t of each yes/no output, p_t the truth's probability.

    Args:
      logits: (batch, outputs), before the sigmoid.
      targets: 0 or 1, the same shape.
      gamma: γ ≥ 0, may be traced.

    Returns:
      (batch, outputs), in nats.

    References:
      Lin et al., as `focal_losses`.
    """
    signed = jnp.where(targets > 0.5, 1.0, -1.0) * as_float32(logits)
    log_p = jax.nn.log_sigmoid(signed)
    return -jnp.exp(gamma * jax.nn.log_sigmoid(-signed)) * log_p


@dataclasses.dataclass(frozen=True, kw_only=True)
class FocalLoss(WeightedTerm):
    """`focal_losses` of a stream's batch, `sigmoid_focal_losses` for "multilabel".

    Reports the accuracy.

    Attributes:
      gamma: at least 0; the paper takes 2.
      alpha: for "multilabel" the weight of a positive label, 1 − alpha that of a
        negative one (the paper: 0.25); None weighs both 1.
      class_weights: for classes; see `WeightedTerm`.
    """

    gamma: float = traced(2.0)
    alpha: float | None = None

    def check(self, setup: Setup) -> None:
        checks.number(setup, "gamma", self.gamma, 0.0)
        if setup.program.task == "multilabel":
            checks.labelled(setup, "stream", self.stream)
            checks.classes(setup, "stream", self.stream)
            if self.class_weights is not None:
                raise UserError(
                    f"{checks.where(setup, 'class_weights')}: a multilabel task has "
                    "alpha= in their place."
                )
            if self.alpha is not None:
                checks.number(setup, "alpha", self.alpha, 0.0, 1.0)
            return
        super().check(setup)
        if self.alpha is not None:
            raise UserError(
                f"{checks.where(setup, 'alpha')}={self.alpha!r} is for a multilabel "
                "task; classes have class_weights= in its place."
            )

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        if context.program.task == "multilabel":
            return self._of_labels(context, logits, labels)
        value = self.weighted_mean(context, focal_losses(logits, labels, self.gamma))
        return value, {"accuracy": losses.label_accuracy(logits, labels)}

    def _of_labels(
        self, context: View, logits: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        values = sigmoid_focal_losses(logits, labels, self.gamma)
        if self.alpha is not None:
            values *= jnp.where(labels > 0.5, self.alpha, 1 - self.alpha)
        hits = ((logits > 0) == (labels > 0.5)).astype(jnp.float32)
        value = mean_loss(context, self.stream, values)
        return value, {"accuracy": jnp.mean(hits)}
