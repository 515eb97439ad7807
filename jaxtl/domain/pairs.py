"""What terms between two streams' features ask and check alike."""

from jaxtl import checks
from jaxtl.core import Setup, UserError


def chosen(stages: tuple[str, ...] | None, network) -> tuple[str, ...]:
    """Returns the stages whose outputs are compared; None is the last before the head.

    Args:
      stages: a term's field.
      network: the model.
    """
    return (checks.last_feature(network.stages),) if stages is None else stages


def check(
    setup: Setup, source: str, target: str, stages: tuple[str, ...] | None = None
) -> None:
    """Raises if a stream or a stage is missing, or no stage is left to compare."""
    checks.stream(setup, "source", source)
    checks.stream(setup, "target", target)
    if stages == ():
        raise UserError(
            f"{checks.where(setup, 'stages')}=(): expected at least one of "
            f"{', '.join(setup.network.stages)}."
        )
    for stage in chosen(stages, setup.network):
        checks.stage(setup, "stages", stage)


def positive(setup: Setup, field: str, value: float) -> None:
    """Raises if a number is not above 0."""
    if not value > 0:
        raise UserError(
            f"{checks.where(setup, field)}={value!r}: expected a number above 0."
        )


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
        positive(setup, f"{field}.{place}", number)
