"""Base classes of distillation: terms that read the outputs of frozen teachers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.pretrained.trained_network import TrainedNetwork
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.distillation import teacher as teachers
from jaxtl.terms.distillation import teacher_tables

LOGITS = ""  # stands for the outputs of the head among names of stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherTerm(Term):
    """Base of terms that read the outputs of trained networks on a stream's batch.

    Teachers run in evaluation mode and in float32 on the very inputs of the model,
    augmented as these are, in their own normalization; no gradient flows through them.
    Without augmentation their outputs for all train examples of the stream are computed
    once, where the experiment's `cache` and `cache_bytes` allow it; the latter bounds
    the outputs that one term reads, not their sum over terms.

    Attributes:
      teacher: trained weights, such as `tl.pretrained.FromRun("runs/large")`.
      teacher_model: their architecture, where the weights don't bring one.
      stream: name of the stream.
    """

    teacher: Any = None
    teacher_model: Any = None
    stream: str = stream_field("target")

    @property
    def _sources(self) -> list[tuple[Any, Any]]:
        """(weights, architecture) of each teacher."""
        sources, models = self.teacher, self.teacher_model
        if not isinstance(sources, list | tuple):
            return [(sources, models)]
        many = isinstance(models, list | tuple)
        return list(zip(sources, models if many else [models] * len(sources)))

    def teacher_stages(
        self, network: TrainedNetwork, features: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """The stages of a teacher that the term reads, `LOGITS` for the head's.

        Args:
          network: the teacher.
          features: stage name -> its output, or its shape.
        """
        return (LOGITS,)

    def networks(self, setup: Setup) -> list[TrainedNetwork]:
        """The teachers, checked against the stream's inputs."""
        return [
            teachers.load(setup, source, model, self.stream)
            for source, model in self._sources
        ]

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        self._check_number(setup)
        self.networks(setup)

    def _check_number(self, setup: Setup) -> None:
        """Raises UserError where there is no teacher, or not one model for each."""
        sources, models = self.teacher, self.teacher_model
        if sources is None or isinstance(sources, str | bytes) or sources in ((), []):
            raise UserError(
                f"{checks.where(setup, 'teacher')}={sources!r}: expected trained "
                'weights, such as tl.pretrained.FromRun("<directory>").'
            )
        if not isinstance(models, list | tuple):
            return
        expected = "a model, as there is one teacher, not a tuple"
        if isinstance(sources, list | tuple):
            if len(models) == len(sources):
                return
            expected = f"one model for each of the {len(sources)} teachers"
        raise UserError(
            f"{checks.where(setup, 'teacher_model')}: expected {expected}, got "
            f"{len(models)}."
        )

    def _why_not_cached(self, setup: Setup) -> str:
        """Why the teachers run at every step; "" where their outputs are cached."""
        program, examples = setup.program, setup.train_examples(self.stream)
        if program.augment:
            return "augmentation gives other inputs each time"
        passes = setup.steps * program.batch_sizes[self.stream]
        if not setup.cache_bytes:
            return "nothing is cached"
        if setup.cache == "auto" and passes < examples:
            return f"the run sees fewer examples than the {examples:,} of the stream"
        nbytes = self._cached_bytes(setup)
        if nbytes > setup.cache_bytes:
            return (
                f"they would take {nbytes:,} bytes, more than "
                f"cache_bytes={setup.cache_bytes:,}"
            )
        return ""

    def _cached_bytes(self, setup: Setup) -> int:
        total = 0
        for network in self.networks(setup):
            out = teachers.shapes(setup, network, self.stream)
            for name in self.teacher_stages(network, out.features):
                read = out.logits if name == LOGITS else out.features[name]
                total += trees.nbytes(read)
        return total * setup.train_examples(self.stream)

    def describe(self, setup: Setup) -> str:
        names = ", ".join(network.where for network in self.networks(setup))
        outputs = "its outputs" if len(self._sources) == 1 else "their outputs"
        why = self._why_not_cached(setup)
        how = f"computed at every step: {why}" if why else "computed once"
        return f"teacher {names}, {outputs} {how}"

    def constants(self, setup: Setup) -> PyTree:
        networks = self.networks(setup)
        orders = tuple(teachers.output_order(setup, network) for network in networks)
        if self._why_not_cached(setup):
            return {"networks": tuple(networks), "orders": orders}
        tables = tuple(self._table(setup, index) for index in range(len(networks)))
        return {"tables": tables, "orders": orders}

    def _table(self, setup: Setup, index: int) -> PyTree:
        network = self.networks(setup)[index]
        features = teachers.shapes(setup, network, self.stream).features
        read = self.teacher_stages(network, features)
        key = ("table", config.key(self._sources[index]), self.stream, read)

        def compute() -> PyTree:
            return teacher_tables.table(setup, network, self.stream, read)

        return setup.memo.once(key, compute)

    def teacher_outputs(self, context: View) -> list[dict[str, Any]]:
        """{stage: output for the stream's batch} of each teacher.

        The logits, in the order of the model's outputs, stand under `LOGITS`.
        """
        outputs = []
        for index, order in enumerate(context.constants["orders"]):
            out = self._output(context, index)
            if LOGITS in out and order is not None:
                logits = jnp.take(out[LOGITS], order, axis=-1)
                out = {**out, LOGITS: logits}
            outputs.append(out)
        return outputs

    def _output(self, context: View, index: int) -> dict[str, Any]:
        batch = context.batches[self.stream]
        if "tables" in context.constants:
            table, places = context.constants["tables"][index]
            return jax.tree.map(lambda a: a[places[batch["row"]]], table)
        network = context.constants["networks"][index]
        pre = context.program.preprocess[self.stream]

        def forward() -> dict[str, Any]:
            out = network.forward(teachers.inputs_of(network, pre, batch["x"]))
            return {**out.features, LOGITS: out.logits}

        key = ("teacher", config.key(self._sources[index]), self.stream)
        out = context.memo.once(key, forward)
        return {name: out[name] for name in self.teacher_stages(network, out)}
