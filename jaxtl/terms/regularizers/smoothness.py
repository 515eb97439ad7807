"""Smoothness: outputs that hardly move when a stage's output does (R3F, SMART)."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.regularizers import source_network


def divergence(a: jax.Array, b: jax.Array, task: str = "classification") -> jax.Array:
    """How far two outputs are apart, the same both ways, without ½.

    KL(p‖q) + KL(q‖p) = Σ_c (p_c − q_c)(log p_c − log q_c) for softmaxes, the sum of
    those of the two outcomes over sigmoids for "multilabel", Σ_c (a_c − b_c)² for
    "regression". In nats.

    Args:
      a, b: logits, (..., K).
      task: "classification", "language", "multilabel" or "regression".

    Returns:
      (...,), at least 0.

    References:
      Jiang et al., SMART, ACL 2020, section 3.1, ℓ_s.
    """
    a, b = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (a, b))
    # Near a = b this keeps digits that Σ p log(p/q) loses: both factors are small.
    if task == "regression":
        terms = jnp.square(a - b)
    elif task == "multilabel":
        terms = (jax.nn.sigmoid(a) - jax.nn.sigmoid(b)) * (a - b)
    else:
        gap = jax.nn.log_softmax(a) - jax.nn.log_softmax(b)
        terms = (jax.nn.softmax(a) - jax.nn.softmax(b)) * gap
    return jnp.sum(terms, axis=-1)


def ascent(
    rise: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    steps: int,
    step_size,
    radius,
) -> jax.Array:
    """Projected gradient ascent in the L∞ ball: z ← clip(z + η g/‖g‖∞, −ε, ε).

    Args:
      rise: z -> scalar, to be large.
      start: z before the first step, (batch, ...).
      steps: number of steps; each costs a pass forward and back.
      step_size: η. ‖g‖∞ is taken over each example; a gradient of 0 moves nothing.
      radius: ε.

    Returns:
      z, held constant.

    References:
      Jiang et al., SMART, ACL 2020, algorithm 1. (The authors' program divides
      z + η g by its own largest value in place of the projection.)
    """
    z = start
    for _ in range(steps):  # few, so unrolled
        g = jax.grad(rise)(z)
        largest = jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)), keepdims=True)
        g = g / jnp.maximum(largest, jnp.finfo(g.dtype).tiny)
        z = jnp.clip(z + step_size * g, -radius, radius)
    return jax.lax.stop_gradient(z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Smooth(Term):
    """What both share: a stage whose output is moved, and the pass from there on.

    Attributes:
      stage: whose output is moved; None takes the first.
      stream: name of the stream.
    """

    stage: str | None = None
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.stream(setup, "stream", self.stream)
        stage = self.reads(setup.program.network)
        checks.stage(setup, "stage", stage)
        if stage == setup.program.network.stages[-1]:
            raise UserError(
                f"{checks.where(setup, 'stage')}={stage!r}: noise goes into the output "
                "of a stage before the head, so that something runs after it "
                f"(stages: {', '.join(setup.program.network.stages)})."
            )

    def reads(self, network) -> str:
        """Returns the stage whose output is moved."""
        return self.stage or network.stages[0]

    def describe(self, setup: Setup) -> str:
        return f"noise on the output of {self.reads(setup.program.network)!r}"

    def _parts(self, context):
        """Returns (the clean pass, the stage's states, a mask that they broadcast)."""
        out = context.forward(self.stream)
        feature = out.features[self.reads(context.program.network)]
        if isinstance(feature, Tokens):
            return out, feature.states, feature.mask[..., None]
        return out, feature, jnp.ones((), bool)

    def _apart(self, context, key, out, states, params=None):
        """Returns z -> mean divergence of f(states + z) from the clean pass."""
        stages, stage = (
            context.program.network.stages,
            self.reads(context.program.network),
        )
        feature = out.features[stage]
        last = out.features.get(feature_stage(stages))

        def value(z):
            moved = states + z.astype(states.dtype)
            if isinstance(feature, Tokens):
                moved = feature._replace(states=moved)
            noisy = context.program.network.apply(
                context.params if params is None else params,
                context.stats,
                moved,
                train=context.program.train_stages,
                frozen_stats=context.program.frozen_stats,
                key=key,
                start=stages[stages.index(stage) + 1],
            )
            apart = divergence(noisy.logits, out.logits, context.program.task)
            return source_network.mean(apart, last)

        return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class R3F(_Smooth):
    """KL(f(x)‖f(x+z)) + KL(f(x+z)‖f(x)) for random z, mean over examples.

    z is added to the output of a stage, to real tokens alone. Both passes are in
    training mode; the noisy one draws dropout of its own and leaves BatchNorm's running
    statistics alone. Gradients flow through both. "multilabel" and "regression" have
    their own distance (`divergence`); outputs per token are averaged over real ones.

    Attributes:
      noise: "normal" (standard deviation `scale`) or "uniform" in ±`scale`.
      scale: of the noise. The default, the paper's, is below what bfloat16 resolves:
        take 1e-2 or more there.
      stage: whose output is moved; None takes the first (a text model's embeddings).
      stream: name of the stream.

    References:
      Aghajanyan et al., Better Fine-Tuning by Reducing Representational Collapse,
      arXiv:2008.03156, with λ = weight.
    """

    noise: Literal["normal", "uniform"] = "normal"
    scale: float = traced(1e-5)

    def check(self, setup: Setup):
        super().check(setup)
        checks.one_of(setup, "noise", self.noise, ("normal", "uniform"))
        checks.number(setup, "scale", self.scale, 0.0)

    def __call__(self, context):
        out, states, mask = self._parts(context)
        key, other = jax.random.split(context.key)
        dtype = jnp.promote_types(states.dtype, jnp.float32)
        if self.noise == "normal":
            z = jax.random.normal(key, states.shape, dtype)
        else:
            z = jax.random.uniform(key, states.shape, dtype, -1.0, 1.0)
        return self._apart(context, other, out, states)(self.scale * z * mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SMART(_Smooth):
    """Largest divergence of f(x+z) from f(x) in a ball ‖z‖∞ ≤ radius, mean over
    examples.

    z starts as normal noise and takes `steps` of projected ascent (`ascent`), then is
    held constant. Divergences, modes and masks are those of `R3F`. This is the
    paper's R_s; its Bregman proximal point (a distance to a moving average of θ) is not
    part of it.

    Attributes:
      radius: ε. The default, the paper's, is below what bfloat16 resolves.
      step_size: η.
      start: σ, standard deviation of the first z.
      steps: number of ascent steps; each costs a pass forward and back.
      stage: whose output is moved; None takes the first (a text model's embeddings).
      stream: name of the stream.

    References:
      Jiang et al., SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural
      Language Models through Principled Regularized Optimization, ACL 2020, section
      3.1 and algorithm 1.
    """

    radius: float = traced(1e-5)
    step_size: float = traced(1e-3)
    start: float = traced(1e-5)
    steps: int = 1

    def check(self, setup: Setup):
        super().check(setup)
        for field in ("radius", "start"):
            checks.positive(setup, field, getattr(self, field))
        checks.number(setup, "step_size", self.step_size, 0.0)
        checks.number(setup, "steps", self.steps, 0)

    def __call__(self, context):
        out, states, mask = self._parts(context)
        key, other = jax.random.split(context.key)
        dtype = jnp.promote_types(states.dtype, jnp.float32)
        start = self.start * jax.random.normal(key, states.shape, dtype)
        hold = jax.lax.stop_gradient
        held = out._replace(logits=hold(out.logits))
        rise = self._apart(context, other, held, hold(states), hold(context.params))
        z = ascent(
            lambda z: rise(z * mask),
            jnp.clip(start, -self.radius, self.radius),
            steps=self.steps,
            step_size=self.step_size,
            radius=self.radius,
        )
        return self._apart(context, other, out, states)(z * mask)
