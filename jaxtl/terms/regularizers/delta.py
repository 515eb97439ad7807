"""DELTA: feature maps stay near the source's, each channel by its importance."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation
from jaxtl.core.config import traced
from jaxtl.core.types import Batch, PyTree, Tokens
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import feature_maps, per_leaf, source_network
from jaxtl.terms.regularizers.linear_fit import fit_linear
from jaxtl.terms.regularizers.weight_decay import weight_decay

_Loss = Callable[[jax.Array, jax.Array], jax.Array]

_LOSSES: dict[str, _Loss] = {
    "classification": losses.cross_entropy,
    "multilabel": losses.binary_cross_entropy,
    "regression": losses.squared_error,
}
_CHUNK = 64  # examples per pass while channel weights are computed
_DECAY = 1e-4  # of the linear head fitted for them, as in the authors' program


def feature_distance(
    feature: jax.Array | Tokens,
    source_feature: jax.Array | Tokens,
    weights: jax.Array | None = None,
) -> jax.Array:
    """½ · C · Σ_j w_j · mean over positions of (F_j − F⁰_j)², mean over examples.

    With uniform weights w_j = 1/C that is ½ Σ_j of the mean over positions. (The
    authors' program sums over examples, and over positions where it has no weights: its
    weight α is α·B here for batches of B, and α·B·P for P positions without weights.)

    Args:
      feature, source_feature: a stage's output of θ and of θ₀, (batch, …, C) or Tokens,
        whose padding does not count.
      weights: w, (C,), summing to 1; None for uniform ones.

    Returns:
      A scalar.

    References:
      Li et al., DELTA: Deep Learning Transfer using Feature Map with Attention, ICLR
      2019, the behavioral regularizer; factors ½ and C from the authors' program.
    """
    a, mask = feature_maps.flatten_positions(feature)
    b, _ = feature_maps.flatten_positions(source_feature)
    counts = jnp.maximum(mask.sum(1), 1.0)
    square = jnp.sum(jnp.square(a - b), axis=1) / counts[:, None]
    if weights is None:
        return 0.5 * jnp.mean(jnp.sum(square, axis=-1))
    return 0.5 * square.shape[-1] * jnp.mean(square @ weights)


def channel_weights(
    increases: jax.Array, temperature: float | None = None
) -> jax.Array:
    """w = softmax over channels of the increase of the loss without each of them.

    Args:
      increases: (C,), the loss with channel j set to 0, less the loss.
      temperature: None for the paper's formula, which is nearly uniform where losses
        increase by far less than 1; a number standardizes the increases and divides
        them by it first (the authors' program does, with 5).

    Returns:
      (C,), positive, summing to 1.

    References:
      Li et al., DELTA, ICLR 2019, the weights of supervised attention.
    """
    if temperature is not None:
        deviation = jnp.maximum(jnp.std(increases), jnp.finfo(increases.dtype).tiny)
        increases = (increases - jnp.mean(increases)) / deviation / temperature
    return jax.nn.softmax(increases)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DELTA(Term):
    """`feature_distance` to the source, summed over stages, + head · ½‖θ_head‖².

    The second part counts every trainable parameter that has no source (a new head);
    with the paper's α and β, weight = α and head = β/α. The model's side is its
    training pass, the source's in evaluation mode: at θ = θ₀ the distance is 0 where
    there is neither dropout nor BatchNorm in training mode. Reports the first part,
    "distance".

    With `attention`, channel weights are computed before training: a linear head on
    the source's features of the last stage (their mean over positions) is fitted to the
    stream's train data by L-BFGS, with decay 1e-4. Then, on `examples` of them drawn
    once, each channel of a stage's output is set to 0 in turn and the later stages run
    again: one pass of the remaining network per channel and 64 examples.

    Attributes:
      stages: stages whose outputs are compared; None is all with positions (images,
        texts) between the first and the head.
      attention: whether channels have computed weights; else all weights are 1/C.
      temperature: of the weights, as in `channel_weights`.
      examples: number of train examples from which weights are computed.
      head: factor of ½‖θ‖² over parameters without a source.
      stream: name of the stream.
    """

    stages: tuple[str, ...] | None = None
    attention: bool = True
    temperature: float | None = None
    examples: int = 256
    head: float = traced(0.0)
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.sourced(setup)
        checks.stream(setup, "stream", self.stream)
        feature_maps.check_stages(setup, self.stages)
        checks.number(setup, "head", self.head, 0.0)
        checks.number(setup, "examples", self.examples, 1)
        if self.temperature is not None:
            checks.number(setup, "temperature", self.temperature, 1e-6)
        if self.attention:
            checks.task(setup, "DELTA(attention=True)", *_LOSSES)

    def describe(self, setup: Setup) -> str:
        names = ", ".join(self._stage_names(setup, setup.features))
        if self.attention:
            weights = f"channel weights from {self.examples} examples"
        else:
            weights = "uniform channel weights"
        return f"feature maps of {names}; {weights}"

    def _stage_names(self, context: View | Setup, features: Any) -> tuple[str, ...]:
        network = context.program.network
        return feature_maps.stage_names(self.stages, network, features)

    def constants(self, setup: Setup) -> PyTree:
        if not self.attention:
            return {}
        last = feature_stage(setup.program.network.stages)
        batches = [
            (
                np.asarray(feature_maps.mean_over_positions(out.logits)),
                np.asarray(batch["y"]),
            )
            for out, batch in source_network.source_passes(setup, self.stream, last)
        ]
        features, labels = map(np.concatenate, zip(*batches))
        loss = _LOSSES[setup.program.task]
        head = fit_linear(
            jnp.asarray(features),
            jnp.asarray(labels),
            setup.program.outputs,
            loss,
            decay=_DECAY,
        )
        chunks = list(draw_examples(setup, self.stream, len(labels), self.examples))
        return {
            stage: channel_weights(
                _loss_increases(setup, stage, head, loss, chunks), self.temperature
            )
            for stage in self._stage_names(setup, setup.features)
        }

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        features = context.forward(self.stream).features
        source_features = context.source_forward(self.stream).features
        distance = jnp.float32(0.0)
        for stage in self._stage_names(context, features):
            weights = context.constants[stage] if self.attention else None
            distance += feature_distance(
                features[stage], source_features[stage], weights
            )
        decay = weight_decay(per_leaf.unsourced_params(context))
        return distance + self.head * decay, {"distance": distance}


def draw_examples(
    setup: Setup, stream: str, total: int, examples: int
) -> Iterator[Batch]:
    """Yields chunks of at most 64 examples, drawn once from all of a stream's.

    They are drawn, since data are often sorted by class.

    Args:
      setup: of the experiment.
      stream: name of the stream.
      total: number of its examples.
      examples: number of examples to draw.

    Returns:
      An iterator over batches {"x", "y", "row"} of jax arrays; the same ones at each
      call.
    """
    drawn = np.random.default_rng(0).permutation(total)[:examples]
    parts, start = [], 0
    for batch in setup.batches(stream):
        size = len(batch["y"])
        rows = np.sort(drawn[(drawn >= start) & (drawn < start + size)]) - start
        parts.append(jax.tree.map(lambda a, r=rows: np.asarray(a)[r], batch))
        start += size
    dataset = jax.tree.map(lambda *a: np.concatenate(a), *parts)
    for first in range(0, len(dataset["y"]), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        yield jax.tree.map(lambda a, c=chunk: jnp.asarray(a[c]), dataset)


def _loss_increases(
    setup: Setup, stage: str, head: PyTree, loss: _Loss, chunks: Sequence[Batch]
) -> jax.Array:
    """The increase of the loss without each channel of a stage's output, (C,)."""
    network, params, stats = source_network.source_model(setup)
    last = feature_stage(setup.program.network.stages)
    later = network.stages[network.stages.index(stage) + 1 :]

    def stage_output(x: PyTree) -> jax.Array | Tokens:
        return network.apply(params, stats, x, stop=stage).logits

    def loss_without(
        feature: jax.Array | Tokens, y: jax.Array, channel: int
    ) -> jax.Array:
        feature = _without_channel(feature, channel)
        if stage != last:
            feature = network.apply(
                params, stats, feature, start=later[0], stop=last
            ).logits
        pooled = feature_maps.mean_over_positions(feature)
        return loss(pooled @ head["kernel"] + head["bias"], y)

    stage_output, loss_without = (
        jax.jit(f, compiler_options=compilation.default_options())
        for f in (stage_output, loss_without)
    )
    total: Any = 0.0
    count = 0
    for chunk in chunks:
        feature, y = stage_output(chunk["x"]), chunk["y"]
        channels = feature_maps.mean_over_positions(feature).shape[-1]
        # Not one loop on the device: XLA's convolutions on CPU are slow inside a loop.
        values = jnp.stack([loss_without(feature, y, j) for j in range(channels)])
        total += len(y) * (values - loss_without(feature, y, -1))
        count += len(y)
    return total / count


def _without_channel(feature: Any, channel: jax.Array | int) -> Any:
    """A feature with one channel set to 0; with none of them for −1."""
    if isinstance(feature, Tokens):
        states = _without_channel(feature.states, channel)
        return feature._replace(states=states)
    is_other = jnp.arange(feature.shape[-1]) != channel
    return feature * is_other.astype(feature.dtype)
