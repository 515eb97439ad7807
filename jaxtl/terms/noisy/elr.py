"""Early-learning regularization: stays near the predictions before memorization."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.noisy.base import (
    NoisyLabelTerm,
    example_cross_entropies,
    log_probabilities,
)

_CLIP = 1e-4  # probabilities stay this far from 0 and 1, as in the paper's code


def early_learning_penalty(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """log(1 − ⟨p, t⟩), mean over examples; no gradient flows to t.

    It falls as the prediction p agrees with t. Its gradient moves p towards t, and
    cancels the cross-entropy's gradient at examples whose label disagrees with t.

    Args:
      logits: (batch, K), before the softmax.
      targets: (batch, K), t, a running average of earlier predictions; rows sum to at
        most 1.

    Returns:
      A scalar, at most 0.

    References:
      Liu et al., Early-Learning Regularization, NeurIPS 2020, eq. 6.
    """
    agreement = jnp.sum(_clipped(logits) * jax.lax.stop_gradient(targets), axis=-1)
    return jnp.mean(jnp.log1p(-agreement))


def ensembled_targets(
    targets: jax.Array, logits: jax.Array, beta: ArrayLike
) -> jax.Array:
    """β · t + (1 − β) · p: temporal ensembling of the predictions.

    Args:
      targets: t, (batch, K).
      logits: (batch, K), before the softmax; p is clipped to [1e-4, 1 − 1e-4] and
        divided by its sum.
      beta: β in [0, 1].

    Returns:
      (batch, K).

    References:
      Liu et al., Early-Learning Regularization, NeurIPS 2020, eq. 9.
    """
    p = _clipped(logits)
    return jnp.asarray(beta * targets + (1 - beta) * p / p.sum(-1, keepdims=True))


def _clipped(logits: jax.Array) -> jax.Array:
    return jnp.clip(jnp.exp(log_probabilities(logits)), _CLIP, 1 - _CLIP)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELR(NoisyLabelTerm):
    """Cross-entropy + λ · `early_learning_penalty` of a stream's batch.

    The state holds K numbers for each example of the data set. They start at 0 and are
    averaged with the current prediction whenever the example is in a batch, before they
    are used. Reports "agreement", the mean of ⟨p, t⟩.

    Attributes:
      stream: name of the stream.
      strength: λ; the paper takes 3 on CIFAR-10 with symmetric noise.
      beta: β of `ensembled_targets`; the paper takes 0.7.

    References:
      Liu, Niles-Weed, Razavian & Fernandez-Granda, Early-Learning Regularization
      Prevents Memorization of Noisy Labels, NeurIPS 2020; ELR, not ELR+.
    """

    strength: float = traced(3.0)
    beta: float = traced(0.7)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "strength", self.strength, 0.0)
        checks.number(setup, "beta", self.beta, 0.0, 1.0)

    def init_state(self, setup: Setup) -> PyTree:
        shape = (setup.examples[self.stream], setup.program.outputs)
        return {"targets": jnp.zeros(shape)}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        constant_logits = jax.lax.stop_gradient(logits)
        batch, memory = context.batches[self.stream], context.state["targets"]
        targets = ensembled_targets(memory[batch["row"]], constant_logits, self.beta)
        context.set_state({"targets": memory.at[batch["row"]].set(targets)})
        value = jnp.mean(example_cross_entropies(logits, batch["y"]))
        value += self.strength * early_learning_penalty(logits, targets)
        p = jnp.exp(log_probabilities(constant_logits))
        agreement = jnp.mean(jnp.sum(p * targets, -1))
        accuracy = losses.label_accuracy(logits, batch["y"])
        return value, {"agreement": agreement, "accuracy": accuracy}
