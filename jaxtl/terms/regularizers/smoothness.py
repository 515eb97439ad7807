"""Smoothness: outputs hardly change under noise on a stage's output (R3F, SMART)."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, PyTree, Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.regularizers.source_network import mean_over_tokens
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean


def divergence(a: jax.Array, b: jax.Array, task: str = "classification") -> jax.Array:
    """Symmetric divergence of two outputs, without ½.

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
    a, b = trees.as_float32((a, b))
    # Near a = b this keeps digits that Σ p log(p/q) loses: both factors are small.
    if task == "regression":
        summands = jnp.square(a - b)
    elif task == "multilabel":
        summands = (jax.nn.sigmoid(a) - jax.nn.sigmoid(b)) * (a - b)
    else:
        gap = jax.nn.log_softmax(a) - jax.nn.log_softmax(b)
        summands = (jax.nn.softmax(a) - jax.nn.softmax(b)) * gap
    return jnp.sum(summands, axis=-1)


def projected_ascent(
    objective: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    steps: int,
    step_size: jax.Array | float,
    radius: jax.Array | float,
) -> jax.Array:
    """Projected gradient ascent in the L∞ ball: z ← clip(z + η g/‖g‖∞, −ε, ε).

    Args:
      objective: z -> scalar, to be maximized.
      start: z before the first step, (batch, ...).
      steps: number of steps; each costs a pass forward and back.
      step_size: η. ‖g‖∞ is taken over each example; where the gradient is 0, z stays.
      radius: ε.

    Returns:
      z, the shape of `start`; no gradient flows through it.

    References:
      Jiang et al., SMART, ACL 2020, algorithm 1. (The authors' program divides
      z + η g by its own largest value in place of the projection.)
    """
    z = start
    for _ in range(steps):  # few, so unrolled
        g = jax.grad(objective)(z)
        largest = jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)), keepdims=True)
        g = g / jnp.maximum(largest, jnp.finfo(g.dtype).tiny)
        z = jnp.clip(z + step_size * g, -radius, radius)
    return jax.lax.stop_gradient(z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _NoiseTerm(Term):
    """Base class of R3F and SMART: noise on a stage's output, and the later stages."""

    stage: str | None = None
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.outputs_of_examples(setup, type(self).__name__)
        checks.stream(setup, "stream", self.stream)
        stage = self._stage_name(setup.program.network)
        checks.stage(setup, "stage", stage)
        if stage == setup.program.network.stages[-1]:
            raise UserError(
                f"{checks.where(setup, 'stage')}={stage!r}: noise is added to the "
                "output of a stage before the head, so that a stage runs after it "
                f"(stages: {', '.join(setup.program.network.stages)})."
            )

    def describe(self, setup: Setup) -> str:
        return f"noise on the output of {self._stage_name(setup.program.network)!r}"

    def _stage_name(self, network: Network) -> str:
        return self.stage or network.stages[0]

    def _clean_pass(self, context: View) -> tuple[Output, jax.Array, jax.Array]:
        """The training pass, the stage's states, and a mask that broadcasts to them."""
        out = context.forward(self.stream)
        feature = out.features[self._stage_name(context.program.network)]
        if isinstance(feature, Tokens):
            return out, feature.states, feature.mask[..., None]
        return out, feature, jnp.ones((), bool)

    def _noise_divergence(
        self,
        context: View,
        key: jax.Array,
        out: Output,
        states: jax.Array,
        params: PyTree = None,
        mean: WeightedMean = weighted_mean,
    ) -> Callable[[jax.Array], jax.Array]:
        """z -> mean divergence of f(states + z) from the clean pass.

        Args:
          context: of the step.
          key: PRNG key of dropout in the later stages.
          out: the clean pass.
          states: the output of the stage.
          params: of the later stages, None for the step's.
          mean: over the tokens of the batch.
        """
        network = context.program.network
        stages, stage = network.stages, self._stage_name(network)
        feature, last = out.features[stage], out.features.get(feature_stage(stages))

        def value(z: jax.Array) -> jax.Array:
            noisy = states + z.astype(states.dtype)
            if isinstance(feature, Tokens):
                noisy = feature._replace(states=noisy)
            noisy_out = network.apply(
                context.params if params is None else params,
                context.stats,
                noisy,
                train=context.program.train_stages,
                frozen_stats=context.program.frozen_stats,
                key=key,
                start=stages[stages.index(stage) + 1],
            )
            task = context.program.task
            values = divergence(noisy_out.logits, out.logits, task)
            return mean_over_tokens(values, last, mean)

        return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class R3F(_NoiseTerm):
    """KL(f(x)‖f(x+z)) + KL(f(x+z)‖f(x)) for random z, mean over examples.

    z is added to the output of a stage, to real tokens alone. Both passes are in
    training mode; the noisy one has its own draw of dropout and does not change
    BatchNorm's running statistics. Gradients flow through both. "multilabel" and
    "regression" have their own distance (`divergence`); outputs per token are averaged
    over real ones.

    Attributes:
      noise: "normal" (standard deviation `scale`) or "uniform" in ±`scale`.
      scale: of the noise. The default, the paper's, is below the resolution of
        bfloat16: set 1e-2 or more there.
      stage: stage whose output gets noise; None is the first (a text model's
        embeddings).
      stream: name of the stream.

    References:
      Aghajanyan et al., Better Fine-Tuning by Reducing Representational Collapse,
      arXiv:2008.03156, with λ = weight.
    """

    noise: Literal["normal", "uniform"] = "normal"
    scale: float = traced(1e-5)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.one_of(setup, "noise", self.noise, ("normal", "uniform"))
        checks.number(setup, "scale", self.scale, 0.0)

    def __call__(self, context: View) -> jax.Array:
        out, states, mask = self._clean_pass(context)
        noise_key, dropout_key = jax.random.split(context.key)
        dtype = jnp.promote_types(states.dtype, jnp.float32)
        if self.noise == "normal":
            z = jax.random.normal(noise_key, states.shape, dtype)
        else:
            z = jax.random.uniform(noise_key, states.shape, dtype, -1.0, 1.0)
        value = self._noise_divergence(
            context, dropout_key, out, states, mean=context.mean
        )
        return value(self.scale * z * mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SMART(_NoiseTerm):
    """Largest divergence of f(x+z) from f(x) in a ball ‖z‖∞ ≤ radius, mean over
    examples.

    z starts as normal noise, takes `steps` of `projected_ascent` and is then held
    constant. Divergences, modes and masks are those of `R3F`. This is the paper's R_s;
    its Bregman proximal point (a distance to a moving average of θ) is not part of it.
    Gradients flow through both outputs of both divergences. The authors' program
    (namisan/mt-dnn) holds the first output of each KL fixed, which halves the gradient
    where the outputs are close: its λ is the weight λ/2 here.

    Attributes:
      radius: ε. The default, the paper's, is below the resolution of bfloat16.
      step_size: η.
      start: σ, standard deviation of the first z.
      steps: number of ascent steps; each costs a pass forward and back.
      stage: stage whose output gets noise; None is the first (a text model's
        embeddings).
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

    def check(self, setup: Setup) -> None:
        super().check(setup)
        for field in ("radius", "start"):
            checks.positive(setup, field, getattr(self, field))
        checks.number(setup, "step_size", self.step_size, 0.0)
        checks.number(setup, "steps", self.steps, 0)

    def __call__(self, context: View) -> jax.Array:
        out, states, mask = self._clean_pass(context)
        noise_key, dropout_key = jax.random.split(context.key)
        dtype = jnp.promote_types(states.dtype, jnp.float32)
        start = self.start * jax.random.normal(noise_key, states.shape, dtype)
        stop_gradient = jax.lax.stop_gradient
        objective = self._noise_divergence(
            context,
            dropout_key,
            out._replace(logits=stop_gradient(out.logits)),
            stop_gradient(states),
            stop_gradient(context.params),
        )
        z = projected_ascent(
            lambda z: objective(z * mask),
            jnp.clip(start, -self.radius, self.radius),
            steps=self.steps,
            step_size=self.step_size,
            radius=self.radius,
        )
        value = self._noise_divergence(
            context, dropout_key, out, states, mean=context.mean
        )
        return value(z * mask)
