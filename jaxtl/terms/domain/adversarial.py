"""What adversarial terms share: the reversed gradient, and small perceptrons."""

import functools

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree, Tokens
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup
from jaxtl.terms.domain import domain_pair

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


def reverse(feature, scale: jax.Array):
    """`reverse_gradient` of a stage's output, an array or `Tokens`."""
    if isinstance(feature, Tokens):
        return feature._replace(states=reverse_gradient(feature.states, scale))
    return reverse_gradient(feature, scale)


def discriminator_init(
    key: jax.Array, widths: tuple[int, ...], outputs: int = 1
) -> PyTree:
    """Returns the parameters of a ReLU perceptron.

    Args:
      key: PRNG key.
      widths: of the input and of each hidden layer.
      outputs: of the last layer.

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
    """Returns the perceptron's outputs, (batch, outputs), for x (batch, width)."""
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = (jax.nn.relu(x) if i else x) @ layer["kernel"] + layer["bias"]
    return x


def discriminator(params: PyTree, x: jax.Array) -> jax.Array:
    """Returns logits of "this is the source domain", (batch,), for x (batch, width)."""
    return perceptron(params, x)[:, 0]


def domain_loss(
    logits: jax.Array, label: float, weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns (cross-entropy of one domain's logits in nats, the share that is right).

    Args:
      logits: (batch,), of "this is the source domain".
      label: 1 where it is, 0 where it is the other.
      weights: (batch,) of the examples in the weighted mean of the cross-entropy; None
        weighs all alike.
    """
    hits = jnp.mean((logits > 0) == (label > 0.5))
    if weights is None:
        target = jnp.full(len(logits), label)
        return losses.binary_cross_entropy(logits, target), hits
    values = jax.nn.softplus(logits) - label * logits
    return jnp.sum(weights * values) / jnp.sum(weights), hits


def width(setup: Setup, stage: str) -> int:
    """Returns how many numbers `pairs.vector` makes of a stage's output."""
    shape = functools.partial(domain_pair.vector, setup.program.network, stage)
    return jax.eval_shape(shape, setup.features[stage]).shape[-1]


def check(
    setup: Setup,
    source: str,
    target: str,
    widths: tuple[int, ...],
    reversal: float | Schedule = 0.0,
) -> None:
    """Raises for what no adversarial term takes: streams, widths, negative reversal."""
    checks.stream(setup, "source", source)
    checks.stream(setup, "target", target)
    checks.number(setup, "reversal", reversal, 0.0)
    if any(units < 1 for units in widths):
        raise UserError(
            f"{checks.where(setup, 'widths')}={widths}: expected widths of at least 1."
        )


def needs_body(setup: Setup, term: str) -> None:
    """Raises where the model is a head alone: a second head would share nothing."""
    if len(setup.program.network.stages) < 2:
        raise UserError(
            f"terms.{setup.name}: {term} puts a second classifier beside the head, on "
            "the features before it, and this model is a head alone; give it a stage "
            "below."
        )


def head_logits(context, feature) -> jax.Array:
    """Returns the logits of the model's own head on other features, (batch, outputs).

    Args:
      context: of the step; the head runs in its training mode.
      feature: in place of the output of the last stage before the head.
    """
    return context.program.network.apply(
        context.params,
        context.stats,
        feature,
        start=context.program.network.stages[-1],
        train=context.program.train_stages,
        frozen_stats=context.program.frozen_stats,
        key=context.key,
    ).logits
