"""SHOT: adaptation without the source's data, to the source's own classifier."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree, vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.domain.entropy import entropy
from jaxtl.terms.domain.initial_predictions import first_pass


def information(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean over examples of H(δ), Σ_k p̄_k log p̄_k), δ = softmax(logits), in nats.

    The first is small where each prediction is decided, the second, in [−log K, 0],
    where all classes are predicted alike; their sum is minus the mutual information of
    inputs and predictions.

    Args:
      logits: (batch, K).

    References:
      Liang, Hu, Feng, Do We Really Need to Access the Source Data? Source Hypothesis
      Transfer for Unsupervised Domain Adaptation, ICML 2020, eq. 3.
    """
    mean = jnp.mean(jax.nn.softmax(logits), axis=0)
    # 0 · log 0 = 0, with a finite gradient.
    log = jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))
    return jnp.mean(entropy(logits)), jnp.sum(mean * log)


def centroids(features: jax.Array, weights: jax.Array) -> jax.Array:
    """c_k = Σ_n w_nk g_n / Σ_n w_nk, (K, d); 0 where a class has no weight.

    Args:
      features: g, (n, d).
      weights: w, (n, K), at least 0.
    """
    total = weights.sum(0)[:, None]
    sums = jnp.matmul(weights.T, features, precision="highest")
    return sums / jnp.where(total > 0, total, 1.0)


def nearest(features: jax.Array, centres: jax.Array) -> jax.Array:
    """Class of the centroid at the smallest cosine distance, (n,); ones at 0 never."""

    def unit(x):
        size = jnp.linalg.norm(x, axis=-1, keepdims=True)
        return x / jnp.where(size > 0, size, 1.0)

    cosine = jnp.matmul(unit(features), unit(centres).T, precision="highest")
    there = jnp.any(centres != 0, axis=-1)
    return jnp.argmax(jnp.where(there, cosine, -jnp.inf), axis=-1)


def centroid_labels(
    features: jax.Array, probabilities: jax.Array, seen: jax.Array
) -> jax.Array:
    """Pseudo-labels by the nearest centroid, in two rounds.

    Centroids are first weighted by the predictions δ_k, then those of the examples
    that the first round gave each class.

    Args:
      features: g, (n, d).
      probabilities: δ, (n, K).
      seen: (n,) bools; the others give the centroids nothing.

    Returns:
      (n,) class indices.

    References:
      Liang et al., as `information`, eq. 4 to 6 (cosine distance).
    """
    there = seen[:, None].astype(probabilities.dtype)
    first = nearest(features, centroids(features, probabilities * there))
    member = jax.nn.one_hot(first, probabilities.shape[-1], dtype=there.dtype)
    return nearest(features, centroids(features, member * there))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SHOT(Term):
    """H(δ) + `diversity` · Σ p̄ log p̄ + `labels` · cross-entropy to pseudo-labels.

    The source is a model, not data: begin from one that was trained there with label
    smoothing (`CrossEntropy(label_smoothing=0.1)`, as in the paper), freeze its head
    (`groups={"head": tl.FROZEN, ".*": 1.0}`, so that features move to the hypothesis)
    and give no other term. Pseudo-labels come from a memory of every example's latest
    features and predictions, which begins with the initial model's pass; the paper
    runs such a pass anew each time. Reports both halves of the information, the
    pseudo-labels' cross-entropy and how often they are the model's own predictions.

    Attributes:
      target: stream that is adapted to; its labels are not used.
      stage: whose features the centroids are of; None is the last before the head.
      diversity: factor of the diversity; the paper's is 1.
      labels: β, factor of the pseudo-labels' cross-entropy; the paper's is 0.3 (0.1
        for digits), and 0 is SHOT-IM.
      every: steps between two rounds of labelling.

    References:
      Liang et al., as `information`.
    """

    target: str = "unlabelled"
    stage: str | None = None
    diversity: float = traced(1.0)
    labels: float = traced(0.3)
    every: int = 100

    @property
    def streams(self):
        return (self.target,)

    def check(self, setup: Setup):
        checks.task(setup, "SHOT", "classification")
        checks.stream(setup, "target", self.target)
        checks.stage(setup, "stage", self._stage(setup.program.network))
        checks.number(setup, "diversity", self.diversity, 0.0)
        checks.number(setup, "labels", self.labels, 0.0)
        checks.number(setup, "every", self.every, 1)

    def describe(self, setup: Setup) -> str:
        head = setup.program.network.stages[-1]
        if any(jax.tree.leaves(setup.program.trainable_mask.get(head, {}))):
            return f"trains {head!r} too, which the paper holds (groups: tl.FROZEN)"
        return f"adapts to the source's {head!r}, which stays"

    def init_state(self, setup: Setup) -> PyTree:
        memory = first_pass(setup, self.target, self._stage(setup.program.network))
        return {**memory, "labels": jnp.zeros(len(memory["seen"]), jnp.int32)}

    def _stage(self, network) -> str:
        return feature_stage(network.stages, self.stage)

    def __call__(self, context):
        out = context.forward(self.target)
        logits = vectors(out.logits)
        labels = self._remember(context, out, logits)
        decided, diverse = information(logits)
        log_p = jax.nn.log_softmax(logits)
        own = -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1))
        same = jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype))
        value = decided + self.diversity * diverse + self.labels * own
        return value, {
            "entropy": decided,
            "diversity": -diverse,
            "pseudo": own,
            "agreement": same,
        }

    def _remember(self, context, out, logits) -> jax.Array:
        """Returns the batch's pseudo-labels; brings the memory up to date."""
        rows, old = context.batches[self.target]["row"], context.state
        now = {
            "features": vectors(out.features[self._stage(context.program.network)]),
            "probabilities": jax.nn.softmax(logits),
            "seen": jnp.ones(len(rows), bool),
        }
        now = jax.lax.stop_gradient(now)
        memory = {name: old[name].at[rows].set(now[name]) for name in now}

        def label():
            return centroid_labels(**memory).astype(jnp.int32)

        due = context.step % self.every == 0
        labels = jax.lax.cond(due, label, lambda: old["labels"])
        context.set_state({**memory, "labels": labels})
        return labels[rows]
