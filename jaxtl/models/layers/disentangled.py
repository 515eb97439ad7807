"""DeBERTa's parts: relative positions that attention reads, and a convolution.

References:
  He et al.: DeBERTa, ICLR 2021; DeBERTaV3, ICLR 2023.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.types import Tokens
from jaxtl.models.layers import norms, transformer
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.attention import Projection
from jaxtl.models.layers.bert_embeddings import BertEmbeddings
from jaxtl.models.layers.dense import broadcast
from jaxtl.models.layers.embedding import Embed
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.staged import Dropout, Mode


class DisentangledEmbeddings(BertEmbeddings):
    """Embeddings with vectors of relative positions.

    Attributes:
      span: the table has a vector for each of the buckets −span … span − 1.
      buckets: number of buckets of distances, see `_bucket`; 0 for one per distance.
      longest: distance that the last bucket reaches.
      kinds: of products: "c2p" of queries and positions, "p2c" of keys and positions.
      shared: whether the maps of the tokens' queries and keys are those of positions.
      normalized: whether the vectors are normalized.
    """

    span: int = 512
    buckets: int = 0
    longest: int = 512
    kinds: tuple[str, ...] = ()
    shared: bool = False
    normalized: bool = False

    def setup(self) -> None:
        super().setup()
        self.relative = Embed(2 * self.span, self.width, embedding_init=NORMAL)
        if self.normalized:
            self.relative_norm = norms.norm("layer", self.epsilon, "relative_norm")
        if self.is_initializing():
            self._vectors()

    def _vectors(self) -> jax.Array:
        """Vectors of the buckets, (2 · span, width)."""
        vectors = self.relative(jnp.arange(2 * self.span))
        return self.relative_norm(vectors) if self.normalized else vectors

    def relation(
        self, query: jax.Array, key: jax.Array, project: Projection
    ) -> jax.Array:
        """Products with the positions, scaled, (batch, heads, length, length)."""
        places = np.arange(query.shape[1])
        rows = _bucket(places[:, None] - places, self.buckets, self.longest)
        rows = np.clip(rows + self.span, 0, 2 * self.span - 1)[None, None]
        vectors = self._vectors().astype(query.dtype)
        products = jnp.zeros((1, 1, *rows.shape[2:]), query.dtype)
        if "c2p" in self.kinds:
            mapped = project("key" if self.shared else "position_key", vectors)
            ours = jnp.einsum("bqhd,rhd->bhqr", query, mapped)
            products += jnp.take_along_axis(ours, rows, -1)
        if "p2c" in self.kinds:
            mapped = project("query" if self.shared else "position_query", vectors)
            ours = jnp.einsum("bkhd,rhd->bhkr", key, mapped)
            ours = jnp.take_along_axis(ours, rows.swapaxes(2, 3), -1)
            products += ours.swapaxes(2, 3)
        return products * (query.shape[-1] * (1 + len(self.kinds))) ** -0.5


def _bucket(distance: np.ndarray, buckets: int, longest: int) -> np.ndarray:
    """Bucket of a distance: that itself up to half the buckets, then logarithmic.

    It is rounded as in float32, where transformers computes it.
    """
    if not buckets:
        return distance
    middle = buckets // 2
    size = np.maximum(np.abs(distance), middle).astype(np.float32)
    log = np.log(size / middle) / np.log(np.float32((longest - 1) / middle))
    far = np.ceil(log * (middle - 1)).astype(np.int32) + middle
    return np.where(np.abs(distance) <= middle, distance, np.sign(distance) * far)


class ConvolvedLayer(transformer.TransformerLayer):
    """A layer to whose output a convolution of its input over the text is added.

    Attributes:
      channels: width of the states.
      kernel: number of tokens that the convolution reads, odd.
      groups: of its channels.
      conv_activation: by name.
    """

    channels: int = 768
    kernel: int = 3
    groups: int = 1
    conv_activation: str = "tanh"

    def setup(self) -> None:
        side = self.kernel // 2
        self.conv = nn.Conv(
            self.channels,
            (self.kernel,),
            padding=[(side, side)],
            feature_group_count=self.groups,
            use_bias=False,
            kernel_init=NORMAL,
        )
        zeros = nn.initializers.zeros_init()
        self.conv_bias = self.param("conv_bias", zeros, (self.channels,))
        self.conv_norm = norms.norm("layer", self.block.epsilon, "conv_norm")
        self.conv_dropout = Dropout(self.block.dropout)

    def __call__(self, tokens: Tokens, mode: Mode) -> Tokens:
        states = super().__call__(tokens, mode).states
        # Convolutions read no padding.
        real = tokens.mask[..., None].astype(states.dtype)
        y = self.conv(tokens.states * real)
        y = (y + broadcast(self.conv_bias.astype(y.dtype), y.shape)) * real
        y = activation(self.conv_activation)(self.conv_dropout(y, mode))
        return Tokens(self.conv_norm(states + y) * real, tokens.mask)
