"""MAE: hide most patches of an image, and predict their pixels."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import PyTree, Tokens
from jaxtl.models.layers.patch_decoder import PatchDecoder
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View


def patch_pixels(x: jax.Array, side: int) -> jax.Array:
    """Pixels of each patch, (n, patches, side · side · channels), row by row.

    Args:
      x: (n, height, width, channels); a rest at the border is left out.
      side: of a patch.

    Returns:
      Values in the units of x, patches row by row of the image.
    """
    n, height, width, channels = x.shape
    rows, columns = height // side, width // side
    x = x[:, : rows * side, : columns * side]
    x = x.reshape(n, rows, side, columns, side, channels).swapaxes(2, 3)
    return x.reshape(n, rows * columns, side * side * channels)


def masked_patch_error(
    predicted: jax.Array, pixels: jax.Array, hidden: jax.Array, normalize: bool = True
) -> jax.Array:
    """Squared error of hidden patches, mean over their values.

    Args:
      predicted, pixels: (n, patches, values).
      hidden: (n, patches), 1 for patches that were hidden and 0 for others.
      normalize: whether each patch's pixels get mean 0 and variance 1 first (divided
        by √(variance + 1e-6), with the variance of values − 1).

    Returns:
      A scalar, without ½; the mean over hidden patches of all images.

    References:
      He et al., CVPR 2022, section 3, and the authors' program.
    """
    pixels = as_float32(pixels)
    if normalize:
        variance = jnp.var(pixels, -1, keepdims=True, ddof=1)
        pixels = (pixels - pixels.mean(-1, keepdims=True)) / jnp.sqrt(variance + 1e-6)
    errors = jnp.mean(jnp.square(as_float32(predicted) - pixels), -1)
    return jnp.sum(errors * hidden) / jnp.sum(hidden)


def drawn_order(key: jax.Array, count: int, patches: int) -> jax.Array:
    """A random order of patches for each image, (count, patches).

    Args:
      key: PRNG key.
      count: number of images.
      patches: number of patches of an image.

    Returns:
      Integers, one permutation in each row.
    """
    return jnp.argsort(jax.random.uniform(key, (count, patches)), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAE(Term):
    """Reconstruction of hidden patches from the few that a vision transformer sees.

    The encoder runs on the visible patches alone; a decoder of the term's own, without
    dropout, predicts the pixels of the others. Images are as the experiment augments
    them; the paper crops and mirrors, and no more.

    Attributes:
      masked: share of the patches that are hidden.
      width, layers, heads: of the decoder.
      normalize: whether each patch's pixels get mean 0 and variance 1.
      stream: name of the stream; its labels are not used.

    References:
      He, Chen, Xie, Li, Dollár, Girshick, Masked Autoencoders Are Scalable Vision
      Learners, CVPR 2022.
    """

    trains_head: ClassVar[Any] = False

    weight: float | Schedule = traced(1.0)
    masked: float = 0.75
    width: int = 512
    layers: int = 8
    heads: int = 16
    normalize: bool = True
    stream: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        patches = _grid(setup, self.stream)[1]
        if not 1 <= self._visible(patches) < patches:
            raise UserError(
                f"{checks.where(setup, 'masked')}={self.masked!r}: of {patches} "
                f"patches this shows {self._visible(patches)}; expected a share in "
                "(0, 1) that leaves some visible and some hidden."
            )
        for field in ("width", "layers", "heads"):
            checks.count(setup, field, getattr(self, field))
        if self.width % 4 or self.width % self.heads:
            raise UserError(
                f"{checks.where(setup, 'width')}={self.width}: expected a multiple of "
                f"4 and of heads={self.heads}."
            )

    def _visible(self, patches: int) -> int:
        return int(patches * (1 - self.masked))

    def _decoder(self, side: int, channels: int, before: int) -> PatchDecoder:
        return PatchDecoder(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            outputs=side * side * channels,
            before=before,
        )

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        side, patches, before = _grid(setup, self.stream)
        tokens = setup.features[setup.program.network.stages[0]]
        kernel = setup.params[setup.program.network.stages[0]]["patch"]["kernel"]
        decoder = self._decoder(side, kernel.shape[2], before)
        states = jnp.zeros((1, before + 1, tokens.states.shape[-1]))
        places = jnp.zeros((1, patches), int)
        return {"decoder": decoder.init(key, states, places)["params"]}

    def __call__(self, context: View) -> jax.Array:
        x, stages = context.batches[self.stream]["x"], context.program.network.stages
        side = context.params[stages[0]]["patch"]["kernel"].shape[0]
        pixels = patch_pixels(x, side)
        tokens = context.run(x, stop=stages[0]).features[stages[0]]
        n, patches = pixels.shape[:2]
        before, visible = tokens.states.shape[1] - patches, self._visible(patches)
        order = drawn_order(context.key, n, patches)
        seen = jnp.take_along_axis(
            tokens.states[:, before:], order[:, :visible, None], 1
        )
        states = jnp.concatenate([tokens.states[:, :before], seen], 1)
        seen_tokens = Tokens(states, jnp.ones(states.shape[:2], bool))
        out = context.run(seen_tokens, start=stages[1], stop=stages[-2])
        encoded = out.features[stages[-2]].states
        places = jnp.argsort(order, 1)
        decoder = self._decoder(side, x.shape[-1], before)
        params: Any = {"params": context.term_params["decoder"]}
        predicted: Any = decoder.apply(params, as_float32(encoded), places)
        hidden = (places >= visible).astype(jnp.float32)
        return masked_patch_error(predicted, pixels, hidden, self.normalize)


def _grid(setup: Setup, stream: str) -> tuple[int, int, int]:
    """(Side of a patch, number of patches, number of tokens before them).

    Raises:
      UserError: the model is no plain vision transformer.
    """
    stages = setup.program.network.stages
    kernel = trees.flatten(setup.params).get(f"{stages[0]}/patch/kernel")
    names = [name for name in (stages[0], stages[-2]) if len(stages) > 2]
    tokens = [setup.features.get(name) for name in names]
    is_plain = kernel is not None and all(isinstance(t, Tokens) for t in tokens)
    if is_plain and names:
        lengths = {t.states.shape[1] for t in tokens if isinstance(t, Tokens)}
        is_plain = len(lengths) == 1
    if any("relative" in path for path in trees.flatten(setup.params)):
        is_plain = False
    if kernel is None or not is_plain or not names:
        raise UserError(
            f"terms.{setup.name}: MAE hides patches of a vision transformer, and this "
            f"model (stages: {', '.join(stages)}) has no row of patches that some "
            "can be left out of; take tl.models.ViT or DeiT, or a term of two views "
            "such as tl.selfsup.SimCLR."
        )
    side = kernel.shape[0]
    x = next(iter(setup.batches(stream)))["x"]
    patches = (x.shape[1] // side) * (x.shape[2] // side)
    [length] = lengths
    return side, patches, length - patches
