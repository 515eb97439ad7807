"""DivideMix: two networks sort each other's labels; the bad ones count as missing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base, gaussian_mixture, second_network


def sharpened(p: jax.Array, temperature) -> jax.Array:
    """p^(1/T) over its sum along the last axis; T < 1 makes it surer."""
    return jax.nn.softmax(jnp.log(jnp.maximum(p, 1e-12)) / temperature, axis=-1)


def refined(p, labels, clean, temperature) -> jax.Array:
    """Co-refinement: sharpened w · label + (1 − w) · p, (batch, K).

    Args:
      p: (batch, K), the network's own predictions, a mean over views.
      labels: (batch, K), one-hot given labels.
      clean: (batch,), w, how probably each is clean.
      temperature: T.

    References:
      Li et al., DivideMix, ICLR 2020, eq. 3 and 4.
    """
    clean = clean[:, None]
    return sharpened(clean * labels + (1 - clean) * p, temperature)


def mixed_losses(logits, targets, labelled) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (L_X, L_U, L_reg) of mixed examples.

    L_X is the cross-entropy, a mean over labelled examples; L_U the squared difference
    of probabilities, a mean over the others and over classes; L_reg = Σ_c (1/K) ·
    log((1/K) / p̄_c), p̄ the mean prediction over all. A part without examples is 0.

    Args:
      logits: (n, K).
      targets: (n, K) distributions.
      labelled: (n,), 1 or 0.

    References:
      Li et al., DivideMix, ICLR 2020, eq. 9 to 12.
    """
    log_p = base.log_probabilities(logits)
    p = jnp.exp(log_p)
    known = -jnp.sum(targets * log_p, axis=-1)
    guessed = jnp.mean(jnp.square(p - targets), axis=-1)
    rest = 1 - labelled
    on_known = jnp.sum(known * labelled) / jnp.maximum(labelled.sum(), 1.0)
    on_guessed = jnp.sum(guessed * rest) / jnp.maximum(rest.sum(), 1.0)
    mean = jnp.maximum(p.mean(0), 1e-12)
    classes = logits.shape[-1]
    return on_known, on_guessed, -jnp.mean(jnp.log(mean)) - jnp.log(float(classes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivideMix(Term):
    """Two networks; a mixture fitted to one's losses divides the batch for the other.

    Differences to the paper, all because a step sees one batch:
    - labelled and unlabelled examples are those of the same batch, so the labelled part
      is as large as the mixture finds it, not as large as the unlabelled one;
    - the loss of an example is that of its last pass in training, not of an evaluation
      of all; the mixture is fitted every `every` steps, and an example is judged by its
      current loss under the last fitted mixture;
    - both networks take their step at the same time, and both guess in training mode;
    - each network's BatchNorm statistics follow the batches as they are, not the mixed
      ones;
    - no confidence penalty in the warm-up (the paper's, for asymmetric noise), no
      average over five epochs' losses (for 90 % noise), and the model alone, not the
      mean of both networks, is evaluated.

    The second network is made and trained as in `CoTeaching`. Reports "clean", the mean
    probability of being clean, and "labelled", the share that keeps its label.

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
      augment: what further views of the batch are made by, as in `exp.augment`.
      views: views per example, the first being the batch itself; the paper has 2.
      noise: as in `CoTeaching`.

    References:
      Li, Socher & Hoi, DivideMix: Learning with Noisy Labels as Semi-supervised
      Learning, ICLR 2020.
    """

    stream: str = "target"
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

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        base.check_classes(setup, "DivideMix", self.stream)
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

    def init(self, key, setup):
        x = next(iter(setup.batches(self.stream)), {}).get("x")
        if isinstance(x, dict) or not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"{checks.where(setup, 'stream')}={self.stream!r}: DivideMix mixes "
                "inputs, and these are no arrays of floats."
            )
        return second_network.init(key, setup, self.stream, self.noise)

    def init_state(self, setup):
        count = setup.examples[self.stream]
        blank = gaussian_mixture.Mixture(jnp.zeros(2), jnp.ones(2), jnp.full(2, 0.5))
        return {
            "losses": jnp.zeros((2, count)),
            "seen": jnp.zeros(count),
            "span": jnp.tile(jnp.asarray([[0.0, 1.0]]), (2, 1)),
            "mixtures": jax.tree.map(lambda x: jnp.stack([x, x]), blank),
            "stats": setup.stats,
        }

    def __call__(self, context):
        batch, state = context.batches[self.stream], context.state
        start = jnp.floor(self.warmup * context.steps)
        warm = context.step < start
        views = self._views(context)
        own = second_network.params(context)
        p, losses, stats = self._guess(context, views, own)
        state = _remembered(state, batch["row"], losses)
        due = ~warm & ((context.step - start) % self.every == 0)
        state = jax.lax.cond(due, _fitted, lambda state: state, state)
        context.set_state({**state, "stats": stats})
        clean = jnp.where(warm, 1.0, _clean(state, losses))
        gone = (context.step - start) / jnp.maximum(self.ramp * context.steps, 1e-6)
        weights = (
            jnp.where(warm, 0.0, self.unlabelled * jnp.clip(gone, 0.0, 1.0)),
            jnp.where(warm, 0.0, self.penalty),
        )
        total, metrics = jnp.float32(0.0), {}
        passes = (context.run, lambda x: context.run(x, params=own, stats=stats))
        for which, run in enumerate(passes):
            # Each network learns from how the other divides.
            divided = clean[1 - which]
            targets, labelled = self._targets(p, which, batch["y"], divided, warm)
            key = jax.random.fold_in(context.key, which)
            x, mixed, kept = self._mix(key, views, targets, labelled, warm)
            parts = mixed_losses(run(x).logits, mixed, kept)
            total += parts[0] + weights[0] * parts[1] + weights[1] * parts[2]
            metrics = metrics or {
                "known": parts[0],
                "guessed": parts[1],
                "clean": jnp.mean(divided),
                "labelled": jnp.mean(labelled),
            }
        return total, metrics

    def _views(self, context) -> list:
        key = jax.random.fold_in(context.key, 10)
        return [context.batches[self.stream]["x"]] + [
            context.view(self.stream, self.augment, jax.random.fold_in(key, i))
            for i in range(1, self.views)
        ]

    def _guess(self, context, views, own):
        """Returns mean p over views (2, batch, K), losses (2, batch), statistics."""
        labels = context.batches[self.stream]["y"]
        ours = context.forward(self.stream).logits
        key = jax.random.fold_in(context.key, 11)
        out = second_network.forward(context, self.stream, context.state["stats"], key)
        firsts = jax.lax.stop_gradient((ours, out.logits))
        losses = jnp.stack([base.per_example(x, labels) for x in firsts])
        p = jnp.stack([jnp.exp(base.log_probabilities(x)) for x in firsts])
        for x in views[1:]:
            more = context.run(x), context.run(x, params=own, stats=out.stats)
            p += jnp.stack([jnp.exp(base.log_probabilities(m.logits)) for m in more])
        hold = jax.lax.stop_gradient
        return hold(p / len(views)), losses, hold(out.stats)

    def _targets(self, p, which: int, labels, clean, warm):
        """Returns (targets (batch, K), 1 where labelled)."""
        given = jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
        labelled = (clean > self.threshold).astype(p.dtype)
        ours = refined(p[which], given, clean, self.temperature)
        guessed = sharpened(p.mean(0), self.temperature)  # co-guessing, eq. 5
        targets = jnp.where(labelled[:, None] > 0, ours, guessed)
        return jnp.where(warm, given, targets), jnp.where(warm, 1.0, labelled)

    def _mix(self, key, views, targets, labelled, warm):
        """Returns inputs and targets of all views mixed with others', and the mask."""
        x = jnp.concatenate(views)
        targets = jnp.tile(targets, (len(views), 1))
        draws = jax.random.split(key)
        share = jax.random.beta(draws[0], self.alpha, self.alpha)
        share = jnp.where(warm, 1.0, jnp.maximum(share, 1 - share))
        other = jax.random.permutation(draws[1], len(x))
        # Reshaped copies of a half-precision input keep their type.
        mixed = (share * x + (1 - share) * x[other]).astype(x.dtype)
        targets = share * targets + (1 - share) * targets[other]
        return mixed, targets, jnp.tile(labelled, len(views))


def _remembered(state, row, losses):
    seen = state["seen"].at[row].set(1.0)
    return {**state, "losses": state["losses"].at[:, row].set(losses), "seen": seen}


def _fitted(state):
    """Returns the state with a mixture for each network's losses, scaled to [0, 1]."""
    seen = state["seen"] > 0
    low = jnp.min(jnp.where(seen, state["losses"], jnp.inf), axis=1)
    high = jnp.max(jnp.where(seen, state["losses"], -jnp.inf), axis=1)
    span = jnp.stack([low, jnp.maximum(high, low + 1e-6)], axis=1)

    def fit(values, span):
        return gaussian_mixture.fit_two(_scaled(values, span), state["seen"])

    made = jax.vmap(fit)(state["losses"], span)
    return {**state, "span": span, "mixtures": made}


def _scaled(values, span):
    return (values - span[0]) / (span[1] - span[0])


def _clean(state, losses) -> jax.Array:
    """Returns (2, batch): how probably each label is clean to each network."""

    def judge(fitted, values, span):
        return gaussian_mixture.low_probability(fitted, _scaled(values, span))

    return jax.vmap(judge)(state["mixtures"], losses, state["span"])
