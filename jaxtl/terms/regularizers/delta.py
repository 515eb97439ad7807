"""DELTA: keep the feature maps that matter near the source's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation, selection, types
from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.regularizers import feature_maps, linear_fit, source_network

_LOSS = {
    "classification": losses.cross_entropy,
    "multilabel": losses.binary_cross_entropy,
    "regression": losses.squared_error,
}
_CHUNK = 64  # examples per pass while channels are weighed
_DECAY = 1e-4  # of the head that is fitted for it, as in the authors' program


def feature_distance(ours, theirs, weights: jax.Array | None = None) -> jax.Array:
    """½ · C · Σ_j w_j · mean over positions of (F_j − F⁰_j)², mean over examples.

    With uniform weights w_j = 1/C that is ½ Σ_j of the mean over positions. (The
    authors' program sums over examples, and over positions where it has no weights.)

    Args:
      ours, theirs: a stage's output of θ and of θ₀, (batch, …, C) or Tokens, whose
        padding does not count.
      weights: w, (C,), summing to 1; None for uniform ones.

    References:
      Li et al., DELTA: Deep Learning Transfer using Feature Map with Attention, ICLR
      2019, the behavioural regularizer; factors ½ and C from the authors' program.
    """
    a, mask = feature_maps.grid(ours)
    b, _ = feature_maps.grid(theirs)
    places = jnp.maximum(mask.sum(1), 1.0)
    square = jnp.sum(jnp.square(a - b), axis=1) / places[:, None]
    if weights is None:
        return 0.5 * jnp.mean(jnp.sum(square, axis=-1))
    return 0.5 * square.shape[-1] * jnp.mean(square @ weights)


def channel_weights(rises: jax.Array, temperature: float | None = None) -> jax.Array:
    """w = softmax over channels of how far the loss rises without each.

    Args:
      rises: (C,), loss with channel j set to 0, less the loss.
      temperature: None for the paper's formula, which is nearly uniform where losses
        rise by far less than 1; a number standardises the rises and divides them by it
        first (the authors' program does, with 5).

    Returns:
      (C,), positive, summing to 1.

    References:
      Li et al., DELTA, ICLR 2019, the weights of supervised attention.
    """
    if temperature is not None:
        spread = jnp.maximum(jnp.std(rises), jnp.finfo(rises.dtype).tiny)
        rises = (rises - jnp.mean(rises)) / spread / temperature
    return jax.nn.softmax(rises)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DELTA(Term):
    """`feature_distance` to the source, summed over stages, + head · ½‖θ_head‖².

    The second part counts every trainable parameter that has no source (a new head);
    with the paper's α and β, weight = α and head = β/α. The model's side is its
    training pass, the source's in evaluation mode: at θ = θ₀ the distance is 0 where
    there is neither dropout nor BatchNorm in training mode.

    With `attention`, channels are weighed before training: a linear head on the
    source's features of the last stage (their mean over positions) is fitted to the
    stream's train data by L-BFGS, with decay 1e-4. Then, on `examples` of them drawn
    once, each channel of a stage's output is set to 0 in turn and the later stages run
    again: one pass of the rest of the network per channel and 64 examples.

    Attributes:
      stages: whose outputs are compared; None takes all with positions (images, texts)
        between the first and the head.
      attention: weigh the channels; else all weights are 1/C.
      temperature: of the weights, as told at `channel_weights`.
      examples: number of train examples on which channels are weighed.
      head: factor of ½‖θ‖² over parameters without a source.
      stream: name of the stream.
    """

    stages: tuple[str, ...] | None = None
    attention: bool = True
    temperature: float | None = None
    examples: int = 256
    head: float = traced(0.0)
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.sourced(setup)
        checks.stream(setup, "stream", self.stream)
        feature_maps.check(setup, self.stages)
        checks.number(setup, "head", self.head, 0.0)
        checks.number(setup, "examples", self.examples, 1)
        if self.temperature is not None:
            checks.number(setup, "temperature", self.temperature, 1e-6)
        if self.attention:
            checks.task(setup, "DELTA(attention=True)", *_LOSS)

    def describe(self, setup: Setup) -> str:
        found = feature_maps.names(self.stages, setup.program.network, setup.features)
        how = f"weighed on {self.examples} examples" if self.attention else "all alike"
        return f"feature maps of {', '.join(found)}; channels {how}"

    def constants(self, setup: Setup):
        if not self.attention:
            return {}
        found = feature_maps.names(self.stages, setup.program.network, setup.features)
        last = feature_stage(setup.program.network.stages)
        features, labels = [], []
        for out, batch in source_network.passes(setup, self.stream, stop=last):
            features.append(np.asarray(feature_maps.pooled(out.logits)))
            labels.append(np.asarray(batch["y"]))
        features, labels = np.concatenate(features), np.concatenate(labels)
        loss = _LOSS[setup.program.task]
        head = linear_fit.fit(
            jnp.asarray(features),
            jnp.asarray(labels),
            setup.program.outputs,
            loss,
            decay=_DECAY,
        )
        chunks = list(_draw(setup, self.stream, len(labels), self.examples))
        return {
            stage: channel_weights(
                _rises(setup, stage, last, head, loss, chunks), self.temperature
            )
            for stage in found
        }

    def __call__(self, context):
        ours = context.forward(self.stream).features
        theirs = context.source_forward(self.stream).features
        distance = 0.0
        for stage in feature_maps.names(self.stages, context.program.network, ours):
            weights = context.constants[stage] if self.attention else None
            distance += feature_distance(ours[stage], theirs[stage], weights)
        params = selection.keep(context.program.trainable_mask, context.params)
        fresh = jax.tree.map(
            lambda theta, start: theta if start is None else None,
            params,
            context.source.params,
            is_leaf=lambda x: x is None,
        )
        decay = 0.5 * trees.sum_squares(fresh)
        return distance + self.head * decay, {"distance": distance}


def _draw(setup: Setup, stream: str, total: int, examples: int):
    """Yields chunks of `examples` examples, drawn once from all of a stream's.

    Data often lie sorted by class, so the first ones would not do.
    """
    chosen = np.random.default_rng(0).permutation(total)[:examples]
    parts, start = [], 0
    for batch in setup.batches(stream):
        size = len(batch["y"])
        rows = np.sort(chosen[(chosen >= start) & (chosen < start + size)]) - start
        parts.append(jax.tree.map(lambda a, r=rows: np.asarray(a)[r], batch))
        start += size
    whole = jax.tree.map(lambda *a: np.concatenate(a), *parts)
    for at in range(0, len(whole["y"]), _CHUNK):
        yield jax.tree.map(lambda a, i=at: jnp.asarray(a[i : i + _CHUNK]), whole)


def _rises(setup: Setup, stage: str, last: str, head, loss, chunks) -> jax.Array:
    """Returns (C,): the rise of the loss without each channel of a stage's output."""
    found, params, stats = source_network.network(setup)
    later = found.stages[found.stages.index(stage) + 1 :]

    def before(x):
        return found.apply(params, stats, x, stop=stage).logits

    def after(feature, y, channel):
        feature = _without(feature, channel)
        if stage != last:
            feature = found.apply(params, stats, feature, start=later[0], stop=last)
            feature = feature.logits
        return loss(feature_maps.pooled(feature) @ head["kernel"] + head["bias"], y)

    before, after = (
        jax.jit(f, compiler_options=compilation.options()) for f in (before, after)
    )
    total, count = 0.0, 0
    for chunk in chunks:
        feature, y = before(chunk["x"]), chunk["y"]
        channels = feature_maps.pooled(feature).shape[-1]
        # Not one loop on the device: XLA's convolutions on CPU are slow within.
        raised = jnp.stack([after(feature, y, j) for j in range(channels)])
        total += len(y) * (raised - after(feature, y, -1))
        count += len(y)
    return total / count


def _without(feature, channel):
    """Returns a feature with a channel set to 0; none for −1."""
    if isinstance(feature, types.Tokens):
        return feature._replace(states=_without(feature.states, channel))
    keep = jnp.arange(feature.shape[-1]) != channel
    return feature * keep.astype(feature.dtype)
