"""Early-learning regularization: hold on to what was predicted before memorising."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base

CLIP = 1e-4  # probabilities stay this far from 0 and 1, as in the paper's code


def early_learning(logits, targets) -> jax.Array:
    """log(1 − ⟨p, t⟩), mean over examples; no gradient flows to t.

    It falls as the prediction p agrees with t, and its gradient pushes towards t with
    a strength that cancels the cross-entropy's at examples whose label disagrees.

    Args:
      logits: (batch, K), before the softmax.
      targets: (batch, K), t, a running average of earlier predictions; rows sum to at
        most 1.

    References:
      Liu et al., Early-Learning Regularization, NeurIPS 2020, eq. 6.
    """
    p = jnp.clip(jnp.exp(base.log_probabilities(logits)), CLIP, 1 - CLIP)
    inner = jnp.sum(p * jax.lax.stop_gradient(targets), axis=-1)
    return jnp.mean(jnp.log1p(-inner))


def averaged(targets, logits, beta) -> jax.Array:
    """β · t + (1 − β) · p, (batch, K): eq. 9 of the paper, temporal ensembling.

    p is clipped to [1e-4, 1 − 1e-4] and sums to 1 again.
    """
    p = jnp.clip(jnp.exp(base.log_probabilities(logits)), CLIP, 1 - CLIP)
    return beta * targets + (1 - beta) * p / p.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELR(Term):
    """Cross-entropy + λ · `early_learning` of a stream's batch.

    It remembers K numbers for each example of the data set, which start at 0 and are
    averaged whenever the example comes by, before they are used. Reports the mean
    ⟨p, t⟩, "agreement".

    Attributes:
      stream: name of the stream.
      strength: λ; the paper takes 3 on CIFAR-10 with symmetric noise.
      beta: of the average over an example's earlier predictions; the paper takes 0.7.

    References:
      Liu, Niles-Weed, Razavian & Fernandez-Granda, Early-Learning Regularization
      Prevents Memorization of Noisy Labels, NeurIPS 2020; ELR, not ELR+.
    """

    stream: str = "target"
    strength: float = traced(3.0)
    beta: float = traced(0.7)

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        base.check_classes(setup, "ELR", self.stream)
        checks.number(setup, "strength", self.strength, 0.0)
        checks.number(setup, "beta", self.beta, 0.0, 1.0)

    def init_state(self, setup: Setup):
        return {
            "targets": jnp.zeros((setup.examples[self.stream], setup.program.outputs))
        }

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        batch = context.batches[self.stream]
        memory, held = context.state["targets"], jax.lax.stop_gradient(logits)
        targets = averaged(memory[batch["row"]], held, self.beta)
        context.set_state({"targets": memory.at[batch["row"]].set(targets)})
        value = jnp.mean(base.per_example(logits, batch["y"]))
        value += self.strength * early_learning(logits, targets)
        p = jnp.exp(base.log_probabilities(held))
        agreement = jnp.mean(jnp.sum(p * targets, -1))
        accuracy = base.accuracy(logits, batch["y"])
        return value, {"agreement": agreement, "accuracy": accuracy}
