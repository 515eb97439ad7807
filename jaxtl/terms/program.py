"""The Program: the static description of a training step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxtl.core import config, sharding
from jaxtl.core import tree as trees
from jaxtl.core.tensor_rules import NO_RULES, TensorRules
from jaxtl.core.types import Network, PyTree
from jaxtl.data.episodic import Episodes
from jaxtl.data.preprocess import Preprocess
from jaxtl.models.precision import compute_in
from jaxtl.optim.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """Everything about a training step that is compiled in.

    Numbers that an ablation varies are no part of it: they are traced, and terms,
    optimizer, peft and average stand here with these numbers set to 0. Programs of
    equal `key()` share compiled code.

    Attributes, read by terms:
      network: the model, with what a reparametrization adds to it.
      source_network: the model with the source's own number of outputs, whose head
        `source.head` fits; None where the source has no head.
      base_network: the model before a reparametrization, None without one.
      base_mask: tree of bools over the parameters before a reparametrization: which
        ones the optimizer updates.
      trainable_mask: the same over the parameters as the network reads them; what a
        reparametrization changes or adds counts as trainable.
      train_stages: the stages in training mode (see `core.types.Network`).
      frozen_stats: the modules of these stages whose BatchNorm statistics are frozen.
      task: "classification", "multilabel", "regression" or "language".
      outputs: number of classes, or of regression targets.
      output_names: those of several tasks, which `data.task_outputs.tasks_of` reads
        them from; () for one task.
      batch_sizes: stream name -> examples per batch, for the streams that terms read.
      preprocess: stream name -> its preprocessing.
      joint_pass: the streams whose batches pass through the network together.
      stats_streams: the streams whose passes update BatchNorm statistics, None for all.
      episodes: stream name -> the episodes of its batches, of streams that have any.
      cached_until: the last of the stages whose output comes from the feature cache,
        None where every stage runs.
      cached_source: whether that output is the source's as well.
      phase_terms: names of the terms that the step minimizes, None for all.
      idle_terms: names of the terms of a `period` that this step leaves out, which its
        number says; None lets the compiled step look at the number.
      variants: name of a term with several `variants` -> the one that this step takes;
        {} lets the compiled step look at its number.

    Attributes, read by the step alone:
      terms: name -> term.
      optimizer: with its groups as a mapping from patterns.
      peft: the reparametrization, or None.
      average: the average of the weights over steps, or None.
      labels: {"model", "peft", "terms"}: optimizer group of each trainable leaf.
      host_streams: the streams whose batches arrive from the host.
      augment: augmentations in the order in which they are applied.
      accumulate: number of micro-batches per step.
      dtype: of the forward and backward pass; parameters keep float32.
      mesh: the devices, with the axes `sharding.AXES`.
    """

    network: Network
    source_network: Network | None = None
    base_network: Network | None = None
    base_mask: PyTree = None
    trainable_mask: PyTree = None
    train_stages: tuple[str, ...] = ()
    frozen_stats: tuple[str, ...] = ()
    task: str = "classification"
    outputs: int = 0
    output_names: tuple[str, ...] = ()
    batch_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    preprocess: Mapping[str, Preprocess] = dataclasses.field(default_factory=dict)
    joint_pass: tuple[str, ...] = ()
    stats_streams: tuple[str, ...] | None = None
    episodes: Mapping[str, Episodes] = dataclasses.field(default_factory=dict)
    cached_until: str | None = None
    cached_source: bool = False
    phase_terms: tuple[str, ...] | None = None
    idle_terms: tuple[str, ...] | None = None
    variants: Mapping[str, int] = dataclasses.field(default_factory=dict)

    terms: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    peft: Any = None
    average: Any = None
    labels: PyTree = None
    host_streams: tuple[str, ...] = ()
    augment: tuple = ()
    accumulate: int = 1
    dtype: str = "float32"
    mesh: jax.sharding.Mesh = dataclasses.field(default_factory=sharding.mesh)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that terms read."""
        return tuple(self.batch_sizes)

    @property
    def tensor_rules(self) -> TensorRules:
        """How the parameters are split over the mesh axis "tensor"."""
        return self.network.tensor_rules or NO_RULES

    def minimizes(self, term: str) -> bool:
        """Whether the step's loss holds the term of this name."""
        return self.phase_terms is None or term in self.phase_terms

    @property
    def varying_terms(self) -> dict[str, Any]:
        """The minimized terms that steps compute differently, by period or variant."""
        return {
            name: term
            for name, term in self.terms.items()
            if self.minimizes(name) and (term.period > 1 or term.variants > 1)
        }

    def passes_with(self, stream: str) -> tuple[str, ...]:
        """Streams of this phase that pass with `stream`; () where it passes alone."""
        if stream not in self.joint_pass:
            return ()
        read = {
            name
            for term in self.terms
            if self.minimizes(term)
            for name in self.terms[term].streams
        }
        joint = tuple(name for name in self.joint_pass if name in read)
        return joint if len(joint) > 1 else ()

    def key(self) -> Any:
        """Computes a hashable identity: equal keys mean the same compiled step."""
        return tuple(
            config.key(getattr(self, field.name)) for field in dataclasses.fields(self)
        )

    def in_compute_dtype(self) -> "Program":
        """The same program with networks that compute in `dtype`."""
        if self.dtype == "float32":
            return self
        source, base = self.source_network, self.base_network
        return dataclasses.replace(
            self,
            network=compute_in(self.network, self.dtype),
            source_network=source and compute_in(source, self.dtype),
            base_network=base and compute_in(base, self.dtype),
        )

    def base_params(self, params: PyTree) -> PyTree:
        """Drops the leaves that a reparametrization added to the parameters."""
        return (
            params if self.base_network is None else trees.like(self.base_mask, params)
        )
