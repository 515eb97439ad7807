"""MixMatch: guess labels, sharpen them, and mix everything with everything."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup
from jaxtl.terms.semi import augmented_views, pseudo_targets

PAPER_RAMP = schedules.LinearRamp(final=75.0, start=0.0, end=0.016)


def guess(logits, temperature) -> jax.Array:
    """Returns the sharpened mean prediction over views, held constant.

    Args:
      logits: K arrays (n, classes).
      temperature: T.

    References:
      Berthelot et al., MixMatch, NeurIPS 2019, eq. 6 and 7.
    """
    mean = sum(pseudo_targets.held(x) for x in logits) / len(logits)
    return pseudo_targets.sharpen(mean, temperature)


def mix(key, x, p, alpha) -> tuple[jax.Array, jax.Array]:
    """Mixes every example with another of the same rows, drawn without replacement.

    λ·first + (1 − λ)·other with λ = max(λ', 1 − λ'), λ' ~ Beta(α, α) for each example,
    so that a mixed example stays nearer to the first.

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
    order, share = jax.random.split(key)
    other = jax.random.permutation(order, x.shape[0])
    drawn = jax.random.beta(share, alpha, alpha, (x.shape[0],))
    lam = jnp.maximum(drawn, 1 - drawn)

    def between(a):
        at = lam.reshape(-1, *[1] * (a.ndim - 1))
        return (at * a + (1 - at) * a[other]).astype(a.dtype)

    return between(x), between(p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixMatch(pseudo_targets._OnUnlabelled):
    """L_X + λ_U·L_U on mixed examples; the whole loss, labelled part and all.

    So it stands alone in `terms`, without a cross-entropy beside it. L_X is the
    cross-entropy of the mixed labelled examples, L_U the squared distance of the mixed
    unlabelled ones' probabilities to their mixed guesses, mean over examples and
    classes. The first of the K views is the batch as the experiment augments it, whose
    pass moves BatchNorm's running statistics; the mixed batch is one pass of
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

    unlabelled: float | Schedule = traced(PAPER_RAMP)
    temperature: float = traced(0.5)
    alpha: float = traced(0.75)
    views: int = 2
    weak: tuple | None = None
    labelled: str = "target"

    @property
    def streams(self):
        return (self.labelled, self.stream)

    def check(self, setup: Setup):
        checks.stream(setup, "labelled", self.labelled)
        super().check(setup)
        for field in ("temperature", "alpha"):
            checks.positive(setup, field, getattr(self, field))
        checks.number(setup, "unlabelled", self.unlabelled, 0.0)
        augmented_views.check(setup, "weak", self.weak)
        checks.count(setup, "views", self.views)
        if augmented_views.kind(augmented_views.first(setup, self.stream)) == "tokens":
            raise UserError(
                f"terms.{setup.name}: MixMatch mixes inputs, and token ids can't be "
                "mixed; for texts take tl.semi.UDA or tl.semi.FixMatch."
            )

    def __call__(self, context):
        inputs = self._views(context)
        first = context.forward(self.stream).logits
        others = [context.run(x).logits for x in inputs[1:]]
        guesses = guess([first, *others], self.temperature)
        batch = context.batches[self.labelled]
        labels = batch["y"]
        if labels.ndim == 1:
            labels = jax.nn.one_hot(labels, first.shape[-1], dtype=guesses.dtype)
        x = jnp.concatenate([batch["x"], *inputs])
        p = jnp.concatenate([labels, *[guesses] * self.views])
        mixed, wanted = mix(jax.random.fold_in(context.key, 0), x, p, self.alpha)
        logits = context.run(mixed).logits
        n = len(labels)
        labelled = losses.cross_entropy(logits[:n], wanted[:n])
        unlabelled = pseudo_targets.squared_distance(
            pseudo_targets.softmax(logits[n:]), wanted[n:]
        )
        factor = schedules.value(self.unlabelled, context.step, context.steps)
        extra = {
            "labelled": labelled,
            "unlabelled": unlabelled,
            "confidence": guesses.max(-1).mean(),
        }
        return labelled + factor * unlabelled, extra

    def _views(self, context) -> list:
        """Returns the inputs of the K views of the unlabelled batch."""
        x = context.batches[self.stream]["x"]
        operations = augmented_views.weak(self.weak, x)
        found = [x]
        for place in range(1, self.views):
            key = jax.random.fold_in(context.key, place)
            found.append(context.view(self.stream, operations, key))
        return found
