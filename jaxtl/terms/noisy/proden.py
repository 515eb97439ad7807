"""PRODEN: each example has a set of candidate labels, one of which is right."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base


def weighted_cross_entropy(logits, weights) -> jax.Array:
    """−Σ_c w_c log p_c, mean over examples; no gradient flows to w (batch, K)."""
    log_p = base.log_probabilities(logits)
    return -jnp.mean(jnp.sum(jax.lax.stop_gradient(weights) * log_p, axis=-1))


def identified(logits, candidates) -> jax.Array:
    """w_c = p_c / Σ p over the candidates, 0 at the others, (batch, K).

    An example without candidates gets zeros.

    References:
      Lv et al., Progressive Identification of True Labels, ICML 2020, eq. 8.
    """
    log_p = base.log_probabilities(logits)
    masked = jnp.where(candidates > 0, log_p, -jnp.inf)
    none = ~jnp.any(candidates > 0, axis=-1, keepdims=True)
    return jnp.where(none, 0.0, jax.nn.softmax(jnp.where(none, log_p, masked)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PRODEN(Term):
    """`weighted_cross_entropy`, its weights being what the model last made of the set.

    Data give candidate sets as a matrix of 0 and 1, (n, classes), which makes the task
    "multilabel"; the model is trained with a softmax all the same, so the largest logit
    is its answer (the metrics of that task, which judge each output by itself, say
    little; `probabilities.argmax` against the true classes is what to look at). It
    remembers K numbers for each example; an example seen for the first time has
    uniform weights over its candidates, and one without candidates counts as 0.
    Reports the mean number of "candidates" and the mean largest weight, "certainty".

    Attributes:
      stream: name of the stream.

    References:
      Lv, Xu, Feng, Niu, Geng & Sugiyama, Progressive Identification of True Labels for
      Partial-Label Learning, ICML 2020, algorithm 1.
    """

    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, "PRODEN", "multilabel")

    def init_state(self, setup: Setup):
        return {
            "weights": jnp.zeros((setup.examples[self.stream], setup.program.outputs))
        }

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        batch = context.batches[self.stream]
        candidates = batch["y"].astype(jnp.float32)
        count = candidates.sum(-1, keepdims=True)
        uniform = candidates / jnp.maximum(count, 1.0)
        memory = context.state["weights"]
        known = memory[batch["row"]]
        weights = jnp.where(known.sum(-1, keepdims=True) > 0, known, uniform)
        new = identified(jax.lax.stop_gradient(logits), candidates)
        context.set_state({"weights": memory.at[batch["row"]].set(new)})
        certainty = jnp.mean(weights.max(-1))
        metrics = {"candidates": jnp.mean(count), "certainty": certainty}
        return weighted_cross_entropy(logits, weights), metrics
