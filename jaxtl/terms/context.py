"""The objective: Σ weight · term over one Context per step.

`loss` is the only place where terms meet the model. A term sees a `View`: the context
of the step, and its own parameters, state, constants and key.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.memo import Memo
from jaxtl.core.types import Batch, Output, PyTree, Source
from jaxtl.data import preprocess
from jaxtl.data.augment import image
from jaxtl.optim import schedules
from jaxtl.terms import weighted_mean
from jaxtl.terms.base import Term
from jaxtl.terms.program import Program


class AdapterParams(NamedTuple):
    """What a reparametrization trains, and the map from it to the weights.

    Attributes:
      params: the parameters of adapters, {} without any.
      weights: such parameters -> the whole parameter tree as the network reads it, all
        other trainable parameters as they are at this step.
    """

    params: PyTree
    weights: Callable[[PyTree], PyTree]


@dataclasses.dataclass(kw_only=True)
class Context:
    """Values of one step, while the step is traced.

    Known before the run:

    Attributes:
      program: the static description of the step.
      source: θ₀, never differentiated.
      constants: term name -> arrays that no step changes (`Term.constants`).

    Known at this step:

    Attributes:
      params: the whole parameter tree, trainable leaves being differentiated.
      packed_params: the same as `network` may read it too, in which matrices of a
        quantized base are computed stage by stage; None where there are none.
      adapters: what a reparametrization trains, None without one.
      stats: BatchNorm statistics, updated by each training pass in turn.
      term_params: term name -> that term's trainable parameters.
      term_states: term name -> that term's state; `View.set_state` replaces it.
      batches: stream name -> batch {"x", "y", "row"}, inputs preprocessed and
        augmented; "unaugmented" inputs; and "features", the output of the stage
        `program.cached_until`, where that is cached. "row" is the example's index in
        its data set; the stream "unlabelled" has no "y".
      key: this step's PRNG key.
      step, steps: this step's number (from 0) and the run's number of steps, traced.
      term_starts: name of a term that began after the run's first step -> that step.
      memo: what several terms compute alike in a step, computed by the first of them.

    Where the step's batch passes in micro-batches, of which this is one:

    Attributes:
      mean_counts: key of each weighted mean -> its count, the mean over micro-batches;
        {} where the batch is whole, or while the counts are collected.
      counts: key of each weighted mean -> its count in this batch, filled by terms.
    """

    program: Program
    source: Source
    params: PyTree
    stats: PyTree
    batches: Mapping[str, Batch]
    key: jax.Array
    step: jax.Array
    steps: jax.Array
    packed_params: PyTree = None
    adapters: AdapterParams | None = None
    constants: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
    term_params: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
    term_states: dict[str, PyTree] = dataclasses.field(default_factory=dict)
    term_starts: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    mean_counts: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    counts: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    memo: Memo = dataclasses.field(default_factory=Memo)
    _passes: dict[Any, Any] = dataclasses.field(default_factory=dict)
    _source_passes: dict[str, Output] = dataclasses.field(default_factory=dict)
    _further_passes: int = 0

    def forward(self, stream: str = "target") -> Output:
        """The training-mode forward pass of a stream's batch, run once per step.

        Of a stream of `program.joint_pass` it is its part of the joint pass.
        """
        if joint := self.program.passes_with(stream):
            return self.joint_forward(joint)[stream]
        if stream not in self._passes:
            # One key per pass: dropout differs between streams.
            key = jax.random.fold_in(self.key, len(self._passes))
            x, start = self.entry(stream)
            out = self._train_pass(self._network_params, x, start, key)
            self._keep_pass(stream, out, start)
        return self._passes[stream]

    @property
    def _network_params(self) -> PyTree:
        return self.params if self.packed_params is None else self.packed_params

    def _keep_pass(self, stream: str, out: Output, start: str | None) -> None:
        self.keep_stats(out.stats, stream)
        if start is not None:
            run = functools.partial(self._below, stream)
            out = out._replace(features=Features(out.features, run))
        self._passes[stream] = out

    def forward_tangent(
        self,
        stream: str,
        read: Callable[[Output], jax.Array],
        mask: PyTree,
        direction: PyTree,
        count: int,
    ) -> jax.Array | None:
        """The derivative of what `forward` computes, along a direction, in one pass.

        `forward(stream)` then returns this very pass, so that the terms that read it
        and the one that reads the derivative share one backward pass as well.

        Args:
          stream: whose batch.
          read: what is derived, from the pass: a stage's feature, say.
          mask: tree of bools: the parameters that move.
          direction: of these, None at all other leaves.
          count: how many examples it is wanted of, the batch's first; the others pass
            by themselves.

        Returns:
          The derivative, of the shape of `read(…)` of these; None where the pass has
          run before, or passes with other streams, or where training mode computes
          something else than evaluation mode does, by dropout or by the batch's
          statistics.
        """
        if self.program.passes_with(stream):
            return None
        key = jax.random.fold_in(self.key, len(self._passes))
        x, start = self.entry(stream)
        run = functools.partial(self._train_pass, start=start, key=key)
        if stream in self._passes or jax.tree.leaves(self.stats):
            return None
        if _draws(lambda key: run(self.params, x, key=key).features, key):
            return None
        selected, rest = trees.partition(self.params, mask)

        def derived(selected: PyTree) -> tuple[jax.Array, Output]:
            rows = jax.tree.map(lambda a: a[:count], x)
            out = run(trees.merge(selected, rest), rows)
            return read(out), out

        _, tangent, out = jax.jvp(derived, (selected,), (direction,), has_aux=True)
        if count < len(jax.tree.leaves(x)[0]):
            others = run(self.params, jax.tree.map(lambda a: a[count:], x))
            out = jax.tree.map(lambda *parts: jnp.concatenate(parts), out, others)
        self._keep_pass(stream, out, start)
        return tangent

    def joint_forward(self, streams: tuple[str, ...]) -> dict[str, Output]:
        """Each stream's part of one training-mode pass over all their batches.

        BatchNorm normalizes them by the statistics of all, where one `forward` per
        stream normalizes each by its own. Run once per step and tuple of streams.
        """
        if streams not in self._passes:
            key = jax.random.fold_in(self.key, len(self._passes))
            inputs, starts = zip(*map(self.entry, streams))
            x = jax.tree.map(lambda *parts: jnp.concatenate(parts), *inputs)
            out = self._train_pass(self._network_params, x, starts[0], key)
            self.keep_stats(out.stats, *streams)
            ends = itertools.accumulate(len(jax.tree.leaves(x)[0]) for x in inputs)
            bounds = itertools.pairwise((0, *ends))
            self._passes[streams] = {
                stream: self._part(stream, out, *bound)
                for stream, bound in zip(streams, bounds)
            }
        return self._passes[streams]

    def _train_pass(
        self, params: PyTree, x: Any, start: str | None, key: jax.Array
    ) -> Output:
        program = self.program
        settings = {} if start is None else {"start": start}
        return program.network.apply(
            params,
            self.stats,
            x,
            train=program.train_stages,
            frozen_stats=program.frozen_stats,
            key=key,
            **settings,
        )

    def _part(self, stream: str, out: Output, first: int, end: int) -> Output:
        logits, features = jax.tree.map(
            lambda x: x[first:end], (out.logits, dict(out.features))
        )
        if "features" in self.batches[stream]:
            features = Features(features, functools.partial(self._below, stream))
        return Output(logits, features, out.stats)

    def keep_stats(self, stats: PyTree, *streams: str) -> None:
        """Updates BatchNorm's running statistics by those of a pass over streams."""
        updating = self.program.stats_streams
        if updating is None or set(streams) & set(updating):
            self.stats = jax.lax.stop_gradient(stats)

    def set_stats(self, new: PyTree) -> None:
        """Replaces BatchNorm's running statistics, those that evaluation will use."""
        self.stats = jax.lax.stop_gradient(new)

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
        """A further pass, which leaves BatchNorm's running statistics unchanged.

        Args:
          x: the model's inputs, or those of the stage `start`.
          params, stats: None for the step's own.
          train: stages in training mode, None for the step's; () is evaluation.
          key: of dropout; None derives one.
          start, stop: run from the input of one stage to the output of another.
        """
        self._further_passes += 1
        if key is None:
            key = jax.random.fold_in(self.key, 500 + self._further_passes)
        return self.program.network.apply(
            self._network_params if params is None else params,
            self.stats if stats is None else stats,
            x,
            train=self.program.train_stages if train is None else train,
            frozen_stats=self.program.frozen_stats,
            key=key,
            # A network that is a plain pair of functions may accept neither.
            **{k: v for k, v in (("start", start), ("stop", stop)) if v is not None},
        )

    def view(self, stream: str, operations: Sequence, key: jax.Array) -> Any:
        """The inputs of a stream's batch, changed by operations.

        They start from the inputs without the experiment's augmentation.

        Args:
          stream: whose batch.
          operations: callables (key, x) -> x as in `data.augment`; they see values in
            the scale of the data, [0, 1] for images, or a dict of tokens.
          key: PRNG key of the operations.
        """
        batch = self.batches[stream]
        x = batch["unaugmented"] if "unaugmented" in batch else batch["x"]
        settings = self.program.preprocess[stream]
        x = image.apply_augmentations(operations, key, preprocess.restore(settings, x))
        return preprocess.normalize(settings, x)

    def entry(self, stream: str = "target") -> tuple[Any, str | None]:
        """Where a pass of the model begins.

        Returns:
          (inputs, None), or, where the features of a stage are cached, (these features,
          the stage after it).
        """
        batch = self.batches[stream]
        if "features" not in batch:
            return batch["x"], None
        stages = self.program.network.stages
        return batch["features"], stages[stages.index(self.program.cached_until) + 1]

    def _below(self, stream: str) -> dict:
        """Features of the frozen stages that the cache skipped."""
        x, stop = self.batches[stream]["x"], self.program.cached_until
        return self.program.network.apply(
            self._network_params, self.stats, x, stop=stop
        ).features

    def source_apply(self, params: PyTree, stats: PyTree, x: Any, **settings) -> Output:
        """Runs the model without what a reparametrization added to it, as θ₀ had it."""
        network = self.program.base_network or self.program.network
        return network.apply(self.program.base_params(params), stats, x, **settings)

    def source_params(self) -> tuple[PyTree, PyTree]:
        """θ₀ and its statistics, complete: the model's own leaves where θ₀ has none."""
        stop_gradient = jax.lax.stop_gradient
        params = self.program.base_params(stop_gradient(self.params))
        params = trees.fill(self.source.params, params)
        return params, trees.fill(self.source.stats, stop_gradient(self.stats))

    def source_forward(self, stream: str = "target") -> Output:
        """The source's pass of a stream's batch, in evaluation mode, run once per step.

        No gradient flows through it. Its logits are those of the source's own head;
        where the source has none, the pass ends before the head and logits are None.
        """
        if stream not in self._source_passes:
            self._source_passes[stream] = self._source_pass(stream)
        return self._source_passes[stream]

    def _source_pass(self, stream: str) -> Output:
        params, stats = self.source_params()
        network, head = self.program.source_network, self.program.network.stages[-1]
        apply: Callable[..., Output] = self.source_apply
        settings: dict[str, Any] = {}
        if network is None:
            settings["stop"] = self.program.network.stages[-2]
        else:
            apply = network.apply
            if self.source.head is not None:
                params = {**params, head: self.source.head}
        x = None
        if self.program.cached_source:
            x, settings["start"] = self.entry(stream)
        if settings.get("start") in (None, head) and "stop" in settings:
            x = None  # no stage is left between the cached one and the head
        if x is None:
            settings.pop("start", None)
            x = self.batches[stream]["x"]
        stop_gradient = jax.lax.stop_gradient
        out = stop_gradient(apply(params, stats, x, **settings))
        if "start" in settings:

            def below() -> dict:
                inputs, stop = self.batches[stream]["x"], self.program.cached_until
                return stop_gradient(apply(params, stats, inputs, stop=stop).features)

            out = out._replace(features=Features(out.features, below))
        return out._replace(logits=None if "stop" in settings else out.logits)


def _draws(function: Callable[[jax.Array], Any], key: jax.Array) -> bool:
    """Whether what a function of a key computes depends on the key."""
    jaxpr = jax.make_jaxpr(function)(key).jaxpr
    reads = [v for equation in jaxpr.eqns for v in equation.invars]
    return any(v is jaxpr.invars[0] for v in [*reads, *jaxpr.outvars])


class Features(dict):
    """Features of the stages that ran; those below a cached stage run when read."""

    def __init__(self, features: dict, below: Callable[[], dict]):
        super().__init__(features)
        self._below = below

    def __missing__(self, stage: str) -> Any:
        self.update({k: v for k, v in self._below().items() if k not in self})
        return self[stage] if stage in self else dict(self)[stage]


class View:
    """A context as one term sees it.

    Everything of the `Context` is here (`forward`, `batches`, `params`, `source`, …)
    and besides:

    Attributes:
      name: the term's name.
      term_params: the term's own trainable parameters.
      state: the term's own state.
      constants: the term's own arrays that no step changes.
      key: a key of the term's own for this step.
      step, steps: this step's number, and that of steps, since the term began.
    """

    def __init__(self, context: Context, name: str, index: int):
        self._context = context
        self.name = name
        self.term_params = context.term_params.get(name, {})
        self.state = context.term_states.get(name, {})
        self.constants = context.constants.get(name, {})
        self.key = jax.random.fold_in(context.key, 1000 + index)
        start = context.term_starts.get(name, 0)
        self.step, self.steps = context.step - start, context.steps - start
        self._means = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def of_task(
        self,
        task: str,
        index: int,
        stream: str,
        batch: Batch,
        out: Output,
        program: Program,
        constants: PyTree,
    ) -> "View":
        """What the term of one of several tasks sees of the step.

        Its parameters and state are those under "losses" of this term.

        Args:
          task: its name.
          index: its number, for keys.
          stream: that the tasks share.
          batch: of the stream, with the labels of the task.
          out: the pass of this batch, with the logits of the task.
          program: with the kind and the outputs of the task.
          constants: of the task's term.
        """
        name, parts = f"{self.name}/{task}", (self.term_params, self.state)
        params, state = (part.get("losses", {}).get(task, {}) for part in parts)
        starts = self._context.term_starts
        part = dataclasses.replace(
            self._context,
            program=program,
            key=self.key,
            batches={stream: batch},
            term_params={name: params},
            term_states={name: state},
            constants={name: constants},
            term_starts={name: starts[self.name]} if self.name in starts else {},
            counts={},
            _passes={stream: out},
        )
        return View(part, name, index)

    def mean(self, values: jax.Array, weights: jax.Array) -> jax.Array:
        """Σ w·v / Σ w over the step's batch, also where this is a part of it.

        A term that divides by anything but the number of examples takes this mean, so
        that accumulated gradients are those of the whole batch.

        Args:
          values, weights: v and w, as in `weighted_mean.weighted_mean`.
        """
        return self.ratio(jnp.sum(values * weights), jnp.sum(weights))

    def ratio(self, total: jax.Array, count: jax.Array) -> jax.Array:
        """Σ total / Σ count, both summed over the step's batch; as `mean`."""
        key = f"{self.name}/{self._means}"
        self._means += 1
        self._context.counts[key] = jax.lax.stop_gradient(count)
        return weighted_mean.ratio(total, self._context.mean_counts.get(key, count))

    def set_state(self, new: PyTree) -> None:
        """Stores the term's state for the next step (no gradient flows through)."""
        self._context.term_states[self.name] = jax.lax.stop_gradient(new)


def loss(
    terms: Mapping[str, Term], context: Context
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes Σᵢ wᵢ·termᵢ as a float32 scalar, and the metrics of every term.

    The sum is over the terms that this phase of the run minimizes. Metrics hold "loss",
    each term's unweighted value under its name, and what a term reports itself under
    "<term>/<metric>".
    """
    views = {
        name: View(context, name, i)
        for i, name in enumerate(terms)
        if context.program.minimizes(name)
    }
    first = sorted(views, key=lambda name: not terms[name].runs_first)
    idle = context.program.idle_terms or ()
    results = {
        name: jnp.float32(0.0) if name in idle else terms[name](views[name])
        for name in first
    }
    total, metrics = jnp.float32(0.0), {}
    for name, view in views.items():
        term, result = terms[name], results[name]
        value, extra = result if isinstance(result, tuple) else (result, {})
        value = value.astype(jnp.float32)
        weight = schedules.value(term.weight, view.step, view.steps)
        total = total + weight * value
        metrics[name] = value
        metrics.update({f"{name}/{k}": v for k, v in extra.items()})
    return total, {"loss": total, **jax.lax.stop_gradient(metrics)}
