"""SHOT: adaptation to the source's fixed classifier, without the source's data."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import Network, PyTree, vectors
from jaxtl.models.layers.sequences import unit_length
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.domain.entropy import entropy
from jaxtl.terms.domain.initial_predictions import predict_stream


def information_maximization(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean over examples of H(δ), Σ_k p̄_k log p̄_k), δ = softmax(logits), in nats.

    The first is small where each prediction is certain, the second, in [−log K, 0],
    where all classes are predicted equally often; their sum is minus the mutual
    information of inputs and predictions.

    Args:
      logits: (batch, K).

    Returns:
      Two scalars.

    References:
      Liang, Hu, Feng, Do We Really Need to Access the Source Data? Source Hypothesis
      Transfer for Unsupervised Domain Adaptation, ICML 2020, eq. 3.
    """
    mean = jnp.mean(jax.nn.softmax(logits), axis=0)
    # 0 · log 0 = 0, with a finite gradient.
    log_mean = jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))
    return jnp.mean(entropy(logits)), jnp.sum(mean * log_mean)


def _centroids(features: jax.Array, weights: jax.Array) -> jax.Array:
    """c_k = Σ_n w_nk g_n / Σ_n w_nk, (K, d); 0 where a class has no weight.

    Args:
      features: g, (n, d).
      weights: w, (n, K), at least 0.
    """
    total = weights.sum(0)[:, None]
    sums = jnp.matmul(weights.T, features, precision="highest")
    return sums / jnp.where(total > 0, total, 1.0)


def _nearest_centroid(features: jax.Array, centroids: jax.Array) -> jax.Array:
    """Class of the centroid at the smallest cosine distance, (n,).

    Args:
      features: (n, d).
      centroids: (K, d); a centroid of zeros is never the nearest.
    """
    cosine = jnp.matmul(
        unit_length(features), unit_length(centroids).T, precision="highest"
    )
    is_defined = jnp.any(centroids != 0, axis=-1)
    return jnp.argmax(jnp.where(is_defined, cosine, -jnp.inf), axis=-1)


def centroid_labels(
    features: jax.Array, probabilities: jax.Array, mask: jax.Array
) -> jax.Array:
    """Pseudo-labels by the nearest centroid, in two rounds.

    In the first round the predictions δ_k weight the centroids; in the second one each
    centroid is the mean of the examples that the first round assigned to its class. As
    in the authors' program a 1 is appended to each example's features, and the result
    is divided by its norm: lengths count, relative to 1, and no example weighs more
    than another.

    Args:
      features: g, (n, d).
      probabilities: δ, (n, K).
      mask: (n,) bools; only examples where it is true influence the centroids.

    Returns:
      (n,) class indices.

    References:
      Liang et al., as `information_maximization`, eq. 4 to 6 (cosine distance); the
      appended 1 is in the authors' program (tim-learn/SHOT, `obtain_label`), not in
      the paper.
    """
    ones = jnp.ones((len(features), 1), features.dtype)
    features = unit_length(jnp.concatenate([features, ones], axis=1))
    factors = mask[:, None].astype(probabilities.dtype)
    first = _nearest_centroid(features, _centroids(features, probabilities * factors))
    members = jax.nn.one_hot(first, probabilities.shape[-1], dtype=factors.dtype)
    return _nearest_centroid(features, _centroids(features, members * factors))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SHOT(Term):
    """H(δ) + `diversity` · Σ p̄ log p̄ + `labels` · cross-entropy to pseudo-labels.

    The source is a model, not data: start from one that was trained there with label
    smoothing (`CrossEntropy(label_smoothing=0.1)`, as in the paper), freeze its head
    (`groups={"head": tl.FROZEN, ".*": 1.0}`, so that features move to the hypothesis)
    and use no other term. Pseudo-labels are computed from each example's latest
    features and predictions, which the term's state stores (at first those of the
    initial model); the paper runs the model over all examples anew each time. Reports
    both parts of the information, the pseudo-labels' cross-entropy and the share of
    examples whose pseudo-label is also the predicted class.

    Attributes:
      target: stream that the model adapts to; its labels are not used.
      stage: stage whose output the centroids are computed from; None is the last one
        before the head.
      diversity: factor of the diversity; 1 in the paper.
      labels: β, factor of the pseudo-labels' cross-entropy; 0.3 in the paper (0.1 for
        digits), and 0 is SHOT-IM.
      every: steps between two updates of the pseudo-labels.

    References:
      Liang et al., as `information_maximization`.
    """

    compares: ClassVar[str] = "the mean prediction"

    target: str = stream_field("unlabelled")
    stage: str | None = None
    diversity: float = traced(1.0)
    labels: float = traced(0.3)
    every: int = 100

    def check(self, setup: Setup) -> None:
        checks.task(setup, "SHOT", "classification")
        checks.stream(setup, "target", self.target)
        checks.stage(setup, "stage", self._stage_name(setup.program.network))
        checks.number(setup, "diversity", self.diversity, 0.0)
        checks.number(setup, "labels", self.labels, 0.0)
        checks.number(setup, "every", self.every, 1)

    def describe(self, setup: Setup) -> str:
        head = setup.program.network.stages[-1]
        if any(jax.tree.leaves(setup.program.trainable_mask.get(head, {}))):
            return f"trains {head!r} too, which the paper freezes (groups: tl.FROZEN)"
        return f"adapts to the source's {head!r}, which is frozen"

    def init_state(self, setup: Setup) -> PyTree:
        stage = self._stage_name(setup.program.network)
        predictions = predict_stream(setup, self.target, stage)
        labels = jnp.zeros(len(predictions["seen"]), jnp.int32)
        return {**predictions, "labels": labels}

    def _stage_name(self, network: Network) -> str:
        return feature_stage(network.stages, self.stage)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        output = context.forward(self.target)
        logits = vectors(output.logits)
        features = vectors(output.features[self._stage_name(context.program.network)])
        labels = self._update(context, features, logits)
        uncertainty, negative_diversity = information_maximization(logits)
        pseudo = -jnp.mean(losses.label_log_probabilities(logits, labels))
        information = uncertainty + self.diversity * negative_diversity
        agreement = (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)
        return information + self.labels * pseudo, {
            "entropy": uncertainty,
            "diversity": -negative_diversity,
            "pseudo": pseudo,
            "agreement": jnp.mean(agreement),
        }

    def _update(
        self, context: View, features: jax.Array, logits: jax.Array
    ) -> jax.Array:
        """Stores the batch's features and predictions; its pseudo-labels, (batch,)."""
        rows, state = context.batches[self.target]["row"], context.state
        batch = {
            "features": features,
            "probabilities": jax.nn.softmax(logits),
            "seen": jnp.ones(len(rows), bool),
        }
        batch = jax.lax.stop_gradient(batch)
        latest = {name: state[name].at[rows].set(batch[name]) for name in batch}
        labels = jax.lax.cond(
            context.step % self.every == 0,
            lambda: centroid_labels(
                latest["features"], latest["probabilities"], latest["seen"]
            ).astype(jnp.int32),
            lambda: state["labels"],
        )
        context.set_state({**latest, "labels": labels})
        return labels[rows]
