"""Parts of adversarial terms: reversed gradients, perceptrons and base classes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree, Tokens
from jaxtl.optim import schedules
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup
from jaxtl.terms.domain.domain_pair import DomainPair, DomainPairAtStage, vector_width
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean

# λ of the program of CDAN's authors, 0.05 after 100 steps, 0.29 after 600, 0.96 after
# 4,000, in a run of any length. DANN's paper lets it rise with the share of the run,
# `schedules.Ramp()`: in a run of 600 steps it is 0.85 after 150.
REVERSAL = schedules.Ramp(final=1.0, gamma=10.0, per_steps=10_000.0)


@jax.custom_vjp
def reverse_gradient(x: jax.Array, scale: float | jax.Array) -> jax.Array:
    """Identity whose backward pass multiplies the gradient by −scale.

    Args:
      x: any array.
      scale: λ, a scalar, may be traced; it receives gradient 0.

    Returns:
      x.

    References:
      Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
      eq. 16 and 17.
    """
    return x


def _forward(
    x: jax.Array, scale: float | jax.Array
) -> tuple[jax.Array, float | jax.Array]:
    return x, scale


def _backward(
    scale: float | jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    scale = jnp.asarray(scale)
    return (-scale * gradient).astype(gradient.dtype), jnp.zeros_like(scale)


reverse_gradient.defvjp(_forward, _backward)


def reverse_feature_gradient(feature: Any, scale: float | jax.Array) -> Any:
    """`reverse_gradient` of a stage's output, an array or `Tokens`."""
    if isinstance(feature, Tokens):
        return feature._replace(states=reverse_gradient(feature.states, scale))
    return reverse_gradient(feature, scale)


def perceptron_init(
    key: jax.Array, widths: tuple[int, ...], outputs: int = 1
) -> PyTree:
    """Initializes the parameters of a perceptron with ReLU between its layers.

    Args:
      key: PRNG key.
      widths: of the input and of each hidden layer.
      outputs: width of the last layer.

    Returns:
      {"layer0": {"kernel": (in, out), "bias": (out,)}, …}, kernels He-normal (He et
      al., ICCV 2015), biases 0.
    """
    params = {}
    for i, (rows, columns) in enumerate(zip(widths, (*widths[1:], outputs))):
        noise = jax.random.normal(jax.random.fold_in(key, i), (rows, columns))
        kernel = noise * jnp.sqrt(2.0 / rows)
        params[f"layer{i}"] = {"kernel": kernel, "bias": jnp.zeros(columns)}
    return params


def perceptron(params: PyTree, x: jax.Array) -> jax.Array:
    """Outputs of a perceptron, (batch, width) -> (batch, outputs)."""
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = (jax.nn.relu(x) if i else x) @ layer["kernel"] + layer["bias"]
    return x


def discriminator(params: PyTree, x: jax.Array) -> jax.Array:
    """Logits of "x is from the source domain", (batch, width) -> (batch,)."""
    return perceptron(params, x)[:, 0]


def domain_loss(
    logits: jax.Array,
    label: float,
    weights: jax.Array | None = None,
    mean: WeightedMean = weighted_mean,
) -> tuple[jax.Array, jax.Array]:
    """A discriminator's cross-entropy and accuracy on the examples of one domain.

    Args:
      logits: (batch,), of "x is from the source domain".
      label: 1 if it is, 0 if it is not.
      weights: (batch,), of the examples in the weighted mean of the cross-entropy; None
        is the plain mean.
      mean: with weights; `View.mean` where a batch is cut.

    Returns:
      (cross-entropy in nats, share of correct examples without weights).
    """
    hits = jnp.mean((logits > 0) == (label > 0.5))
    if weights is None:
        target = jnp.full(len(logits), label)
        return losses.binary_cross_entropy(logits, target), hits
    values = jax.nn.softplus(logits) - label * logits
    return mean(values, weights), hits


def discriminator_loss(
    source: jax.Array,
    target: jax.Array,
    source_weights: jax.Array | None = None,
    target_weights: jax.Array | None = None,
    mean: WeightedMean = weighted_mean,
) -> tuple[jax.Array, jax.Array]:
    """½ · (`domain_loss` of the source + that of the target), for both results.

    Args:
      source: logits of the source's examples, (n,).
      target: logits of the target's examples, (m,).
      source_weights, target_weights: of the examples, (n,) and (m,), or None.
      mean: with weights, as in `domain_loss`.

    Returns:
      (cross-entropy in nats, log 2 at chance; accuracy, ½ of each domain).
    """
    source_loss, source_hits = domain_loss(source, 1.0, source_weights, mean)
    target_loss, target_hits = domain_loss(target, 0.0, target_weights, mean)
    return 0.5 * (source_loss + target_loss), 0.5 * (source_hits + target_hits)


def _check_widths(setup: Setup, widths: tuple[int, ...]) -> None:
    if any(units < 1 for units in widths):
        raise UserError(
            f"{checks.where(setup, 'widths')}={widths}: expected widths of at least 1."
        )


def check_body(setup: Setup, term: str) -> None:
    """Raises if the model has no stage before its head.

    Args:
      setup: what the term is checked against.
      term: name of the term's class, for the message.
    """
    if len(setup.program.network.stages) < 2:
        raise UserError(
            f"terms.{setup.name}: {term} reads the features before the head, and this "
            "model is a head alone; give it a stage below."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorTerm(DomainPairAtStage):
    """Base class of terms with a domain discriminator on one stage's features.

    Attributes:
      source, target, stage: as in `DomainPairAtStage`.
      widths: of the discriminator's hidden layers; () is a linear one.
    """

    widths: tuple[int, ...] = (64,)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        _check_widths(setup, self.widths)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        return perceptron_init(key, (self.input_width(setup), *self.widths))

    def input_width(self, setup: Setup) -> int:
        """Width of the discriminator's input."""
        return vector_width(setup, self.stage_name(setup.program.network))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuxiliaryClassifierTerm(DomainPair):
    """Base class of terms with a second classifier beside the head.

    Both classifiers read the output of the last stage before the head.

    Attributes:
      source, target: as in `DomainPair`.
      widths: of the second classifier's hidden layers; () is a linear one.
    """

    widths: tuple[int, ...] = (64,)

    def check(self, setup: Setup) -> None:
        name = type(self).__name__
        checks.task(setup, name, "classification")
        super().check(setup)
        _check_widths(setup, self.widths)
        check_body(setup, name)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        width = vector_width(setup, setup.program.network.stages[-2])
        return perceptron_init(key, (width, *self.widths), setup.program.outputs)
