"""UDA: consistency of an example's prediction with that of its strong augmentation."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.optim import schedules
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.semi import augmented_views, pseudo_targets
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean

_RISES = ("linear", "log", "exp")


def signal_threshold(rise: str, progress: jax.Array, classes: int) -> jax.Array:
    """η_t = α_t · (1 − 1/K) + 1/K.

    α_t is t/T for "linear", 1 − exp(−5·t/T) for "log", exp(5·(t/T − 1)) for "exp".

    Args:
      rise: one of the three.
      progress: t/T in [0, 1].
      classes: K.

    Returns:
      A scalar in [1/K, 1].

    References:
      Xie et al., UDA, NeurIPS 2020 (arXiv:1904.12848): training signal annealing.
    """
    alpha = {
        "linear": progress,
        "log": 1 - jnp.exp(-5.0 * progress),
        "exp": jnp.exp(5.0 * (progress - 1)),
    }[rise]
    return alpha * (1 - 1 / classes) + 1 / classes


def annealed_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    threshold: float | jax.Array,
    mean: WeightedMean = weighted_mean,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the examples whose label has p ≤ η, and their share.

    Args:
      logits: (n, K).
      labels: (n,) class indices.
      threshold: η.
      mean: of the examples that count; `View.mean` where a batch is cut.

    Returns:
      (mean over those examples in nats, 0 where there are none; their share of n).

    References:
      As `signal_threshold`.
    """
    log_p = losses.label_log_probabilities(logits, labels)
    mask = (jnp.exp(jax.lax.stop_gradient(log_p)) <= threshold).astype(log_p.dtype)
    return mean(-log_p, mask), mask.mean()


def consistency(
    weak: jax.Array,
    strong: jax.Array,
    temperature: float | jax.Array,
    threshold: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """1/n Σ 1(max p ≥ β) · KL(p_T ‖ q), and the mask.

    Args:
      weak: logits of the examples themselves, (n, K), without gradient; p is their
        softmax, p_T that of logits/T.
      strong: logits of the augmented examples, (n, K); q is their softmax.
      temperature: T.
      threshold: β.

    Returns:
      (the value in nats, the mask (n,)).

    References:
      Xie et al., UDA, NeurIPS 2020.
    """
    weak = jax.lax.stop_gradient(as_float32(weak))
    _, mask = pseudo_targets.pseudo_labels(pseudo_targets.softmax(weak), threshold)
    value = pseudo_targets.kl(pseudo_targets.softmax(weak / temperature), strong)
    return jnp.mean(mask * value), mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class UDA(pseudo_targets.UnlabelledTerm):
    """KL from sharpened predictions of a batch to those of its strong view.

    `consistency`: uncertain examples don't count, and the mean is over all. The targets
    are the predictions of the batch's own pass, in training mode. The paper's loss of
    few labelled examples is `AnnealedCrossEntropy`. Reports "mask", the share of
    examples that count.

    Attributes:
      temperature: T.
      threshold: β; 0.8 on CIFAR-10, 0.45 to 0.8 elsewhere. With 2 classes 0.5 has no
        effect: take about 0.9.
      strong: operations of the strong view, on stored values; None takes the defaults
        (`augmented_views.strong_operations`).
      stream: name of the stream; its labels are not used.

    References:
      Xie et al., Unsupervised Data Augmentation for Consistency Training, NeurIPS
      2020: consistency, masking by confidence, and sharpening.
    """

    temperature: float = traced(0.4)
    threshold: float = traced(0.8)
    strong: tuple | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "temperature", self.temperature)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)
        augmented_views.check_strong(setup, self.stream, self.strong)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        weak, strong = augmented_views.weak_and_strong_logits(
            context, self.stream, self.strong
        )
        value, mask = consistency(weak, strong, self.temperature, self.threshold)
        return value, {"mask": mask.mean()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealedCrossEntropy(Term):
    """`annealed_cross_entropy` of the labelled examples, with a rising threshold.

    Takes the place of `losses.CrossEntropy` where labels are few: an example counts
    while its label's probability is at most η_t, which rises from 1/K to 1 over the
    run. Reports "accuracy", and "counted", the share of examples that count.

    Attributes:
      rise: "linear", "log" (fast at first) or "exp" (late, for few labels).
      stream: name of the labelled stream.

    References:
      Xie et al., UDA, NeurIPS 2020: training signal annealing.
    """

    rise: Literal["linear", "log", "exp"] = "linear"
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.class_labels(setup, "AnnealedCrossEntropy", "stream", self.stream)
        checks.one_of(setup, "rise", self.rise, _RISES)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        progress = schedules.progress(context.step, context.steps)
        threshold = signal_threshold(self.rise, progress, logits.shape[-1])
        value, counted = annealed_cross_entropy(logits, labels, threshold, context.mean)
        accuracy = losses.label_accuracy(logits, labels)
        return value, {"accuracy": accuracy, "counted": counted}
