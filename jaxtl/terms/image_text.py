"""Contrastive losses of images and their texts: pure functions and thin terms.

Each image of a batch has one text; all other texts of the batch are its negatives. Both
losses are computed in float32 (or wider) whatever the model computes in.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.data.dataset import CONTRASTIVE
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.weighted_mean import ratio

# Outputs of a model of images and texts, each a dict of these.
IMAGES, TEXTS = "image_embeddings", "text_embeddings"
SCALE, BIAS = "logit_scale", "logit_bias"


def similarities(
    images: jax.Array,
    texts: jax.Array,
    scale: float | jax.Array = 1.0,
    bias: float | jax.Array = 0.0,
) -> jax.Array:
    """s·⟨uᵢ, vⱼ⟩ + b of every image u and every text v, (images, texts).

    Args:
      images: u, (images, width), of norm 1.
      texts: v, (texts, width), of norm 1.
      scale: s, the inverse of the temperature.
      bias: b.
    """
    return scale * (as_float32(images) @ as_float32(texts).T) + bias


def symmetric_cross_entropy(
    logits: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """CLIP's loss: cross-entropy of each image's own text and of each text's image.

    ½·(Σᵢ wᵢ·(−log softmaxⱼ(zᵢⱼ)ᵢ) + Σⱼ wⱼ·(−log softmaxᵢ(zᵢⱼ)ⱼ)) / Σ w. A pair of
    weight 0 is no negative of the others: the loss is that of the batch without it.

    Args:
      logits: z, (batch, batch) `similarities`; image i belongs to text i.
      weights: w, (batch,) of the pairs, at least 0; None for 1.

    Returns:
      A scalar in nats; log(batch) where all similarities are equal.

    References:
      Radford et al., Learning Transferable Visual Models From Natural Language
      Supervision, ICML 2021, figure 3 (its two losses are averaged).
    """
    return ratio(*_symmetric_cross_entropy(logits, weights))


def _symmetric_cross_entropy(
    logits: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """(Σ w·loss, Σ w) of `symmetric_cross_entropy`."""
    weights = _weights(logits, weights)
    counts = weights > 0
    pairs = jnp.diagonal(logits)
    # An excluded pair keeps its own logit, so that its loss is 0 and not infinite.
    allowed = (counts[:, None] & counts) | jnp.eye(len(logits), dtype=bool)
    masked = jnp.where(allowed, logits, -jnp.inf)
    of_images = jax.nn.logsumexp(masked, axis=1) - pairs
    of_texts = jax.nn.logsumexp(masked, axis=0) - pairs
    return jnp.sum(weights * (of_images + of_texts)) / 2, jnp.sum(weights)


def pairwise_sigmoid(logits: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """SigLIP's loss: every image with every text is a pair or none.

    −Σᵢⱼ ½(wᵢ + wⱼ)·log σ(yᵢⱼ·zᵢⱼ) / Σ w, y = 1 for a pair and −1 for others. Without
    weights that is the sum over the texts of an image, averaged over images. A pair of
    weight 0 is no negative of the others.

    Args:
      logits: z, (batch, batch) `similarities`; image i belongs to text i.
      weights: w, (batch,) of the pairs, at least 0; None for 1.

    Returns:
      A scalar in nats.

    References:
      Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023, section 3.2.
    """
    return ratio(*_pairwise_sigmoid(logits, weights))


def _pairwise_sigmoid(
    logits: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """(Σ w·loss, Σ w) of `pairwise_sigmoid`."""
    weights = _weights(logits, weights)
    counts = weights > 0
    signs = 2 * jnp.eye(len(logits), dtype=logits.dtype) - 1
    of_pairs = jnp.where(counts[:, None] & counts, (weights[:, None] + weights) / 2, 0)
    return jnp.sum(of_pairs * jax.nn.softplus(-signs * logits)), jnp.sum(weights)


def _weights(logits: jax.Array, weights: jax.Array | None) -> jax.Array:
    if weights is None:
        return jnp.ones(len(logits), logits.dtype)
    return jnp.asarray(weights, logits.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ImageText(Term):
    """What the contrastive terms share.

    Attributes:
      stream: name of the stream; the model's output for it is a dict of
        "image_embeddings" and "text_embeddings", (batch, width) of norm 1, and
        "logit_scale" and "logit_bias", scalars (1 and 0 where left out).
      sums: `(logits, weights) -> (Σ w·loss, Σ w)` of a batch.
    """

    compares: ClassVar[str] = "pairs, each the negatives of the others"
    reads_weights: ClassVar[bool] = True
    sums: ClassVar[Callable[..., tuple[jax.Array, jax.Array]]]

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, type(self).__name__, CONTRASTIVE)
        check_pairs(setup)
        size = setup.program.batch_sizes[self.stream] // setup.program.accumulate
        if size < 2:
            raise UserError(
                f"terms.{setup.name}: {type(self).__name__} compares the pairs of a "
                f"batch, and there is {size} in each; expected at least 2 "
                "(batch / accumulate)."
            )

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = logits_of(context.forward(self.stream).logits)
        weights = context.batches[self.stream].get("weight")
        total, count = self.sums(logits, weights)
        hits = jnp.argmax(logits, axis=1) == jnp.arange(len(logits))
        metrics = {"accuracy": jnp.mean(hits.astype(jnp.float32))}
        return context.ratio(total, count), metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextCrossEntropy(_ImageText):
    """`symmetric_cross_entropy` of a stream's images and texts, as CLIP is trained.

    Reports the share of images that are most similar to their own text of the batch.

    Attributes:
      stream: name of the stream.
    """

    sums = staticmethod(_symmetric_cross_entropy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextSigmoid(_ImageText):
    """`pairwise_sigmoid` of a stream's images and texts, as SigLIP is trained.

    Reports the share of images that are most similar to their own text of the batch.

    Attributes:
      stream: name of the stream.
    """

    sums = staticmethod(_pairwise_sigmoid)


def logits_of(outputs: Mapping[str, Any]) -> jax.Array:
    """`similarities` of a batch, (batch, batch), from a model's outputs."""
    return similarities(
        outputs[IMAGES], outputs[TEXTS], outputs.get(SCALE, 1.0), outputs.get(BIAS, 0.0)
    )


def joined_embeddings(outputs: Mapping[str, Any]) -> jax.Array:
    """The embeddings of image and text side by side, (batch, 2·width) float32."""
    return jnp.concatenate([as_float32(outputs[n]) for n in (IMAGES, TEXTS)], axis=-1)


def check_pairs(setup: Setup) -> None:
    """Raises UserError unless the model gives embeddings of images and of texts."""
    output = setup.features.get(setup.program.network.stages[-1])
    if isinstance(output, Mapping) and {IMAGES, TEXTS} <= set(output):
        return
    shape = sorted(output) if isinstance(output, Mapping) else output
    raise UserError(
        f"model: the task {CONTRASTIVE!r} needs embeddings of images and of texts, a "
        f"dict of {IMAGES!r} and {TEXTS!r}, as tl.models.TwoTowers gives; this model "
        f"gives {getattr(shape, 'shape', shape)}."
    )
