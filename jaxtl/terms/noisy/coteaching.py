"""Co-teaching: two networks, each learning from what the other finds easy."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base, second_network


def kept_share(step, steps, forget, ramp) -> jax.Array:
    """R(t) = 1 − τ · min(t / (ramp · steps), 1): the share of a batch that is kept.

    Args:
      step, steps: t, and the run's number of steps.
      forget: τ, the share left out in the end, the noise rate at best.
      ramp: share of the run after which τ is reached (the paper: 10 of 200 epochs).

    References:
      Han et al., Co-teaching, NeurIPS 2018, algorithm 1 with c = 1.
    """
    reached = jnp.minimum(step / jnp.maximum(ramp * steps, 1e-6), 1.0)
    return 1.0 - forget * reached


def small_loss(losses: jax.Array, share) -> jax.Array:
    """Returns float32 (batch,), 1 at the ⌊share · batch⌋ smallest losses (at least 1).

    Ties go to the earlier example; `share` may be traced.
    """
    count = jnp.maximum(jnp.floor(share * len(losses) + 1e-4), 1.0)
    rank = jnp.argsort(jnp.argsort(losses, stable=True), stable=True)
    return (rank < count).astype(jnp.float32)


def exchanged(first: jax.Array, other: jax.Array, share) -> tuple[jax.Array, jax.Array]:
    """Mean losses of two networks over the examples whose loss is small to the other.

    Args:
      first, other: (batch,) losses.
      share: of the batch that each recommends.

    Returns:
      Two scalars; no gradient flows through the choice.

    References:
      Han et al., Co-teaching, NeurIPS 2018, algorithm 1, steps 5 to 8.
    """
    hold = jax.lax.stop_gradient
    for_first, for_other = (
        small_loss(hold(other), share),
        small_loss(hold(first), share),
    )
    return (
        jnp.sum(first * for_first) / for_first.sum(),
        jnp.sum(other * for_other) / for_other.sum(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoTeaching(Term):
    """Cross-entropy of the model and of a second network, each on the other's choice.

    The second network is this term's own: the optimizer trains it at the base rate,
    whatever the groups say, from weights of its own; its frozen parameters are the
    model's. It is not evaluated nor kept: the model's accuracy is reported, where the
    paper gives one of its two networks the same say. Reports the share "kept", both
    networks' "accuracy" on the given labels, and how often they disagree.

    Attributes:
      stream: name of the stream.
      forget: τ, the share of examples left out in the end: the noise rate, if known.
      ramp: share of the run's steps over which τ is reached.
      noise: how the second network differs from loaded weights: so many standard
        deviations of each kernel. Without loaded weights it has an initialisation of
        its own.

    References:
      Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely
      Noisy Labels, NeurIPS 2018.
    """

    stream: str = "target"
    forget: float = traced(0.2)
    ramp: float = traced(0.05)
    noise: float = 0.1

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        base.check_classes(setup, "CoTeaching", self.stream)
        checks.number(setup, "forget", self.forget, 0.0, 1.0)
        checks.number(setup, "ramp", self.ramp, 0.0, 1.0)
        checks.number(setup, "noise", self.noise, 0.0)

    def init(self, key, setup):
        return second_network.init(key, setup, self.stream, self.noise)

    def init_state(self, setup):
        return setup.stats

    def __call__(self, context):
        labels = context.batches[self.stream]["y"]
        ours = context.forward(self.stream).logits
        out = second_network.forward(context, self.stream, context.state, context.key)
        if jax.tree.leaves(out.stats):  # a network without BatchNorm has none
            context.set_state(out.stats)
        share = kept_share(context.step, context.steps, self.forget, self.ramp)
        first, other = exchanged(
            base.per_example(ours, labels),
            base.per_example(out.logits, labels),
            share,
        )
        differ = jnp.argmax(ours, -1) != jnp.argmax(out.logits, -1)
        metrics = {
            "kept": share,
            "accuracy": base.accuracy(ours, labels),
            "second_accuracy": base.accuracy(out.logits, labels),
            "disagreement": jnp.mean(differ.astype(jnp.float32)),
        }
        return first + other, metrics
