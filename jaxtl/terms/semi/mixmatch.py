"""MixMatch: sharpened guessed labels, and mixup of labelled and unlabelled examples."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.semi import augmented_views, pseudo_targets

PAPER_RAMP = schedules.LinearRamp(final=75.0, start=0.0, end=0.016)


def guessed_labels(
    logits: Sequence[jax.Array], temperature: float | jax.Array
) -> jax.Array:
    """Sharpened mean prediction over several views, without gradient.

    Args:
      logits: of each of K views, (n, classes).
      temperature: T.

    Returns:
      (n, classes).

    References:
      Berthelot et al., MixMatch, NeurIPS 2019, eq. 6 and 7.
    """
    probabilities = [pseudo_targets.target_probabilities(view) for view in logits]
    mean = sum(probabilities, jnp.float32(0.0)) / len(probabilities)
    return pseudo_targets.sharpen(mean, temperature)


def mixup(
    key: jax.Array, x: jax.Array, p: jax.Array, alpha: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mixes every example with another of the same batch, drawn without replacement.

    λ·first + (1 − λ)·second with λ = max(λ', 1 − λ'), λ' ~ Beta(α, α) for each example,
    so that a mixed example is nearer to the first.

    Args:
      key: PRNG key.
      x: (n, ...) inputs.
      p: (n, classes) label distributions.
      alpha: α.

    Returns:
      The mixed inputs and distributions.

    References:
      Berthelot et al., MixMatch, NeurIPS 2019, eq. 8 to 11.
    """
    order_key, share_key = jax.random.split(key)
    order = jax.random.permutation(order_key, x.shape[0])
    share = jax.random.beta(share_key, alpha, alpha, (x.shape[0],))
    share = jnp.maximum(share, 1 - share)

    def interpolate(values: jax.Array) -> jax.Array:
        weight = share.reshape(-1, *[1] * (values.ndim - 1))
        mixed = weight * values + (1 - weight) * values[order]
        return mixed.astype(values.dtype)

    return interpolate(x), interpolate(p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixMatch(Term):
    """L_X + λ_U·L_U on mixed examples; the whole loss, with the labelled part.

    So it is the only term that an experiment needs, without a cross-entropy beside it.
    L_X is the cross-entropy of the mixed labelled examples, L_U the squared distance of
    the mixed unlabelled ones' probabilities to their mixed guesses, mean over examples
    and classes. The first of the K views is the batch as the experiment augments it,
    whose pass updates BatchNorm's running statistics; the mixed batch is one pass of
    labelled + K · unlabelled examples. Inputs must be numbers, so texts can't be mixed.
    Reports both parts, and "confidence", the guesses' mean largest probability.

    Attributes:
      unlabelled: λ_U; by default the paper's: rising to 75 over the first 1.6 % of a
        run of a million steps. Take 1 to 25 and a longer rise in short runs.
      temperature: T.
      alpha: α of the Beta distribution.
      views: K.
      weak: operations of the other views, on stored values; None mirrors and shifts
        images, and leaves vectors as they are.
      labelled: name of the labelled stream.
      stream: name of the unlabelled stream; its labels are not used.

    References:
      Berthelot et al., MixMatch: A Holistic Approach to Semi-Supervised Learning,
      NeurIPS 2019, algorithm 1 and eq. 2 to 5.
    """

    compares: ClassVar[str] = "mixed examples"

    unlabelled: float | Schedule = traced(PAPER_RAMP)
    temperature: float = traced(0.5)
    alpha: float = traced(0.75)
    views: int = 2
    weak: tuple | None = None
    labelled: str = stream_field("target")
    stream: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "labelled", self.labelled)
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, "MixMatch", "classification")
        checks.classes(setup, "labelled", self.labelled)
        checks.positive(setup, "temperature", self.temperature)
        checks.positive(setup, "alpha", self.alpha)
        checks.number(setup, "unlabelled", self.unlabelled, 0.0)
        augmented_views.check_operations(setup, "weak", self.weak)
        checks.count(setup, "views", self.views)
        x = augmented_views.first_inputs(setup, self.stream)
        if augmented_views.input_kind(x) == "tokens":
            raise UserError(
                f"terms.{setup.name}: MixMatch mixes inputs, and token ids can't be "
                "mixed; for texts take tl.semi.UDA or tl.semi.FixMatch."
            )

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        views = self._views(context)
        logits = [context.forward(self.stream).logits]
        logits += [context.run(x).logits for x in views[1:]]
        guesses = guessed_labels(logits, self.temperature)
        labelled, unlabelled = self._mixed_losses(context, views, guesses)
        factor = schedules.value(self.unlabelled, context.step, context.steps)
        return labelled + factor * unlabelled, {
            "labelled": labelled,
            "unlabelled": unlabelled,
            "confidence": guesses.max(-1).mean(),
        }

    def _views(self, context: View) -> list[jax.Array]:
        """Inputs of the K views of the unlabelled batch."""
        x = context.batches[self.stream]["x"]
        operations = augmented_views.weak_operations(self.weak, x)
        keys = [jax.random.fold_in(context.key, i) for i in range(1, self.views)]
        return [x, *(context.view(self.stream, operations, key) for key in keys)]

    def _mixed_losses(
        self, context: View, views: list[jax.Array], guesses: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(L_X, L_U) of the mixed batch."""
        batch = context.batches[self.labelled]
        labels, size = batch["y"], len(batch["y"])
        if labels.ndim == 1:
            labels = jax.nn.one_hot(labels, guesses.shape[-1], dtype=guesses.dtype)
        x = jnp.concatenate([batch["x"], *views])
        p = jnp.concatenate([labels, *[guesses] * self.views])
        x, p = mixup(jax.random.fold_in(context.key, 0), x, p, self.alpha)
        logits = context.run(x).logits
        labelled = losses.cross_entropy(logits[:size], p[:size])
        probabilities = pseudo_targets.softmax(logits[size:])
        return labelled, pseudo_targets.squared_distance(probabilities, p[size:])
