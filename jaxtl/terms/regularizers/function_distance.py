"""Function distance: keep the source's outputs, wherever the parameters go."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.regularizers import source_network

_KIND = {
    "classification": "softmax",
    "language": "softmax",
    "multilabel": "sigmoid",
    "regression": "identity",
}


def kl_divergence(target: jax.Array, logits: jax.Array, temperature=1.0) -> jax.Array:
    """KL(p ‖ q) = Σ_c p_c (log p_c − log q_c) with p, q = softmax(· / T), in nats.

    Args:
      target: logits of p, (..., K).
      logits: logits of q, (..., K).
      temperature: T > 0, may be traced. There is no factor T².

    Returns:
      (...,), at least 0.
    """
    log_p = jax.nn.log_softmax(_wide(target) / temperature)
    log_q = jax.nn.log_softmax(_wide(logits) / temperature)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def bernoulli_kl(target: jax.Array, logits: jax.Array, temperature=1.0) -> jax.Array:
    """Σ_c KL(p_c ‖ q_c) of independent yes-or-no outputs, p, q = sigmoid(· / T).

    Arguments and result as of `kl_divergence`.
    """
    a, b = _wide(target) / temperature, _wide(logits) / temperature
    # log σ(a) − log σ(b), and log σ(−a) − log σ(−b) for the other outcome.
    yes = jax.nn.log_sigmoid(a) - jax.nn.log_sigmoid(b)
    no = jax.nn.log_sigmoid(-a) - jax.nn.log_sigmoid(-b)
    return jnp.sum(jax.nn.sigmoid(a) * yes + jax.nn.sigmoid(-a) * no, axis=-1)


def squared_distance(target: jax.Array, outputs: jax.Array) -> jax.Array:
    """Σ_c (f_c − f⁰_c)², without ½; (..., K) -> (...,)."""
    return jnp.sum(jnp.square(_wide(outputs) - _wide(target)), axis=-1)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionDistance(Term):
    """Distance of the outputs to the source's on the same inputs.

    T² · KL(source ‖ model), mean over examples (over real tokens, where outputs are
    per token); T² keeps the gradient's size as T grows (Hinton et al., section 2.1).
    A model with the source's head is compared by its own outputs. For a new head, the
    source's own head, held fixed, runs on the model's features, so what is kept is the
    function that the source knew. The model's side is its training pass, the source's
    in evaluation mode: at θ = θ₀ the term is 0 where there is neither dropout nor
    BatchNorm in training mode.

    Attributes:
      temperature: T.
      kind: what the source's outputs are: logits of a "softmax", of "sigmoid"s, or the
        values themselves ("identity": Σ (f − f₀)², without T); None: as this
        experiment's task has it.
      stream: name of the stream.

    References:
      Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network,
      arXiv:1503.02531. Benjamin, Rolnick, Kording, Measuring and Regularizing Networks
      in Function Space, ICLR 2019 (the squared distance).
    """

    temperature: float = traced(1.0)
    kind: Literal["softmax", "sigmoid", "identity"] | None = None
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        source_network.needs_head(setup, "FunctionDistance")
        checks.stream(setup, "stream", self.stream)
        if self.kind is not None:
            checks.one_of(setup, "kind", self.kind, dict.fromkeys(_KIND.values()))
        checks.positive(setup, "temperature", self.temperature)

    def describe(self, setup: Setup) -> str:
        kind = self.kind or _KIND[setup.program.task]
        if source_network.kept(setup):
            return f"{kind} outputs of the model, whose head is the source's"
        return f"{kind} outputs of the source's head on the model's features"

    def __call__(self, context):
        theirs = context.source_forward(self.stream).logits
        out = context.forward(self.stream)
        if source_network.kept(context):
            ours = out.logits
        else:
            ours = source_network.head_logits(context, context.source.head, self.stream)
        kind, t = self.kind or _KIND[context.program.task], self.temperature
        if kind == "identity":
            value = squared_distance(theirs, ours)
        else:
            kl = kl_divergence if kind == "softmax" else bernoulli_kl
            value = jnp.square(t) * kl(theirs, ours, t)
        feature = out.features.get(feature_stage(context.program.network.stages))
        return source_network.mean(value, feature)
