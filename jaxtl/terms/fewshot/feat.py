"""FEAT: prototypes attend to each other before queries are compared with them."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.fewshot import base
from jaxtl.terms.fewshot.protonet import prototype_logits

_EPSILON = 1e-5  # of the layer norm, as torch's


def attended(params: PyTree, x: jax.Array) -> jax.Array:
    """LayerNorm(x + (softmax(Q Kᵀ / √d) V) W + b) of a set, one head.

    Args:
      params: {"query", "key", "value", "output": (d, d); "bias", "scale", "shift":
        (d,)}.
      x: (n, d).

    Returns:
      (n, d).
    """
    query, key, value = (x @ params[name] for name in ("query", "key", "value"))
    attention = jax.nn.softmax(query @ key.T / jnp.sqrt(float(x.shape[-1])))
    x = x + attention @ value @ params["output"] + params["bias"]
    centered = x - x.mean(-1, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + _EPSILON)
    return params["scale"] * centered / deviation + params["shift"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FEAT(base.FeatureTerm):
    """Cross-entropy of −‖f(q) − c′_k‖² / T, c′ the `attended` means of the support.

    The attention is trained with the model. Without the paper's contrastive term and
    its dropout; its programs begin with a body trained to classify (`init=`).

    Attributes:
      temperature: T; 64 in the authors' program for 5-way 1-shot.

    References:
      Ye, Hu, Zhan, Sha, Few-Shot Learning via Embedding Adaptation with Set-to-Set
      Functions, CVPR 2020, eq. 4 and 8; Sha-Lab/FEAT, model/models/feat.py.
    """

    temperature: float = traced(64.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "temperature", self.temperature)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        width = self.feature_width(setup)
        names = ("query", "key", "value", "output")
        keys = jax.random.split(key, len(names))
        params = {
            # Variance 2 / (d + d), as in the authors' program.
            name: jax.random.normal(k, (width, width)) / jnp.sqrt(width)
            for name, k in zip(names, keys)
        }
        zeros = jnp.zeros(width)
        return {**params, "bias": zeros, "scale": zeros + 1.0, "shift": zeros}

    def classify(
        self, term_params: PyTree, support: jax.Array, queries: jax.Array
    ) -> jax.Array:
        prototypes = attended(term_params, support.mean(1))
        return prototype_logits(prototypes[:, None], queries) / self.temperature
