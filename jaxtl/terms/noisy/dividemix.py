"""DivideMix: two networks divide each other's examples into clean and wrong labels."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.noisy import loss_mixtures, second_network
from jaxtl.terms.noisy.base import (
    NoisyLabelTerm,
    example_cross_entropies,
    log_probabilities,
)
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean


def sharpen(p: jax.Array, temperature: ArrayLike) -> jax.Array:
    """p^(1/T) divided by its sum over the last axis; T < 1 lowers the entropy.

    Args:
      p: probabilities, (..., K); at least 1e-12 is taken.
      temperature: T > 0.

    Returns:
      (..., K).
    """
    return jax.nn.softmax(jnp.log(jnp.maximum(p, 1e-12)) / temperature, axis=-1)


def refine_labels(
    p: jax.Array, labels: jax.Array, clean: jax.Array, temperature: ArrayLike
) -> jax.Array:
    """Label co-refinement: sharpened w · label + (1 − w) · p.

    Args:
      p: (batch, K), the network's own predictions, a mean over views.
      labels: (batch, K), one-hot observed labels.
      clean: (batch,), w, the probability that each is clean.
      temperature: T.

    Returns:
      (batch, K).

    References:
      Li et al., DivideMix, ICLR 2020, eq. 3 and 4.
    """
    clean = clean[:, None]
    return sharpen(clean * labels + (1 - clean) * p, temperature)


def dividemix_losses(
    logits: jax.Array,
    targets: jax.Array,
    labelled: jax.Array,
    mean: WeightedMean = weighted_mean,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three parts (L_X, L_U, L_reg) of the loss of mixed examples.

    L_X is the cross-entropy, a mean over labelled examples; L_U the squared difference
    of probabilities, a mean over all others and over classes; L_reg = Σ_c (1/K) ·
    log((1/K) / p̄_c), p̄ the mean prediction over all. A part without examples is 0.

    Args:
      logits: (n, K).
      targets: (n, K) distributions.
      labelled: (n,), 1 or 0.
      mean: of the labelled and of all others; `View.mean` where a batch is cut.

    Returns:
      Three scalars.

    References:
      Li et al., DivideMix, ICLR 2020, eq. 9 to 12.
    """
    log_p = log_probabilities(logits)
    p = jnp.exp(log_p)
    cross_entropies = -jnp.sum(targets * log_p, axis=-1)
    squares = jnp.mean(jnp.square(p - targets), axis=-1)
    unlabelled = 1 - labelled
    l_x, l_u = mean(cross_entropies, labelled), mean(squares, unlabelled)
    mean_p = jnp.maximum(p.mean(0), 1e-12)
    return l_x, l_u, -jnp.mean(jnp.log(mean_p)) - jnp.log(float(logits.shape[-1]))


def _mix(
    key: jax.Array,
    x: jax.Array,
    targets: jax.Array,
    alpha: ArrayLike,
    is_warmup: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """MixUp with the larger share kept: ℓ ~ Beta(α, α), max(ℓ, 1 − ℓ); 1 in warm-up."""
    share_key, permutation_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha)
    share = jnp.where(is_warmup, 1.0, jnp.maximum(share, 1 - share))
    partner = jax.random.permutation(permutation_key, len(x))
    # The share is float32: inputs of half precision keep their type.
    mixed = (share * x + (1 - share) * x[partner]).astype(x.dtype)
    return mixed, share * targets + (1 - share) * targets[partner]


class _Predictions(NamedTuple):
    """Predictions of both networks for a batch, through which no gradient flows.

    Attributes:
      probabilities: (2, batch, K), a mean over views.
      losses: (2, batch), cross-entropies of the observed labels in the first view.
      stats: the second network's BatchNorm statistics after its training pass.
    """

    probabilities: jax.Array
    losses: jax.Array
    stats: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivideMix(NoisyLabelTerm):
    """Two networks; a mixture fitted to one's losses divides the batch for the other.

    Differences to the paper, all because a step sees one batch:
    - labelled and unlabelled examples are those of the same batch, so the labelled part
      is as large as the mixture makes it, not as large as the unlabelled one;
    - the loss of an example is that of its last pass in training, not of an evaluation
      of all; the mixture is fitted every `every` steps, and an example is divided by
      its current loss under the last fitted mixture;
    - both networks take their step at the same time, and both predict in training mode;
    - each network's BatchNorm statistics follow the batches as they are, not the mixed
      ones;
    - no confidence penalty in the warm-up (the paper's, for asymmetric noise), no
      average over five epochs' losses (for 90 % noise), and the model alone, not the
      mean of both networks, is evaluated.

    The second network is initialized and trained as in `CoTeaching`. Reports the
    model's L_X as "known" and L_U as "guessed", "clean", the mean probability of being
    clean, and "labelled", the share of examples that keep their label.

    Attributes:
      stream: name of the stream; its inputs are arrays of floats.
      warmup: share of the run's steps with plain cross-entropy (the paper: 10 of 300
        epochs).
      every: steps between two fits of the mixtures.
      threshold: τ; an example more probably clean than this keeps its label.
      temperature: T of sharpening.
      unlabelled: λ_u, weight of the squared difference (the paper: 0 at 20 % noise, 25
        at 50 %).
      ramp: share of the run after the warm-up over which λ_u is reached.
      alpha: mixing shares are drawn from Beta(α, α), the larger part kept.
      penalty: λ_r, weight of L_reg.
      augment: operations that make the further views of the batch, as in `exp.augment`.
      views: views per example, the first being the batch itself; the paper has 2.
      noise: as in `CoTeaching`.

    References:
      Li, Socher & Hoi, DivideMix: Learning with Noisy Labels as Semi-supervised
      Learning, ICLR 2020.
    """

    compares: ClassVar[str] = "mixed examples, the mean prediction"

    warmup: float = traced(0.2)
    every: int = 50
    threshold: float = traced(0.5)
    temperature: float = traced(0.5)
    unlabelled: float = traced(25.0)
    ramp: float = traced(0.05)
    alpha: float = traced(4.0)
    penalty: float = traced(1.0)
    augment: tuple[Any, ...] = ()
    views: int = 1
    noise: float = 0.1

    def check(self, setup: Setup) -> None:
        super().check(setup)
        for field in ("warmup", "threshold", "ramp"):
            checks.number(setup, field, getattr(self, field), 0.0, 1.0)
        for field in ("temperature", "alpha"):
            checks.number(setup, field, getattr(self, field), 1e-3)
        for field in ("unlabelled", "penalty", "noise"):
            checks.number(setup, field, getattr(self, field), 0.0)
        for field in ("every", "views"):
            checks.number(setup, field, getattr(self, field), 1)
        if self.views > 1 and not self.augment:
            raise UserError(
                f"{checks.where(setup, 'views')}={self.views}: without augment= the "
                "views would all be the same."
            )

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        x: Any = next(iter(setup.batches(self.stream)), {}).get("x")
        if isinstance(x, dict) or not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"{checks.where(setup, 'stream')}={self.stream!r}: DivideMix mixes "
                "inputs, and the inputs of this stream are not arrays of floats."
            )
        return second_network.init(key, setup, self.stream, self.noise)

    def init_state(self, setup: Setup) -> PyTree:
        mixtures = loss_mixtures.init_state(setup.examples[self.stream])
        return {**mixtures, "stats": setup.stats}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        batch = context.batches[self.stream]
        second_params = second_network.params(context)
        warmup_end = jnp.floor(self.warmup * context.steps)
        is_warmup = context.step < warmup_end
        views = self._views(context)
        predictions = self._predict(context, views, second_params)
        state = loss_mixtures.store(context.state, batch["row"], predictions.losses)
        is_due = ~is_warmup & ((context.step - warmup_end) % self.every == 0)
        state = jax.lax.cond(is_due, loss_mixtures.fit, lambda state: state, state)
        context.set_state({**state, "stats": predictions.stats})
        clean = loss_mixtures.clean_probabilities(state, predictions.losses)
        clean = jnp.where(is_warmup, 1.0, clean)
        ramp_steps = jnp.maximum(self.ramp * context.steps, 1e-6)
        ramp = jnp.clip((context.step - warmup_end) / ramp_steps, 0.0, 1.0)
        l_u_weight = jnp.where(is_warmup, 0.0, self.unlabelled * ramp)
        l_reg_weight = jnp.where(is_warmup, 0.0, self.penalty)
        total = jnp.float32(0.0)
        metrics: dict[str, Any] = {}
        settings: tuple[dict[str, Any], ...] = (
            {},
            {"params": second_params, "stats": predictions.stats},
        )
        for network, pass_settings in enumerate(settings):
            # Each network learns from the division by the other one's losses.
            division = clean[1 - network]
            targets, labelled = self._targets(
                predictions.probabilities, network, batch["y"], division, is_warmup
            )
            key = jax.random.fold_in(context.key, network)
            targets = jnp.tile(targets, (len(views), 1))
            x, mixed_targets = _mix(
                key, jnp.concatenate(views), targets, self.alpha, is_warmup
            )
            l_x, l_u, l_reg = dividemix_losses(
                context.run(x, **pass_settings).logits,
                mixed_targets,
                jnp.tile(labelled, len(views)),
                context.mean,
            )
            total += l_x + l_u_weight * l_u + l_reg_weight * l_reg
            metrics = metrics or {
                "known": l_x,
                "guessed": l_u,
                "clean": jnp.mean(division),
                "labelled": jnp.mean(labelled),
            }
        return total, metrics

    def _views(self, context: View) -> list[jax.Array]:
        """The batch's inputs, and `views` − 1 augmented ones of the same shape."""
        key = jax.random.fold_in(context.key, 10)
        return [context.batches[self.stream]["x"]] + [
            context.view(self.stream, self.augment, jax.random.fold_in(key, i))
            for i in range(1, self.views)
        ]

    def _predict(
        self, context: View, views: list[jax.Array], second_params: PyTree
    ) -> _Predictions:
        labels = context.batches[self.stream]["y"]
        logits = context.forward(self.stream).logits
        key = jax.random.fold_in(context.key, 11)
        out = second_network.forward(context, self.stream, context.state["stats"], key)
        stop_gradient = jax.lax.stop_gradient
        both = stop_gradient((logits, out.logits))
        losses = jnp.stack([example_cross_entropies(z, labels) for z in both])
        p = jnp.stack([jnp.exp(log_probabilities(z)) for z in both])
        for x in views[1:]:
            outputs = (
                context.run(x),
                context.run(x, params=second_params, stats=out.stats),
            )
            p += jnp.stack([jnp.exp(log_probabilities(o.logits)) for o in outputs])
        p, stats = stop_gradient((p / len(views), out.stats))
        return _Predictions(p, losses, stats)

    def _targets(
        self,
        p: jax.Array,
        network: int,
        labels: jax.Array,
        clean: jax.Array,
        is_warmup: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Targets (batch, K) of one network, and (batch,) 1 where it is labelled."""
        observed = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
        labelled = (clean > self.threshold).astype(p.dtype)
        refined = refine_labels(p[network], observed, clean, self.temperature)
        guessed = sharpen(p.mean(0), self.temperature)  # label co-guessing, eq. 5
        targets = jnp.where(labelled[:, None] > 0, refined, guessed)
        targets = jnp.where(is_warmup, observed, targets)
        return targets, jnp.where(is_warmup, 1.0, labelled)
