"""Losses of pairs of texts: CoSENT, and the other pairs of a batch as negatives.

`losses.SquaredError` of the cosine and the scaled score is the third one,
CosineSimilarityLoss of sentence-transformers.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.models.bi_encoder import POOLING
from jaxtl.models.layers.sequences import unit_length
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View


def cosent(
    cosines: jax.Array, scores: jax.Array, scale: float | jax.Array = 20.0
) -> jax.Array:
    """log(1 + Σ exp(scale · (cos_i − cos_j))) over all i, j with score_i < score_j.

    Args:
      cosines: (batch,) of the pairs, in [−1, 1].
      scores: (batch,); their order alone counts.
      scale: the inverse of a temperature, may be traced.

    Returns:
      A scalar, at least 0.

    References:
      Su, CoSENT, https://kexue.fm/archives/8847 (2022); `CoSENTLoss` of
      sentence-transformers.
    """
    cosines, scores = as_float32(cosines), as_float32(scores)
    differences = scale * (cosines[:, None] - cosines[None, :])
    is_lower = scores[:, None] < scores[None, :]
    exponents = jnp.where(is_lower, differences, -jnp.inf).reshape(-1)
    return jax.nn.logsumexp(jnp.concatenate([jnp.zeros_like(exponents[:1]), exponents]))


def multiple_negatives_ranking(
    anchors: jax.Array, positives: jax.Array, scale: float | jax.Array = 20.0
) -> jax.Array:
    """−log softmax_j(scale · cos(a_i, b_j)) at j = i, mean over the pairs i.

    Args:
      anchors: a, (batch, width).
      positives: b, (batch, width); those of other pairs are the negatives.
      scale: the inverse of a temperature, may be traced.

    Returns:
      A scalar in nats.

    References:
      Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply,
      arXiv:1705.00652, section 4.4; `MultipleNegativesRankingLoss` of
      sentence-transformers.
    """
    a, b = unit_length(as_float32(anchors)), unit_length(as_float32(positives))
    log_p = jax.nn.log_softmax(scale * (a @ b.T), axis=-1)
    return -jnp.mean(jnp.diagonal(log_p))


def _check_pairs(setup: Setup, term: str) -> None:
    """Raises UserError unless the model compares pairs of texts."""
    shape: tuple[int, ...] = getattr(setup.features.get(POOLING), "shape", ())
    if len(shape) != 3 or shape[1] != 2:
        raise UserError(
            f"terms.{setup.name}: {term} compares the embeddings of two texts; it "
            "needs model=tl.models.BiEncoder(encoder=…), or the predict='similarity' "
            "of pretrained weights."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoSENT(Term):
    """`cosent` of a stream's batch: pairs of a higher score shall be more similar.

    Attributes:
      scale: of the cosines.
      stream: name of the stream.
    """

    compares: ClassVar[str] = "pairs of examples"

    scale: float = traced(20.0)
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.task(setup, "CoSENT", "regression")
        _check_pairs(setup, "CoSENT")

    def __call__(self, context: View) -> jax.Array:
        cosines = context.forward(self.stream).logits[:, 0]
        scores = context.batches[self.stream]["y"].reshape(-1)
        return cosent(cosines, scores, self.scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleNegativesRanking(Term):
    """`multiple_negatives_ranking` of a stream's batch; reports its accuracy.

    Every pair of the batch counts as one of equal meaning, whatever its score.

    Attributes:
      scale: of the cosines.
      stream: name of the stream.
    """

    compares: ClassVar[str] = "pairs of examples"

    scale: float = traced(20.0)
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        _check_pairs(setup, "MultipleNegativesRanking")

    def describe(self, setup: Setup) -> str:
        return (
            "every pair of a batch counts as one of equal meaning, whatever its score"
        )

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        pairs = context.forward(self.stream).features[POOLING]
        a, b = pairs[:, 0], pairs[:, 1]
        value = multiple_negatives_ranking(a, b, self.scale)
        nearest = jnp.argmax(unit_length(a) @ unit_length(b).T, axis=-1)
        hits = (nearest == jnp.arange(len(a))).astype(jnp.float32)
        return value, {"accuracy": jnp.mean(hits)}
