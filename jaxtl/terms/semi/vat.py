"""Virtual adversarial training: predictions that hold in the worst direction nearby."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import Output, PyTree, Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.semi import augmented_views, pseudo_targets


def unit(d: jax.Array) -> jax.Array:
    """d / ‖d‖₂ of each example, (batch, ...); 0 where d is 0.

    Args:
      d: a direction for each example, (batch, ...).

    Returns:
      The same shape, each example of Euclidean norm 1.
    """
    axes = tuple(range(1, d.ndim))
    # By the largest value first: squares of small gradients underflow.
    largest = jnp.max(jnp.abs(d), axis=axes, keepdims=True)
    d = d / jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(jnp.sum(jnp.square(d), axis=axes, keepdims=True))
    return d / jnp.where(norm > 0, norm, 1)


def adversarial_direction(
    distance: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    steps: int,
    size: float | jax.Array,
) -> jax.Array:
    """Unit vector along which the predictions change most, by the power method.

    d ← unit(∇_r D(r) at r = ξ·d): at r = 0 both D and its gradient are 0, so this is
    ξ times D's Hessian on d, and d tends to the Hessian's dominant eigenvector.

    Args:
      distance: r -> Σ over the batch of D(p(x), p(x + r)), scalar.
      start: (batch, ...), of any norm; its direction counts.
      steps: number of iterations; each costs a forward and a backward pass.
      size: ξ.

    Returns:
      (batch, ...), norm 1 for each example (0 where no direction changes anything),
      without gradient.

    References:
      Miyato et al., Virtual Adversarial Training, TPAMI 41 (2019): the fast
      approximation of r_vadv by the power method.
    """
    d = unit(start)
    for _ in range(steps):  # few, so unrolled
        d = unit(jax.grad(distance)(size * d))
    return jax.lax.stop_gradient(d)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAT(pseudo_targets.UnlabelledTerm):
    """KL(p(x) ‖ p(x + ε·d)), d the direction in which it grows most.

    Mean over examples, in nats. p(x) receives no gradient; both passes are in training
    mode, with different dropout, and the perturbed one leaves BatchNorm's running
    statistics unchanged. Vectors and images are perturbed themselves (after
    normalization), texts at the output of their embeddings stage, at real tokens alone;
    ε is then the norm of a whole text's perturbation. To include labelled examples, add
    a second term with stream="target".

    Attributes:
      radius: ε, the one number that needs tuning, in units of normalized inputs: over
        all pixels and channels of an image (the paper's 8 to 10 are of whitened
        CIFAR-10).
      size: ξ of the finite difference. The paper's 1e-6 is lost to rounding in float32
        where the inputs matter little; 1e-2 is still small compared with an image's
        norm.
      steps: K of the power method; each costs a forward and a backward pass.
      stage: stage whose output is perturbed; None perturbs the inputs, or of texts the
        first stage's output.
      stream: name of the stream; its labels are not used.

    References:
      Miyato et al., Virtual Adversarial Training: A Regularization Method for
      Supervised and Semi-Supervised Learning, TPAMI 41 (2019); for texts
      Miyato et al., Adversarial Training Methods for Semi-Supervised Text
      Classification, ICLR 2017.
    """

    radius: float = traced(8.0)
    size: float = traced(1e-2)
    steps: int = 1
    stage: str | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "radius", self.radius)
        checks.positive(setup, "size", self.size)
        checks.count(setup, "steps", self.steps)
        stages = setup.program.network.stages
        x = augmented_views.first_inputs(setup, self.stream)
        stage = self._stage_name(stages, x)
        if stage is None:
            return
        checks.stage(setup, "stage", stage)
        if stage == stages[-1]:
            raise UserError(
                f"{checks.where(setup, 'stage')}={stage!r}: VAT perturbs the output of "
                "a stage before the head, so that another stage runs after it "
                f"(stages: {', '.join(stages)})."
            )

    def describe(self, setup: Setup) -> str:
        x = augmented_views.first_inputs(setup, self.stream)
        stage = self._stage_name(setup.program.network.stages, x)
        return f"perturbs the output of {stage!r}" if stage else "perturbs the inputs"

    def _stage_name(self, stages: tuple[str, ...], x: PyTree) -> str | None:
        has_tokens = augmented_views.input_kind(x) == "tokens"
        return self.stage or (stages[0] if has_tokens else None)

    def __call__(self, context: View) -> jax.Array:
        start_key, dropout_key = jax.random.split(context.key)
        output = context.forward(self.stream)
        p = pseudo_targets.target_probabilities(output.logits)
        values, mask, perturbed_logits = self._perturbation(
            context, output, dropout_key
        )

        def distance(perturbation: jax.Array, params: PyTree) -> jax.Array:
            logits = perturbed_logits(perturbation * mask, params)
            return pseudo_targets.kl(p, logits)

        params = jax.lax.stop_gradient(context.params)
        dtype = as_float32(values).dtype
        direction = adversarial_direction(
            lambda perturbation: distance(perturbation, params).sum(),
            jax.random.normal(start_key, values.shape, dtype) * mask,
            steps=self.steps,
            size=self.size,
        )
        return distance(self.radius * direction, context.params).mean()

    def _perturbation(
        self, context: View, output: Output, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Callable[[jax.Array, PyTree], jax.Array]]:
        """The perturbed values, their mask, and (perturbation, params) -> logits.

        Args:
          context: of the step.
          output: of the stream's training pass.
          key: of the perturbed pass's dropout.
        """
        x = context.batches[self.stream]["x"]
        program = context.program
        stage = self._stage_name(program.network.stages, x)
        if stage is None:

            def input_logits(perturbation: jax.Array, params: PyTree) -> jax.Array:
                perturbed = x + perturbation.astype(x.dtype)
                return context.run(perturbed, params=params, key=key).logits

            return x, jnp.ones((), x.dtype), input_logits
        feature: Any = output.features[stage]
        has_tokens = isinstance(feature, Tokens)
        states = feature.states if has_tokens else feature

        def stage_logits(perturbation: jax.Array, params: PyTree) -> jax.Array:
            perturbed = states + perturbation.astype(states.dtype)
            return program.network.apply(
                params,
                context.stats,
                feature._replace(states=perturbed) if has_tokens else perturbed,
                train=program.train_stages,
                frozen_stats=program.frozen_stats,
                key=key,
                start=program.network.stages[program.network.stages.index(stage) + 1],
            ).logits

        mask = feature.mask[..., None] if has_tokens else jnp.ones((), bool)
        return states, mask.astype(as_float32(states).dtype), stage_logits
