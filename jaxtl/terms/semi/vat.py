"""Virtual adversarial training: answers that hold in the worst direction nearby."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.semi import augmented_views, pseudo_targets


def unit(d) -> jax.Array:
    """Returns d / ‖d‖₂ of every example; a zero stays zero. d is (batch, ...)."""
    axes = tuple(range(1, d.ndim))
    # By the largest value first: squares of small gradients underflow.
    largest = jnp.max(jnp.abs(d), axis=axes, keepdims=True)
    d = d / jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(jnp.sum(jnp.square(d), axis=axes, keepdims=True))
    return d / jnp.where(norm > 0, norm, 1)


def adversarial_direction(
    distance: Callable[[jax.Array], jax.Array], start, *, steps: int, size
) -> jax.Array:
    """Unit vector along which the answers change most, by the power method.

    d ← unit(∇_r D(r) at r = ξ·d): at r = 0 both D and its gradient are 0, so this is
    ξ times D's Hessian on d, and d tends to the Hessian's dominant eigenvector.

    Args:
      distance: r -> Σ over the batch of D(p(x), p(x + r)), scalar.
      start: (batch, ...), any size; its direction counts.
      steps: number of iterations; each costs a pass forward and back.
      size: ξ.

    Returns:
      (batch, ...), norm 1 for each example (0 where no direction changes anything),
      held constant.

    References:
      Miyato et al., Virtual Adversarial Training, TPAMI 41 (2019): the fast
      approximation of r_vadv by the power method.
    """
    d = unit(start)
    for _ in range(steps):  # few, so unrolled
        d = unit(jax.grad(distance)(size * d))
    return jax.lax.stop_gradient(d)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAT(pseudo_targets._OnUnlabelled):
    """KL(p(x) ‖ p(x + ε·d)), d the direction in which it grows most; mean over
    examples.

    p(x) is held constant; both passes are in training mode, with dropout draws of
    their own, and the moved one leaves BatchNorm's running statistics alone. Vectors
    and images are moved themselves (after normalisation); texts by what their
    embeddings stage gives, real tokens alone, and ε is then the norm of a whole text's
    move. Labelled examples may be put in by a second term with stream="target".

    Attributes:
      radius: ε, the one number that wants tuning, in units of normalised inputs: over
        all pixels and channels of an image (the paper's 8 to 10 are of whitened
        CIFAR-10).
      size: ξ of the finite difference. The paper's 1e-6 loses all digits in float32
        where the inputs matter little; 1e-2 is still small beside an image's norm.
      steps: K of the power method; each costs a pass forward and back.
      stage: whose output is moved; None moves the inputs, or of texts the first
        stage's output.
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

    def check(self, setup: Setup):
        super().check(setup)
        for field in ("radius", "size"):
            checks.positive(setup, field, getattr(self, field))
        checks.count(setup, "steps", self.steps)
        stages = setup.program.network.stages
        stage = self._stage(stages, augmented_views.first(setup, self.stream))
        if stage is None:
            return
        checks.stage(setup, "stage", stage)
        if stage == stages[-1]:
            raise UserError(
                f"{checks.where(setup, 'stage')}={stage!r}: what is moved is the "
                "output of a stage before the head, so that something runs after it "
                f"(stages: {', '.join(stages)})."
            )

    def describe(self, setup: Setup) -> str:
        x = augmented_views.first(setup, self.stream)
        stage = self._stage(setup.program.network.stages, x)
        return f"moves the output of {stage!r}" if stage else "moves the inputs"

    def _stage(self, stages, x) -> str | None:
        tokens = augmented_views.kind(x) == "tokens"
        return self.stage or (stages[0] if tokens else None)

    def __call__(self, context):
        drawing, dropout = jax.random.split(context.key)
        out = context.forward(self.stream)
        p = pseudo_targets.held(out.logits)
        at, mask, run = self._from(context, out, dropout)

        def distance(move, params):
            return pseudo_targets.kl(p, run(move * mask, params))

        hold = jax.lax.stop_gradient
        start = (
            jax.random.normal(drawing, at.shape, pseudo_targets.wide(at).dtype) * mask
        )
        d = adversarial_direction(
            lambda r: distance(r, hold(context.params)).sum(),
            start,
            steps=self.steps,
            size=self.size,
        )
        return distance(self.radius * d, context.params).mean()

    def _from(self, context, out, key):
        """Returns (what is moved, its mask, (move, params) -> logits)."""
        x = context.batches[self.stream]["x"]
        stages = context.program.network.stages
        stage = self._stage(stages, x)
        if stage is None:

            def run(move, params):
                moved = x + move.astype(x.dtype)
                return context.run(moved, params=params, key=key).logits

            return x, jnp.ones((), x.dtype), run
        feature = out.features[stage]
        tokens = isinstance(feature, Tokens)
        states = feature.states if tokens else feature

        def rest(move, params):
            moved = states + move.astype(states.dtype)
            return context.program.network.apply(
                params,
                context.stats,
                feature._replace(states=moved) if tokens else moved,
                train=context.program.train_stages,
                frozen_stats=context.program.frozen_stats,
                key=key,
                start=stages[stages.index(stage) + 1],
            ).logits

        mask = feature.mask[..., None] if tokens else jnp.ones((), bool)
        return states, mask.astype(pseudo_targets.wide(states).dtype), rest
