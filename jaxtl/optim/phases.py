"""Phases: what is trainable, and how fast it learns, changes during a run.

A leaf that goes on being trained keeps its optimizer state from phase to phase; one
that thaws begins with a fresh one (step counts included), and one that freezes again
forgets its own. Each phase is one compiled program.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jaxtl.core.errors import UserError, nearest
from jaxtl.optim.groups import Groups
from jaxtl.optim.schedules import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of a run.

    Attributes:
      until: where it ends, as a share of the run's steps in (0, 1].
      frozen: pattern of what is frozen besides what the groups freeze.
      groups: replaces the optimizer's groups; None keeps them.
      lr: replaces the optimizer's learning rate; a schedule then runs over this phase.
        None keeps the rate, whose schedule runs over the whole run.
    """

    until: float = 1.0
    frozen: str | None = None
    groups: Mapping[str, Any] | Groups | None = None
    lr: float | Schedule | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phases:
    """A rule that makes phases of a model's stages."""

    def resolve(self, stages: tuple[str, ...]) -> tuple[Phase, ...]:
        """The phases in order."""
        raise TypeError(f"{type(self).__name__} defines no resolve(stages)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradualUnfreezing(Phases):
    """The head first, then one more stage at a time until all are trained.

    Attributes:
      order: "top-down" thaws from the head towards the input, "bottom-up" from the
        input towards the head (which is trained throughout).
      until: share of the run by which every stage is trained; the phases before it
        are equally long.
      by: stages that thaw at a time.

    References:
      Howard & Ruder, Universal Language Model Fine-tuning, ACL 2018, section 3.3.
    """

    order: Literal["top-down", "bottom-up"] = "top-down"
    until: float = 0.5
    by: int = 1

    def resolve(self, stages):
        orders = ("top-down", "bottom-up")
        if self.order not in orders:
            raise UserError(
                f"phases.order={self.order!r} is unknown{nearest(self.order, orders)} "
                f"(known: {', '.join(orders)})."
            )
        if not (0 < self.until < 1 and self.by >= 1):
            raise UserError(
                f"phases: until={self.until!r}, by={self.by!r}: expected a share of "
                "the run in (0, 1) and at least one stage at a time."
            )
        body = list(stages[:-1])
        frozen = []  # one list per phase but the last
        while body:
            frozen.append("|".join(body))
            body = body[: -self.by] if self.order == "top-down" else body[self.by :]
        share = self.until / max(len(frozen), 1)
        unfreezing = [
            Phase(until=share * (i + 1), frozen=names) for i, names in enumerate(frozen)
        ]
        return (*unfreezing, Phase())


@dataclasses.dataclass(frozen=True, kw_only=True)
class LPFT(Phases):
    """A linear probe first, then everything: features are not bent by a random head.

    Attributes:
      probe: share of the run in which only the head is trained.
      probe_lr: its learning rate; None keeps the optimizer's.
      lr: that of the second phase; None keeps the optimizer's.

    References:
      Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform
      Out-of-Distribution, ICLR 2022.
    """

    probe: float = 0.5
    probe_lr: float | Schedule | None = None
    lr: float | Schedule | None = None

    def resolve(self, stages):
        if not 0 < self.probe < 1:
            raise UserError(
                f"phases.probe={self.probe!r}: expected a share of the run in (0, 1)."
            )
        body = "|".join(stages[:-1])
        first = Phase(until=self.probe, frozen=body or None, lr=self.probe_lr)
        return (first, Phase(lr=self.lr))


def resolve(phases: Any, stages: tuple[str, ...]) -> tuple[Phase, ...]:
    """An experiment's phases in order; one that lasts throughout for none.

    Raises:
      UserError: where they are no phases, or don't end one after the other at 1.
    """
    declared = phases.resolve(stages) if isinstance(phases, Phases) else tuple(phases)
    if not declared:
        return (Phase(),)
    for phase in declared:
        if not isinstance(phase, Phase):
            raise UserError(
                f"phases: {phase!r} is no phase; expected tl.optim.Phase(until=…) "
                "values, tl.optim.GradualUnfreezing() or tl.optim.LPFT()."
            )
        if not isinstance(phase.groups, Mapping | Groups | None):
            raise UserError(
                f"phases: groups={phase.groups!r}: expected a mapping of patterns, as "
                "in optim.groups."
            )
    ends = [phase.until for phase in declared]
    rising = all(a < b for a, b in zip([0.0, *ends], ends))
    if not rising or ends[-1] != 1.0:
        raise UserError(
            f"phases end at {ends}: expected rising shares of the run, the last 1.0."
        )
    return declared


def bounds(phases: tuple[Phase, ...], steps: int) -> list[range]:
    """The steps of each phase; short runs may leave some of them none."""
    ends = [round(phase.until * steps) for phase in phases]
    return [range(a, b) for a, b in zip([0, *ends], ends)]
