"""Co-teaching: two networks, each trained on the small-loss examples of the other."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.noisy import second_network
from jaxtl.terms.noisy.base import (
    NoisyLabelTerm,
    example_cross_entropies,
)


def small_loss_share(
    step: ArrayLike, steps: ArrayLike, forget: ArrayLike, ramp: ArrayLike
) -> jax.Array:
    """R(t) = 1 − τ · min(t / (ramp · steps), 1): the share of a batch that is used.

    Args:
      step, steps: t, and the run's number of steps.
      forget: τ, the share left out at the end of the ramp, ideally the noise rate.
      ramp: share of the run after which τ is reached (the paper: 10 of 200 epochs).

    Returns:
      A scalar in [0, 1].

    References:
      Han et al., Co-teaching, NeurIPS 2018, algorithm 1 with c = 1.
    """
    progress = jnp.minimum(step / jnp.maximum(ramp * steps, 1e-6), 1.0)
    return jnp.asarray(1.0 - forget * progress)


def small_loss_mask(losses: jax.Array, share: ArrayLike) -> jax.Array:
    """1 at the ⌊share · batch⌋ smallest losses (at least one), 0 at all others.

    Args:
      losses: (batch,); of equal ones the earlier example comes first.
      share: in [0, 1], may be traced.

    Returns:
      (batch,), float32.
    """
    count = jnp.maximum(jnp.floor(share * len(losses) + 1e-4), 1.0)
    rank = jnp.argsort(jnp.argsort(losses, stable=True), stable=True)
    return (rank < count).astype(jnp.float32)


def co_teaching_losses(
    first: jax.Array, second: jax.Array, share: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Mean losses of two networks, each over the small-loss examples of the other.

    Args:
      first, second: (batch,) losses of the two networks.
      share: of the batch, in [0, 1].

    Returns:
      Two scalars; no gradient flows through the selection. (The authors' program
      divides these means by the number of examples that count once more.)

    References:
      Han et al., Co-teaching, NeurIPS 2018, algorithm 1, steps 5 to 8.
    """
    stop_gradient = jax.lax.stop_gradient
    first_mask = small_loss_mask(stop_gradient(second), share)
    second_mask = small_loss_mask(stop_gradient(first), share)
    return (
        jnp.sum(first * first_mask) / first_mask.sum(),
        jnp.sum(second * second_mask) / second_mask.sum(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoTeaching(NoisyLabelTerm):
    """`co_teaching_losses` of the model and of a second network, summed.

    The second network is a parameter of this term: the optimizer trains it at the base
    learning rate, whatever the groups say, from its own initial weights; its frozen
    parameters are the model's. It is neither evaluated nor saved with the model: the
    model's accuracy is reported, where the paper reports one of its two networks.
    Reports the share "kept", the "accuracy" of both networks on the observed labels,
    and their "disagreement".

    Attributes:
      stream: name of the stream.
      forget: τ, the share of examples left out at the end: the noise rate, if known.
      ramp: share of the run's steps over which τ is reached.
      noise: standard deviation of the noise added to loaded weights of the second
        network, in standard deviations of each kernel. Weights that were not loaded
        are initialized with another key.

    References:
      Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely
      Noisy Labels, NeurIPS 2018.
    """

    compares: ClassVar[str] = "ranks of the losses"

    forget: float = traced(0.2)
    ramp: float = traced(0.05)
    noise: float = 0.1

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "forget", self.forget, 0.0, 1.0)
        checks.number(setup, "ramp", self.ramp, 0.0, 1.0)
        checks.number(setup, "noise", self.noise, 0.0)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        return second_network.init(key, setup, self.stream, self.noise)

    def init_state(self, setup: Setup) -> PyTree:
        return setup.stats

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        labels = context.batches[self.stream]["y"]
        logits = context.forward(self.stream).logits
        out = second_network.forward(context, self.stream, context.state, context.key)
        if jax.tree.leaves(out.stats):  # a network without BatchNorm has none
            context.set_state(out.stats)
        share = small_loss_share(context.step, context.steps, self.forget, self.ramp)
        first, second = co_teaching_losses(
            example_cross_entropies(logits, labels),
            example_cross_entropies(out.logits, labels),
            share,
        )
        disagrees = jnp.argmax(logits, -1) != jnp.argmax(out.logits, -1)
        metrics = {
            "kept": share,
            "accuracy": losses.label_accuracy(logits, labels),
            "second_accuracy": losses.label_accuracy(out.logits, labels),
            "disagreement": jnp.mean(disagrees.astype(jnp.float32)),
        }
        return first + second, metrics
