"""Base classes of terms between two domains, and stage outputs as vectors."""

import dataclasses
import functools
from typing import Any

import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View


def stage_vectors(network: Network, stage: str, feature: Any) -> jax.Array:
    """Converts a stage's output to one vector per example.

    The output of the last stage before the head is reduced as the head reduces it
    (`Network.reduce`: the average of a feature map, the token that the head reads),
    where the model declares that. Any other output goes through `core.types.vectors`,
    which averages tokens and flattens maps.

    Args:
      network: the model.
      stage: name of the stage.
      feature: its output for a batch, an array or `Tokens`.

    Returns:
      (batch, width), float32 or wider.
    """
    is_last = len(network.stages) > 1 and stage == network.stages[-2]
    if is_last and network.reduce is not None:
        feature = network.reduce(feature)
    return vectors(feature)


def vector_width(setup: Setup, stage: str) -> int:
    """Width of the vectors that `stage_vectors` makes of a stage's output."""
    to_vectors = functools.partial(stage_vectors, setup.program.network, stage)
    return jax.eval_shape(to_vectors, setup.features[stage]).shape[-1]


def stream_vectors(context: View, stream: str, stage: str) -> jax.Array:
    """`stage_vectors` of a stream's training pass, (batch, width)."""
    feature = context.forward(stream).features[stage]
    return stage_vectors(context.program.network, stage, feature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainPair(Term):
    """Base class of terms that read the batches of two domains.

    Attributes:
      source: stream of the source domain.
      target: stream of the target domain; its labels are not used.
    """

    source: str = stream_field("source")
    target: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "source", self.source)
        checks.stream(setup, "target", self.target)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainPairAtStage(DomainPair):
    """Base class of terms that read the features of one stage in two domains.

    Attributes:
      source, target: as in `DomainPair`.
      stage: stage whose output is read; None is the last one before the head.
    """

    stage: str | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.stage(setup, "stage", self.stage_name(setup.program.network))

    def stage_name(self, network: Network) -> str:
        """Name of the stage whose output is read."""
        return feature_stage(network.stages, self.stage)

    def features(self, context: View, stream: str) -> jax.Array:
        """The stage's output for a stream's batch, (batch, width)."""
        return stream_vectors(context, stream, self.stage_name(context.program.network))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainPairAtStages(DomainPair):
    """Base class of terms that compare two domains at one or more stages.

    Attributes:
      source, target: as in `DomainPair`.
      stages: stages whose outputs are compared; None is the last one before the head.
    """

    stages: tuple[str, ...] | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        if self.stages == ():
            raise UserError(
                f"{checks.where(setup, 'stages')}=(): expected at least one of "
                f"{', '.join(setup.program.network.stages)}."
            )
        for stage in self._stage_names(setup.program.network):
            checks.stage(setup, "stages", stage)

    def _stage_names(self, network: Network) -> tuple[str, ...]:
        if self.stages is None:
            return (feature_stage(network.stages),)
        return self.stages

    def feature_pairs(self, context: View) -> list[tuple[jax.Array, jax.Array]]:
        """Features of the source and of the target at each stage.

        Returns:
          For each stage ((n, width), (m, width)).
        """
        return [
            (
                stream_vectors(context, self.source, stage),
                stream_vectors(context, self.target, stage),
            )
            for stage in self._stage_names(context.program.network)
        ]
