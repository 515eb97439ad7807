"""Parts of adversarial terms: reversed gradients, perceptrons and base classes."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import PyTree, Tokens
from jaxtl.models.layers.batch_norm import normalize
from jaxtl.models.layers.channel_moments import channel_moments
from jaxtl.optim import schedules
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.context import View
from jaxtl.terms.domain.domain_pair import DomainPair, DomainPairAtStage, vector_width
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean

# λ of the program of CDAN's authors, 0.05 after 100 steps, 0.29 after 600, 0.96 after
# 4,000, in a run of any length. DANN's paper lets it rise with the share of the run,
# `schedules.Ramp()`: in a run of 600 steps it is 0.85 after 150.
REVERSAL = schedules.Ramp(final=1.0, gamma=10.0, per_steps=10_000.0)
_EPSILON = 1e-5  # of BatchNorm, as torch's


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
    key: jax.Array,
    widths: tuple[int, ...],
    outputs: int = 1,
    *,
    norm: bool = False,
    initializer: Literal["he", "xavier"] | float = "he",
) -> PyTree:
    """Initializes the parameters of a perceptron with ReLU between its layers.

    Args:
      key: PRNG key.
      widths: of the input and of each hidden layer.
      outputs: width of the last layer.
      norm: whether the hidden layers are batch-normalized.
      initializer: of the kernels, all normal: "he" of variance 2/in (He et al., ICCV
        2015), "xavier" of variance 2/(in + out) (Glorot & Bengio, AISTATS 2010), or a
        number, their standard deviation.

    Returns:
      {"layer0": {"kernel": (in, out), "bias": (out,)}, …}, biases 0; with `norm` hidden
      layers have "scale" and "shift", too, of ones and zeros.
    """
    params = {}
    for i, (rows, columns) in enumerate(zip(widths, (*widths[1:], outputs))):
        noise = jax.random.normal(jax.random.fold_in(key, i), (rows, columns))
        fan = rows + columns if initializer == "xavier" else rows
        is_number = isinstance(initializer, int | float)
        deviation = initializer if is_number else jnp.sqrt(2.0 / fan)
        layer = {"kernel": noise * deviation, "bias": jnp.zeros(columns)}
        if norm and i < len(widths) - 1:
            layer |= {"scale": jnp.ones(columns), "shift": jnp.zeros(columns)}
        params[f"layer{i}"] = layer
    return params


def perceptron(
    params: PyTree,
    x: jax.Array,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Outputs of a perceptron, (batch, width) -> (batch, outputs).

    A hidden layer is its linear map, BatchNorm by the mean and variance of this batch
    (ε = 1e-5, as torch's) where it has a "scale", ReLU, and dropout.

    Args:
      params: as `perceptron_init` makes them.
      x: (batch, width).
      dropout: share of the hidden units that are set to 0, the others divided by
        1 − dropout.
      key: that draws them, where `dropout` is above 0.
    """
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        if "scale" in layer:
            moments = channel_moments(as_float32(x), _EPSILON)
            x = normalize(x, moments, layer["scale"], layer["shift"], _EPSILON)
        if i < len(params) - 1:
            x = jax.nn.relu(x)
            if dropout and key is not None:
                keep = jax.random.bernoulli(
                    jax.random.fold_in(key, i), 1.0 - dropout, x.shape
                )
                x = jnp.where(keep, x / (1.0 - dropout), 0.0)
    return x


def discriminator(
    params: PyTree,
    x: jax.Array,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Logits of "x is from the source domain", (batch, width) -> (batch,)."""
    return perceptron(params, x, dropout, key)[:, 0]


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
class PerceptronTerm(Term):
    """Base class of terms with a perceptron of their own.

    Attributes:
      widths: of its hidden layers; () is a linear map.
      dropout: share of the hidden units that a step sets to 0 (0.5 in the programs of
        CDAN's and MDD's authors).
      norm: whether hidden layers are batch-normalized before ReLU. A discriminator
        takes both domains as one batch then; a second classifier each by itself.
      initializer: of its kernels, as in `perceptron_init`: "he", "xavier" (as CDAN's
        authors have it) or a standard deviation (0.01 in the program of MDD's).
    """

    widths: tuple[int, ...] = (64,)
    dropout: float = 0.0
    norm: bool = False
    initializer: Literal["he", "xavier"] | float = "he"

    @property
    def compares(self) -> str:  # type: ignore[override]
        return "BatchNorm of its own network" if self.norm else ""

    def check_perceptron(self, setup: Setup) -> None:
        """Raises UserError for a setting that no perceptron can have."""
        if any(units < 1 for units in self.widths):
            raise UserError(
                f"{checks.where(setup, 'widths')}={self.widths}: expected widths of at "
                "least 1."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"{checks.where(setup, 'dropout')}={self.dropout!r}: expected a share "
                "in [0, 1)."
            )
        if isinstance(self.initializer, str):
            known = ("he", "xavier")
            checks.one_of(setup, "initializer", self.initializer, known)
        else:
            checks.number(setup, "initializer", self.initializer, 0.0)

    def perceptron_params(self, key: jax.Array, width: int, outputs: int = 1) -> PyTree:
        """Initializes the perceptron for an input of this width."""
        return perceptron_init(
            key,
            (width, *self.widths),
            outputs,
            norm=self.norm,
            initializer=self.initializer,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorTerm(DomainPairAtStage, PerceptronTerm):
    """Base class of terms with a domain discriminator on one stage's features.

    Attributes:
      source, target, stage: as in `DomainPairAtStage`.
      widths, dropout, norm, initializer: as in `PerceptronTerm`.
    """

    def check(self, setup: Setup) -> None:
        super().check(setup)
        self.check_perceptron(setup)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        return self.perceptron_params(key, self.input_width(setup))

    def discriminate(
        self, params: PyTree, source: jax.Array, target: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The discriminator's logits of both domains, (n,) and (m,).

        With BatchNorm they are one batch: the means of two would be all alike, and the
        domains could not be told apart by them.
        """
        keys = jax.random.split(key)
        if self.norm:
            both = jnp.concatenate([source, target])
            logits = discriminator(params, both, self.dropout, keys[0])
            return logits[: len(source)], logits[len(source) :]
        return (
            discriminator(params, source, self.dropout, keys[0]),
            discriminator(params, target, self.dropout, keys[1]),
        )

    def input_width(self, setup: Setup) -> int:
        """Width of the discriminator's input."""
        return vector_width(setup, self.stage_name(setup.program.network))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuxiliaryClassifierTerm(DomainPair, PerceptronTerm):
    """Base class of terms with a second classifier beside the head.

    Both classifiers read the output of the last stage before the head.

    Attributes:
      source, target: as in `DomainPair`.
      widths, dropout, norm, initializer: as in `PerceptronTerm`.
    """

    def check(self, setup: Setup) -> None:
        name = type(self).__name__
        checks.task(setup, name, "classification")
        super().check(setup)
        self.check_perceptron(setup)
        check_body(setup, name)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        width = vector_width(setup, setup.program.network.stages[-2])
        return self.perceptron_params(key, width, setup.program.outputs)

    def second_logits(
        self, context: View, features: jax.Array, stream: str
    ) -> jax.Array:
        """The second classifier's logits of a stream's features, (batch, K)."""
        key = jax.random.fold_in(context.key, int(stream == self.target))
        return perceptron(context.term_params, features, self.dropout, key)
