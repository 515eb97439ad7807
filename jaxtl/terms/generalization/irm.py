"""Invariant risk minimization: one classifier that is optimal in every domain."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base


def scale_gradients(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """∂/∂w of each example's cross-entropy of w·logits, at w = 1.

    In closed form Σ_c p_c z_c − Σ_c q_c z_c with p the softmax of z and q the label.

    Args:
      logits: z, (batch, classes).
      labels: (batch,) class indices or (batch, classes) distributions.

    Returns:
      (batch,), float32 or wider.
    """
    z = as_float32(logits)
    if labels.ndim < z.ndim:
        labels = jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)
    return jnp.sum((jax.nn.softmax(z) - labels) * z, axis=-1)


def penalty(logits: jax.Array, labels: jax.Array, halves: bool = False) -> jax.Array:
    """‖∇_w R(w·f)‖² at w = 1, R the mean cross-entropy of one domain: IRMv1's penalty.

    Args:
      logits: (batch, classes).
      labels: (batch,) class indices or (batch, classes) distributions.
      halves: the product of the gradients of two halves of the batch (even and odd
        rows) instead of the square of the whole batch's: unbiased, can be negative.

    Returns:
      A scalar.

    Raises:
      UserError: if `halves` is set and the batch holds fewer than two examples.

    References:
      Arjovsky et al., Invariant Risk Minimization, arXiv:1907.02893 (2019), section
      3.1 (IRMv1) and appendix D (its unbiased estimate).
    """
    gradients = scale_gradients(logits, labels)
    if not halves:
        return jnp.square(gradients.mean())
    if len(gradients) < 2:
        raise UserError(
            f"IRM: halves=True needs at least 2 examples per domain, and a batch holds "
            f"{len(gradients)}."
        )
    return gradients[::2].mean() * gradients[1::2].mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class IRM(base.MultiDomainTerm):
    """`penalty`, mean over domains; use it beside a task term such as `PooledERM`.

    Both read the same pass over the domains' batches. The authors raise the penalty's
    weight at once when the risk has fallen; a schedule as `weight` raises it smoothly.

    Attributes:
      streams: streams of the labelled domains, two or more.
      halves: take the unbiased product of two half batches.

    References:
      Arjovsky et al., Invariant Risk Minimization, arXiv:1907.02893 (2019).
    """

    compares: ClassVar[str] = "the gradient of each risk"

    halves: bool = False

    def __call__(self, context: View) -> jax.Array:
        logits = base.domain_logits(context, self.streams)
        labels = base.domain_labels(context, self.streams)
        penalties = [penalty(logits[s], labels[s], self.halves) for s in self.streams]
        return jnp.stack(penalties).mean()
