"""The objective: Σ weight · term over one Context per step.

`loss` is the only place where terms meet the model. A term sees a `View`: the context
of the step, and its own parameters, state and key.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.types import Batch, Network, Output, PyTree, Source
from jaxtl.optim import schedules
from jaxtl.terms.base import Term


@dataclasses.dataclass
class Context:
    """What one step knows. Lives while the step is traced.

    Attributes:
      network: the model's pure functions.
      params: its whole parameter tree, trainable leaves being differentiated.
      stats: BatchNorm statistics, updated by each training pass in turn.
      source: θ₀, never differentiated.
      mask: tree of bools like params: which leaves are trainable.
      batches: stream name -> batch {"x", "y", "row"}, inputs preprocessed and
        augmented; "unaugmented" inputs; and "features", the output of the stage `cut`,
        where that is cached. "row" is the example's place in its data set; the stream
        "unlabelled" has no "y".
      train, still: what is in training mode (see `core.Network`).
      key: this step's PRNG key.
      step, steps: this step's number (from 0) and the run's number of steps, traced.
      task: "classification", "multilabel", "regression" or "language".
      own: term name -> that term's own parameters.
      states: term name -> that term's state; new values are put in place.
      given: term name -> arrays that no step changes (`Term.given`).
      source_network: as in `core.Setup`.
      cut: the last of the stages whose output comes from the cache, None for none.
      cut_source: whether the source's output of that stage is the same.
      bare, plain: as in `core.Setup`.
      statistics: the streams whose passes update BatchNorm statistics, None for all.
      changed: (stream, inputs, operations, key) -> inputs, the operations applied to
        values in the scale of the data, [0, 1] for images.
    """

    network: Network
    params: PyTree
    stats: PyTree
    source: Source
    mask: PyTree
    batches: Mapping[str, Batch]
    train: tuple[str, ...]
    still: tuple[str, ...]
    key: jax.Array
    step: jax.Array
    steps: jax.Array
    task: str
    own: Mapping[str, PyTree]
    states: dict[str, PyTree]
    given: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
    source_network: Network | None = None
    cut: str | None = None
    cut_source: bool = False
    bare: Network | None = None
    plain: PyTree = None
    statistics: tuple[str, ...] | None = None
    changed: Callable[..., Any] | None = None
    _passes: dict[Any, Any] = dataclasses.field(default_factory=dict)
    _source_passes: dict[str, Output] = dataclasses.field(default_factory=dict)
    _further: int = 0

    def forward(self, stream: str = "target") -> Output:
        """Returns the training-mode forward pass of a stream's batch, run once."""
        if stream not in self._passes:
            # One key per pass: dropout differs between streams.
            key = jax.random.fold_in(self.key, len(self._passes))
            x, start = self.entry(stream)
            settings = {"train": self.train, "frozen_stats": self.still, "key": key}
            if start is not None:
                settings["start"] = start
            out = self.network.apply(self.params, self.stats, x, **settings)
            self.keep_stats(out.stats, stream)
            if start is not None:
                run = functools.partial(self._below, stream)
                out = out._replace(features=Features(out.features, run))
            self._passes[stream] = out
        return self._passes[stream]

    def together(self, streams: tuple[str, ...]) -> dict[str, Output]:
        """Returns each stream's part of one training-mode pass over all their batches.

        BatchNorm normalises them by the statistics of all, where one `forward` per
        stream normalises each by its own. Run once per tuple of streams.
        """
        if streams not in self._passes:
            key = jax.random.fold_in(self.key, len(self._passes))
            found, starts = zip(*map(self.entry, streams))
            x = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
            settings = {"train": self.train, "frozen_stats": self.still, "key": key}
            if starts[0] is not None:
                settings["start"] = starts[0]
            out = self.network.apply(self.params, self.stats, x, **settings)
            self.keep_stats(out.stats, *streams)
            ends = itertools.accumulate(len(jax.tree.leaves(x)[0]) for x in found)
            bounds = itertools.pairwise((0, *ends))
            self._passes[streams] = {
                stream: self._part(stream, out, *bound)
                for stream, bound in zip(streams, bounds)
            }
        return self._passes[streams]

    def _part(self, stream: str, out: Output, begin: int, end: int) -> Output:
        logits, features = jax.tree.map(
            lambda x: x[begin:end], (out.logits, dict(out.features))
        )
        if "features" in self.batches[stream]:
            features = Features(features, functools.partial(self._below, stream))
        return Output(logits, features, out.stats)

    def keep_stats(self, stats: PyTree, *streams: str) -> None:
        """Updates BatchNorm's running statistics by those of a pass over streams."""
        if self.statistics is None or set(streams) & set(self.statistics):
            self.stats = jax.lax.stop_gradient(stats)

    def run(
        self,
        x: Any,
        *,
        params: PyTree = None,
        stats: PyTree = None,
        train: tuple[str, ...] | None = None,
        key: jax.Array | None = None,
        start: str | None = None,
        stop: str | None = None,
    ) -> Output:
        """Returns a further pass, which leaves BatchNorm's running statistics alone.

        Args:
          x: the model's inputs, or those of the stage `start`.
          params, stats: None for the step's own.
          train: stages in training mode, None for the step's; () is evaluation.
          key: of dropout; None derives one.
          start, stop: run from the input of one stage to the output of another.
        """
        self._further += 1
        if key is None:
            key = jax.random.fold_in(self.key, 500 + self._further)
        return self.network.apply(
            self.params if params is None else params,
            self.stats if stats is None else stats,
            x,
            train=self.train if train is None else train,
            frozen_stats=self.still,
            key=key,
            # A network of the user's own may know neither.
            **{k: v for k, v in (("start", start), ("stop", stop)) if v is not None},
        )

    def set_stats(self, new: PyTree) -> None:
        """Replaces BatchNorm's running statistics, those that evaluation will use."""
        self.stats = jax.lax.stop_gradient(new)

    def view(self, stream: str, operations: Sequence, key: jax.Array) -> Any:
        """Returns other inputs of a stream's batch, changed by operations.

        They start from the inputs without the experiment's augmentation.

        Args:
          stream: whose batch.
          operations: callables (key, x) -> x as in `data.augment`; they see values in
            the scale of the data, [0, 1] for images, or a dict of tokens.
          key: of what is drawn.
        """
        batch = self.batches[stream]
        x = batch["unaugmented"] if "unaugmented" in batch else batch["x"]
        return self.changed(stream, x, operations, key)

    def entry(self, stream: str = "target") -> tuple[Any, str | None]:
        """Returns where a pass of the model begins: (inputs, None), or (features of
        the cut, the stage after it) where these are cached."""
        batch = self.batches[stream]
        if "features" not in batch:
            return batch["x"], None
        stages = self.network.stages
        return batch["features"], stages[stages.index(self.cut) + 1]

    def _below(self, stream: str) -> dict:
        """Returns the features of the frozen stages that the cache passed over."""
        x = self.batches[stream]["x"]
        return self.network.apply(self.params, self.stats, x, stop=self.cut).features

    def source_apply(self, params: PyTree, stats: PyTree, x, **settings) -> Output:
        """Runs the model without what a reparametrisation added to it, as θ₀ had it."""
        if self.plain is not None:
            params = trees.like(self.plain, params)
        return (self.bare or self.network).apply(params, stats, x, **settings)

    def source_params(self) -> tuple[PyTree, PyTree]:
        """Returns θ₀ and its statistics, whole: the model's own where it has none."""
        hold = jax.lax.stop_gradient
        params = hold(self.params)
        if self.plain is not None:
            params = trees.like(self.plain, params)
        params = trees.fill(self.source.params, params)
        return params, trees.fill(self.source.stats, hold(self.stats))

    def source_forward(self, stream: str = "target") -> Output:
        """Returns the source's pass of a stream's batch, in evaluation mode, run once.

        No gradient flows through it. Its logits are those of the source's own head;
        where the source brings none the pass ends before the head and logits are None.
        """
        if stream not in self._source_passes:
            self._source_passes[stream] = self._source_pass(stream)
        return self._source_passes[stream]

    def _source_pass(self, stream: str) -> Output:
        params, stats = self.source_params()
        network, head = self.source_network, self.network.stages[-1]
        apply, settings = self.source_apply, {}
        if network is None:
            settings["stop"] = self.network.stages[-2]
        else:
            apply = network.apply
            if self.source.head is not None:
                params = {**params, head: self.source.head}
        x = None
        if self.cut_source:
            x, settings["start"] = self.entry(stream)
        if settings.get("start") in (None, head) and "stop" in settings:
            x = None  # nothing is left to run between the cut and the head
        if x is None:
            settings.pop("start", None)
            x = self.batches[stream]["x"]
        hold = jax.lax.stop_gradient
        out = hold(apply(params, stats, x, **settings))
        if "start" in settings:

            def below():
                whole = self.batches[stream]["x"]
                return hold(apply(params, stats, whole, stop=self.cut).features)

            out = out._replace(features=Features(out.features, below))
        return out._replace(logits=None if "stop" in settings else out.logits)


class Features(dict):
    """Features of the stages that ran; those below a cached cut are run when asked."""

    def __init__(self, found: dict, below: Callable[[], dict]):
        super().__init__(found)
        self._run = below

    def __missing__(self, stage: str):
        self.update({k: v for k, v in self._run().items() if k not in self})
        return self[stage] if stage in self else dict(self)[stage]


class View:
    """A context as one term sees it.

    Everything of the `Context` is here (`forward`, `batches`, `params`, `source`, …)
    and besides:

    Attributes:
      name: the term's name.
      own: the term's own trainable parameters.
      state: the term's own state.
      given: the term's own arrays that no step changes.
      key: a key of the term's own for this step.
    """

    def __init__(self, context: Context, name: str, index: int):
        self._context = context
        self.name = name
        self.own = context.own.get(name, {})
        self.state = context.states.get(name, {})
        self.given = context.given.get(name, {})
        self.key = jax.random.fold_in(context.key, 1000 + index)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def set_state(self, new: PyTree) -> None:
        """Stores the term's state for the next step (no gradient flows through)."""
        self._context.states[self.name] = jax.lax.stop_gradient(new)


def loss(
    terms: Mapping[str, Term], context: Context
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns Σᵢ wᵢ·termᵢ as a float32 scalar, and the metrics of every term.

    Metrics hold "loss", each term's unweighted value under its name, and what a term
    reports itself under "<term>/<metric>".
    """
    total, metrics = jnp.float32(0.0), {}
    for index, (name, term) in enumerate(terms.items()):
        result = term(View(context, name, index))
        value, extra = result if isinstance(result, tuple) else (result, {})
        value = value.astype(jnp.float32)
        weight = schedules.value(term.weight, context.step, context.steps)
        total = total + weight * value
        metrics[name] = value
        metrics.update({f"{name}/{k}": v for k, v in extra.items()})
    return total, {"loss": total, **jax.lax.stop_gradient(metrics)}


def streams(terms: Mapping[str, Term]) -> tuple[str, ...]:
    """Returns the names of the streams that the terms read, in order, once each."""
    names = [s for term in terms.values() for s in term.streams]
    return tuple(dict.fromkeys(names))
