"""The objective: Σ weight · term over one Context per step.

`loss` is the only place where terms meet the model. A term sees a `View`: the context
of the step, and its own parameters, state and key.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import schedules
from jaxtl import tree as trees
from jaxtl.core import Batch, Network, Output, PyTree, Source, Term


@dataclasses.dataclass
class Context:
    """What one step knows. Lives while the step is traced.

    Attributes:
      network: the model's pure functions.
      params: its whole parameter tree, trainable leaves being differentiated.
      stats: BatchNorm statistics, updated by each training pass in turn.
      source: θ₀, never differentiated.
      mask: tree of bools like params: which leaves are trainable.
      batches: stream name -> batch {"x", "y"}, inputs preprocessed and augmented.
      train, still: what is in training mode (see `core.Network`).
      key: this step's PRNG key.
      step, steps: this step's number (from 0) and the run's number of steps, traced.
      task: "classification", "multilabel", "regression" or "language".
      own: term name -> that term's own parameters.
      states: term name -> that term's state; new values are put in place.
      given: term name -> arrays that no step changes (`Term.given`).
      source_network: as in `core.Setup`.
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
    _passes: dict[str, Output] = dataclasses.field(default_factory=dict)
    _source_passes: dict[str, Output] = dataclasses.field(default_factory=dict)

    def forward(self, stream: str = "target") -> Output:
        """Returns the training-mode forward pass of a stream's batch, run once."""
        if stream not in self._passes:
            # One key per pass: dropout differs between streams.
            key = jax.random.fold_in(self.key, len(self._passes))
            out = self.network.apply(
                self.params,
                self.stats,
                self.batches[stream]["x"],
                train=self.train,
                still=self.still,
                key=key,
            )
            self.stats = jax.lax.stop_gradient(out.stats)
            self._passes[stream] = out
        return self._passes[stream]

    def source_params(self) -> tuple[PyTree, PyTree]:
        """Returns θ₀ and its statistics, whole: the model's own where it has none."""
        hold = jax.lax.stop_gradient
        params = trees.fill(self.source.params, hold(self.params))
        return params, trees.fill(self.source.stats, hold(self.stats))

    def source_forward(self, stream: str = "target") -> Output:
        """Returns the source's pass of a stream's batch, in evaluation mode, run once.

        No gradient flows through it. Its logits are those of the source's own head;
        where the source brings none the pass ends before the head and logits are None.
        """
        if stream not in self._source_passes:
            params, stats = self.source_params()
            network, head = self.source_network, self.network.stages[-1]
            stop = None
            if network is None:
                network, stop = self.network, self.network.stages[-2]
            elif self.source.head is not None:
                params = {**params, head: self.source.head}
            out = network.apply(params, stats, self.batches[stream]["x"], stop=stop)
            out = out._replace(logits=None if stop else out.logits)
            self._source_passes[stream] = jax.lax.stop_gradient(out)
        return self._source_passes[stream]


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
