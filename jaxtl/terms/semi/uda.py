"""UDA: a strongly changed example should be answered like the example itself."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.optim import schedules
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.semi import augmented_views, pseudo_targets

RISES = ("linear", "log", "exp")


def signal_threshold(rise: str, progress, classes: int) -> jax.Array:
    """η_t = α_t · (1 − 1/K) + 1/K.

    α_t is t/T for "linear", 1 − exp(−5·t/T) for "log", exp(5·(t/T − 1)) for "exp".

    Args:
      rise: one of the three.
      progress: t/T in [0, 1].
      classes: K.

    References:
      Xie et al., UDA, NeurIPS 2020 (arXiv:1904.12848): training signal annealing.
    """
    alpha = {
        "linear": progress,
        "log": 1 - jnp.exp(-5.0 * progress),
        "exp": jnp.exp(5.0 * (progress - 1)),
    }[rise]
    return alpha * (1 - 1 / classes) + 1 / classes


def annealed_cross_entropy(logits, labels, threshold) -> tuple[jax.Array, jax.Array]:
    """Returns (cross-entropy of the examples whose label has p ≤ η, their share).

    The mean is over those examples, 0 where there are none.

    Args:
      logits: (n, K).
      labels: (n,) classes.
      threshold: η.
    """
    log_p = jax.nn.log_softmax(pseudo_targets.wide(logits))
    hit = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    counted = (jnp.exp(jax.lax.stop_gradient(hit)) <= threshold).astype(hit.dtype)
    return -jnp.sum(counted * hit) / jnp.maximum(counted.sum(), 1), counted.mean()


def consistency(weak, strong, temperature, threshold) -> tuple[jax.Array, jax.Array]:
    """Returns (1/n Σ 1(max p ≥ β) · KL(p_T ‖ q), the mask).

    Args:
      weak: logits of the examples themselves, (n, K); p is their softmax, p_T that of
        logits/T; held constant.
      strong: logits of the changed examples; q is their softmax.
      temperature: T.
      threshold: β.
    """
    weak = jax.lax.stop_gradient(pseudo_targets.wide(weak))
    _, mask = pseudo_targets.selected(pseudo_targets.softmax(weak), threshold)
    value = pseudo_targets.kl(pseudo_targets.softmax(weak / temperature), strong)
    return jnp.mean(mask * value), mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class UDA(pseudo_targets._OnUnlabelled):
    """KL from sharpened predictions of a batch to those of its strong view.

    `consistency`: unsure examples don't count, and the mean is over all. The batch's
    own pass, in training mode, gives the targets. The paper's loss of few labelled
    examples is `AnnealedCrossEntropy`. Reports "mask", the share that counts.

    Attributes:
      temperature: T.
      threshold: β; 0.8 on CIFAR-10, 0.45 to 0.8 elsewhere. With 2 classes 0.5 means
        nothing: take 0.9 or so.
      strong: operations of the strong view, on stored values; None is what is usual
        (`views.strong`).
      stream: name of the stream; its labels are not used.

    References:
      Xie et al., Unsupervised Data Augmentation for Consistency Training, NeurIPS
      2020: consistency, masking by confidence, and sharpening.
    """

    temperature: float = traced(0.4)
    threshold: float = traced(0.8)
    strong: tuple | None = None

    def check(self, setup: Setup):
        super().check(setup)
        checks.positive(setup, "temperature", self.temperature)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)
        augmented_views.check_strong(setup, self.stream, self.strong)

    def __call__(self, context):
        weak, strong = augmented_views.pair(context, self.stream, self.strong)
        value, mask = consistency(weak, strong, self.temperature, self.threshold)
        return value, {"mask": mask.mean()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealedCrossEntropy(Term):
    """Cross-entropy of the labelled examples that are not yet learned too well.

    Takes the place of `losses.CrossEntropy` where labels are few: an example counts
    while its label's probability is at most η_t, which rises from 1/K to 1 over the
    run. Reports "accuracy", and "counted", the share that counts.

    Attributes:
      rise: "linear", "log" (fast at first) or "exp" (late, for few labels).
      stream: name of the labelled stream.

    References:
      Xie et al., UDA, NeurIPS 2020: training signal annealing.
    """

    rise: Literal["linear", "log", "exp"] = "linear"
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, "AnnealedCrossEntropy", "classification")
        checks.one_of(setup, "rise", self.rise, RISES)

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        progress = schedules.progress(context.step, context.steps)
        threshold = signal_threshold(self.rise, progress, logits.shape[-1])
        value, counted = annealed_cross_entropy(logits, labels, threshold)
        hits = jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))
        return value, {"accuracy": hits, "counted": counted}
