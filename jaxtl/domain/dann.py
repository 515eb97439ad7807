"""Domain-adversarial training: features from which no domain can be told."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl import checks, losses, schedules
from jaxtl.core import PyTree, Schedule, Setup, Term, UserError, vectors

PAPER_RAMP = schedules.Ramp(final=1.0, gamma=10.0)


@jax.custom_vjp
def reverse_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns x; the gradient that comes back through it is −scale times as large.

    Args:
      x: any array.
      scale: λ, a scalar, may be traced; receives no gradient itself.

    References:
      Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
      eq. 16 and 17.
    """
    return x


def _forward(x, scale):
    return x, scale


def _backward(scale, gradient):
    scale = jnp.asarray(scale)
    return (-scale * gradient).astype(gradient.dtype), jnp.zeros_like(scale)


reverse_gradient.defvjp(_forward, _backward)


def discriminator_init(key: jax.Array, widths: tuple[int, ...]) -> PyTree:
    """Returns the parameters of a ReLU perceptron with one output.

    Args:
      key: PRNG key.
      widths: of the input and of each hidden layer.

    Returns:
      {"layer0": {"kernel": (in, out), "bias": (out,)}, …}, kernels He-normal (He et
      al., ICCV 2015), biases 0.
    """
    params = {}
    for i, (rows, columns) in enumerate(zip(widths, (*widths[1:], 1))):
        noise = jax.random.normal(jax.random.fold_in(key, i), (rows, columns))
        kernel = noise * jnp.sqrt(2.0 / rows)
        params[f"layer{i}"] = {"kernel": kernel, "bias": jnp.zeros(columns)}
    return params


def discriminator(params: PyTree, x: jax.Array) -> jax.Array:
    """Returns logits of "this is the source domain", (batch,), for x (batch, width)."""
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = (jax.nn.relu(x) if i else x) @ layer["kernel"] + layer["bias"]
    return x[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DANN(Term):
    """Discriminator's cross-entropy, its gradient reversed before it meets the model.

    The value is ½ · (mean over the source batch + mean over the other), in nats; log 2
    is chance. `weight` multiplies the whole term, so also the discriminator's own
    gradient; `reversal` multiplies the reversed gradient alone. Reports the
    discriminator's accuracy, ½ for each domain.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: whose output the discriminator sees, one vector per example; None is the
        last before the head.
      widths: of the discriminator's hidden layers; () is a linear one.
      reversal: λ, a number or a schedule; the paper's ramp from 0 to 1 by default.

    References:
      Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
      section 4.2; λ_p in section 5.2.2.
    """

    source: str = "source"
    target: str = "unlabelled"
    stage: str | None = None
    widths: tuple[int, ...] = (64,)
    reversal: float | Schedule = PAPER_RAMP

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        checks.stream(setup, "source", self.source)
        checks.stream(setup, "target", self.target)
        checks.stage(setup, "stage", self._stage(setup.network))
        checks.number(setup, "reversal", self.reversal, 0.0)
        if any(width < 1 for width in self.widths):
            raise UserError(
                f"{checks.where(setup, 'widths')}={self.widths}: expected widths of at "
                "least 1."
            )

    def init(self, key, setup):
        feature = setup.features[self._stage(setup.network)]
        width = jax.eval_shape(vectors, feature).shape[-1]
        return discriminator_init(key, (width, *self.widths))

    def _stage(self, network) -> str:
        return self.stage or checks.last_feature(network.stages)

    def __call__(self, context):
        scale = schedules.value(self.reversal, context.step, context.steps)
        stage = self._stage(context.network)

        def domain(stream: str, label: float):
            feature = vectors(context.forward(stream).features[stage])
            logits = discriminator(context.own, reverse_gradient(feature, scale))
            value = losses.binary_cross_entropy(logits, jnp.full(len(logits), label))
            return value, jnp.mean((logits > 0) == (label > 0.5))

        source, source_hits = domain(self.source, 1.0)
        target, target_hits = domain(self.target, 0.0)
        accuracy = 0.5 * (source_hits + target_hits)
        return 0.5 * (source + target), {"accuracy": accuracy}
