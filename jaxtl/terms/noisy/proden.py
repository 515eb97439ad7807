"""PRODEN: each example has a set of candidate labels, one of which is correct."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.noisy.base import log_probabilities


def weighted_cross_entropy(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """−Σ_c w_c log p_c, mean over examples; no gradient flows to w.

    Args:
      logits: (batch, K), before the softmax.
      weights: w, (batch, K).

    Returns:
      A scalar in nats.
    """
    log_p = log_probabilities(logits)
    return -jnp.mean(jnp.sum(jax.lax.stop_gradient(weights) * log_p, axis=-1))


def candidate_weights(logits: jax.Array, candidates: jax.Array) -> jax.Array:
    """w_c = p_c / Σ p over the candidates, 0 for all other classes.

    Args:
      logits: (batch, K), before the softmax.
      candidates: (batch, K), above 0 at the candidates.

    Returns:
      (batch, K); zeros for an example without candidates.

    References:
      Lv et al., Progressive Identification of True Labels, ICML 2020, eq. 8.
    """
    log_p = log_probabilities(logits)
    masked = jnp.where(candidates > 0, log_p, -jnp.inf)
    is_empty = ~jnp.any(candidates > 0, axis=-1, keepdims=True)
    # The softmax of an all-masked row would be NaN.
    return jnp.where(is_empty, 0.0, jax.nn.softmax(jnp.where(is_empty, log_p, masked)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PRODEN(Term):
    """`weighted_cross_entropy` with weights from the model's previous predictions.

    The labels are a matrix of 0 and 1, (n, classes), with 1 at the candidates, which
    makes the task "multilabel". The model is trained with a softmax all the same, so
    its prediction is the largest logit; the metrics of the task, which judge each
    output by itself, say little (compare `probabilities.argmax` with the true classes
    instead). The state holds K weights per example: those of an example that was never
    in a batch are uniform over its candidates; an example without candidates counts as
    0. Reports the mean number of "candidates" and the mean largest weight, "certainty".

    Attributes:
      stream: name of the stream.

    References:
      Lv, Xu, Feng, Niu, Geng & Sugiyama, Progressive Identification of True Labels for
      Partial-Label Learning, ICML 2020, algorithm 1.
    """

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.task(setup, "PRODEN", "multilabel")
        checks.classes(setup, "stream", self.stream)

    def init_state(self, setup: Setup) -> PyTree:
        shape = (setup.examples[self.stream], setup.program.outputs)
        return {"weights": jnp.zeros(shape)}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        batch, memory = context.batches[self.stream], context.state["weights"]
        candidates = batch["y"].astype(jnp.float32)
        counts = candidates.sum(-1, keepdims=True)
        previous = memory[batch["row"]]
        was_seen = previous.sum(-1, keepdims=True) > 0
        uniform = candidates / jnp.maximum(counts, 1.0)
        weights = jnp.where(was_seen, previous, uniform)
        updated = candidate_weights(jax.lax.stop_gradient(logits), candidates)
        context.set_state({"weights": memory.at[batch["row"]].set(updated)})
        certainty = jnp.mean(weights.max(-1))
        metrics = {"candidates": jnp.mean(counts), "certainty": certainty}
        return weighted_cross_entropy(logits, weights), metrics
