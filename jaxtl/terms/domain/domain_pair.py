"""What terms between two streams' features ask and check alike."""

import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, feature_stage


def chosen(stages: tuple[str, ...] | None, network) -> tuple[str, ...]:
    """Returns the stages whose outputs are compared; None is the last before the head.

    Args:
      stages: a term's field.
      network: the model.
    """
    return (feature_stage(network.stages),) if stages is None else stages


def vector(network, stage: str, feature) -> jax.Array:
    """Returns a stage's output as one vector per example, (batch, width).

    Of the last stage before the head it is what the head itself goes on with: a map's
    average, the token it reads (`Network.reduce`), where the model says so; of others
    `core.vectors`, which averages tokens and flattens maps.

    Args:
      network: the model.
      stage: whose output.
      feature: that output.
    """
    last = len(network.stages) > 1 and stage == network.stages[-2]
    if last and network.reduce is not None:
        feature = network.reduce(feature)
    return vectors(feature)


def feature(context, stream: str, stage: str) -> jax.Array:
    """Returns `vector` of a stream's training pass."""
    found = context.forward(stream).features[stage]
    return vector(context.program.network, stage, found)


def both(context, term, stage: str) -> tuple[jax.Array, jax.Array]:
    """Returns `feature` of a term's `source` and of its `target`."""
    return feature(context, term.source, stage), feature(context, term.target, stage)


def check(
    setup: Setup, source: str, target: str, stages: tuple[str, ...] | None = None
) -> None:
    """Raises if a stream or a stage is missing, or no stage is left to compare."""
    checks.stream(setup, "source", source)
    checks.stream(setup, "target", target)
    if stages == ():
        raise UserError(
            f"{checks.where(setup, 'stages')}=(): expected at least one of "
            f"{', '.join(setup.program.network.stages)}."
        )
    for stage in chosen(stages, setup.program.network):
        checks.stage(setup, "stages", stage)


def bank(setup: Setup, field: str, numbers: tuple[float, ...] | None) -> None:
    """Raises if a bank of kernels is empty or one of its widths is not above 0."""
    if numbers is None:
        return
    if not numbers:
        raise UserError(
            f"{checks.where(setup, field)}={numbers!r}: a bank of kernels needs at "
            "least one width."
        )
    for place, number in enumerate(numbers):
        checks.positive(setup, f"{field}.{place}", number)
