"""Function distance: the outputs stay near the source's, on the same inputs."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import source_network

# What the outputs of a task are.
KINDS = {
    "classification": "softmax",
    "language": "softmax",
    "entities": "softmax",
    "tags": "softmax",
    "multilabel": "sigmoid",
    "regression": "identity",
}


def kl_divergence(
    target: jax.Array, logits: jax.Array, temperature: ArrayLike = 1.0
) -> jax.Array:
    """KL(p ‖ q) = Σ_c p_c (log p_c − log q_c) with p, q = softmax(· / T), in nats.

    Args:
      target: logits of p, (..., K).
      logits: logits of q, (..., K).
      temperature: T > 0, may be traced. There is no factor T².

    Returns:
      (...,), at least 0.
    """
    log_p = jax.nn.log_softmax(as_float32(target) / temperature)
    log_q = jax.nn.log_softmax(as_float32(logits) / temperature)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def bernoulli_kl(
    target: jax.Array, logits: jax.Array, temperature: ArrayLike = 1.0
) -> jax.Array:
    """Σ_c KL(p_c ‖ q_c) of independent binary outputs, p, q = sigmoid(· / T).

    Args:
      target, logits, temperature: as in `kl_divergence`.

    Returns:
      (...,), at least 0, in nats.
    """
    a, b = as_float32(target) / temperature, as_float32(logits) / temperature
    # log σ(a) − log σ(b), and log σ(−a) − log σ(−b) for the other outcome.
    yes = jax.nn.log_sigmoid(a) - jax.nn.log_sigmoid(b)
    no = jax.nn.log_sigmoid(-a) - jax.nn.log_sigmoid(-b)
    return jnp.sum(jax.nn.sigmoid(a) * yes + jax.nn.sigmoid(-a) * no, axis=-1)


def squared_distance(target: jax.Array, outputs: jax.Array) -> jax.Array:
    """Σ_c (f_c − f⁰_c)², without ½.

    Args:
      target: f⁰, (..., K).
      outputs: f, (..., K).

    Returns:
      (...,), at least 0.
    """
    return jnp.sum(jnp.square(as_float32(outputs) - as_float32(target)), axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionDistance(Term):
    """Distance of the outputs to the source's on the same inputs.

    T² · KL(source ‖ model), mean over examples (over real tokens, where outputs are
    per token); T² keeps the gradient's size as T grows (Hinton et al., section 2.1).
    A model with the source's head is compared by its own outputs. If the model has a
    new head, the source's own head, held fixed, runs on the model's features, so that
    the function of the source is preserved. The model's side is its training pass, the
    source's in evaluation mode: at θ = θ₀ the term is 0 where there is neither dropout
    nor BatchNorm in training mode.

    Attributes:
      temperature: T.
      kind: what the source's outputs are: logits of a "softmax", logits of independent
        "sigmoid"s, or values ("identity": Σ (f − f₀)², without T); None is that of the
        experiment's task.
      stream: name of the stream.

    References:
      Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network,
      arXiv:1503.02531. Benjamin, Rolnick, Kording, Measuring and Regularizing Networks
      in Function Space, ICLR 2019 (the squared distance).
    """

    temperature: float = traced(1.0)
    kind: Literal["softmax", "sigmoid", "identity"] | None = None
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        source_network.check_head(setup, "FunctionDistance")
        checks.outputs_of_examples(setup, "FunctionDistance")
        checks.stream(setup, "stream", self.stream)
        if self.kind is not None:
            kinds = dict.fromkeys(KINDS.values())
            checks.one_of(setup, "kind", self.kind, kinds)
        checks.positive(setup, "temperature", self.temperature)

    def describe(self, setup: Setup) -> str:
        kind = self.kind or KINDS[setup.program.task]
        if source_network.has_source_head(setup):
            return f"{kind} outputs of the model, whose head is the source's"
        return f"{kind} outputs of the source's head on the model's features"

    def __call__(self, context: View) -> jax.Array:
        target = context.source_forward(self.stream).logits
        out = context.forward(self.stream)
        if source_network.has_source_head(context):
            outputs = out.logits
        else:
            head = context.source.head
            outputs = source_network.head_logits(context, head, self.stream)
        kind = self.kind or KINDS[context.program.task]
        if kind == "identity":
            value = squared_distance(target, outputs)
        else:
            kl = kl_divergence if kind == "softmax" else bernoulli_kl
            scale = jnp.square(self.temperature)
            value = scale * kl(target, outputs, self.temperature)
        feature = out.features.get(feature_stage(context.program.network.stages))
        return source_network.mean_over_tokens(value, feature, context.mean)
