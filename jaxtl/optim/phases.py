"""Phases: what is trainable, and how fast it learns, changes during a run.

A leaf that goes on being trained keeps its optimizer state from phase to phase; one
that thaws begins with a fresh one (step counts included), and one that freezes again
forgets its own. So it is with the parameters that terms have of their own, in phases
that leave the term out. Each phase is one compiled program.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax

from jaxtl.core import selection, serialization
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import FROZEN, PyTree
from jaxtl.optim import optimizer as optimizers
from jaxtl.optim.groups import Groups
from jaxtl.optim.optimizer import Optimizer
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
      terms: names of the terms that this phase minimizes, of those of the experiment;
        None for all. Schedules of a term (its weight, λ) run from the phase in which
        the term begins: `Phase(until=0.1, terms=("task",)), Phase()` warms up on the
        task alone for a tenth of the run.
    """

    until: float = 1.0
    frozen: str | None = None
    groups: Mapping[str, Any] | Groups | None = None
    lr: float | Schedule | None = None
    terms: tuple[str, ...] | None = serialization.later_field(None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phases:
    """A rule that makes phases of a model's stages."""

    def resolve(self, stages: tuple[str, ...]) -> tuple[Phase, ...]:
        """Makes the phases of a model; a subclass defines it.

        Args:
          stages: the model's, the head last.

        Returns:
          The phases in the order of time.
        """
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

    def resolve(self, stages: tuple[str, ...]):
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

    def resolve(self, stages: tuple[str, ...]):
        if not 0 < self.probe < 1:
            raise UserError(
                f"phases.probe={self.probe!r}: expected a share of the run in (0, 1)."
            )
        body = "|".join(stages[:-1])
        first = Phase(until=self.probe, frozen=body or None, lr=self.probe_lr)
        return (first, Phase(lr=self.lr))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ResolvedPhase:
    """One phase of a run.

    Attributes:
      steps: the steps that it takes.
      schedule_steps: the steps that the learning rate's schedule runs over.
      optimizer: with this phase's groups and learning rate.
      labels: tree of optimizer groups, None at frozen leaves.
      base_mask, trainable_mask, train_stages, frozen_stats: as in `terms.Program`.
      terms: names of the terms that it minimizes, None for all.
      terms_since: name of each of them -> number of the phase in which it began.
      term_starts: name of those that began in a later phase than the first -> the first
        step of that phase.
    """

    steps: range
    schedule_steps: range
    optimizer: Optimizer
    labels: PyTree
    base_mask: PyTree
    trainable_mask: PyTree
    train_stages: tuple[str, ...]
    frozen_stats: tuple[str, ...]
    terms: tuple[str, ...] | None
    terms_since: Mapping[str, int]
    term_starts: Mapping[str, int]


def resolve_phases(
    exp: Any,
    stages: tuple[str, ...],
    base_params: PyTree,
    stats: PyTree,
    params: PyTree,
    terms: tuple[str, ...],
) -> tuple[ResolvedPhase, ...]:
    """Resolves the phases of an experiment that take at least one step.

    Args:
      exp: the experiment.
      stages: of the model.
      base_params, stats: initial values, before a reparametrization.
      params: the parameters as the network reads them.
      terms: names of the run's terms.

    Returns:
      The phases in order; a phase without steps is left out.

    Raises:
      UserError: where a pattern or a term's name matches nothing, or a phase trains
        nothing.
    """
    declared = declared_phases(exp.phases, stages)
    _check_terms(declared, terms)
    bounds = phase_bounds(declared, exp.steps)
    # Path -> number of the phase since which it has been trained, None while frozen.
    since: dict[str, int | None] = dict.fromkeys(trees.flatten(base_params))
    terms_since: dict[str, int] = {}  # the same of terms
    resolved = []
    for number, (phase, steps) in enumerate(zip(declared, bounds)):
        if len(steps) == 0 and not (exp.steps == 0 and phase is declared[-1]):
            continue
        optimizer = _optimizer(exp, phase, stages, base_params)
        groups = optimizers.labels(optimizer, base_params)
        mask = _mask(phase, optimizer, groups)
        if exp.peft is None and exp.steps:
            _check_trained(optimizer, mask)
        for path, trained in trees.flatten(mask).items():
            start = number if since[path] is None else since[path]
            since[path] = start if trained else None
        trainable_mask = _trainable_mask(exp.peft, base_params, params, mask)
        train_stages, frozen_stats = optimizers.modes(
            optimizer, stages, trainable_mask, stats
        )
        more = _stats_frozen_by_phase(phase, stats, train_stages, frozen_stats)
        active = terms if phase.terms is None else phase.terms
        terms_since = {name: terms_since.get(name, number) for name in active}
        resolved.append(
            ResolvedPhase(
                steps=steps,
                schedule_steps=range(exp.steps) if phase.lr is None else steps,
                optimizer=optimizer,
                labels=_labels(groups, since),
                base_mask=mask,
                trainable_mask=trainable_mask,
                train_stages=train_stages,
                frozen_stats=(*frozen_stats, *more),
                terms=phase.terms,
                terms_since=terms_since,
                term_starts=_term_starts(terms_since, bounds),
            )
        )
    return tuple(resolved)


def _check_trained(optimizer: Optimizer, mask: PyTree) -> None:
    """Refuses a phase in which no parameter is trained."""
    if not any(jax.tree.leaves(mask)):
        raise UserError(
            f"optim.groups={dict(optimizer.group_of)} freezes every parameter, so "
            "there is nothing to train; leave a group unfrozen, or set steps=0 to "
            "evaluate."
        )


def _term_starts(since: Mapping[str, int], bounds: list[range]) -> dict[str, int]:
    """Name of each term that began after the run's first step -> that step.

    Args:
      since: name of a term -> number of the phase in which it began.
      bounds: the steps of each phase.
    """
    starts = {name: bounds[number].start for name, number in since.items()}
    return {name: step for name, step in starts.items() if step}


def _check_terms(phases: tuple[Phase, ...], terms: tuple[str, ...]) -> None:
    """Refuses phases that name no term, or one that the experiment lacks."""
    for phase in phases:
        if phase.terms is None or not terms:  # a run reopened to evaluate it has none
            continue
        if isinstance(phase.terms, str) or not phase.terms:
            raise UserError(
                f"phases: terms={phase.terms!r}: expected a tuple of names of terms, "
                f"such as ({terms[0]!r},), or None for all."
            )
        for name in phase.terms:
            if name not in terms:
                raise UserError(
                    f"phases: terms={phase.terms!r}: there is no term {name!r}"
                    f"{nearest(name, terms)} (known: {', '.join(terms)})."
                )


def _optimizer(
    exp: Any, phase: Phase, stages: tuple[str, ...], params: PyTree
) -> Optimizer:
    groups = exp.optim.groups if phase.groups is None else phase.groups
    if exp.peft is not None and isinstance(groups, Mapping):
        groups = _groups_of_adapters(groups, stages[-1], params)
    changes: dict[str, Any] = {"groups": groups}
    if phase.lr is not None:
        changes["lr"] = phase.lr
    optimizer = dataclasses.replace(exp.optim, **changes)
    return optimizers.resolve(optimizer, stages, params)


def _groups_of_adapters(
    groups: Mapping[str, Any], head: str, params: PyTree
) -> Mapping[str, Any]:
    """With adapters and no groups, only the adapters and the head are trained."""
    of_model = optimizers.model_groups(groups)
    if not groups or of_model not in ({}, {".*": 1.0}):
        return groups
    of_terms = {p: value for p, value in groups.items() if p not in of_model}
    trained = {head: 1.0} if head in params else {}
    return {**of_terms, **trained, ".*": FROZEN}


def _mask(phase: Phase, optimizer: Optimizer, groups: PyTree) -> PyTree:
    mask = optimizers.trainable(optimizer, groups)
    if phase.frozen is None:
        return mask
    frozen = selection.mask(phase.frozen, mask, what="phases.frozen")
    return jax.tree.map(lambda trained, held: trained and not held, mask, frozen)


def _labels(groups: PyTree, since: Mapping[str, int | None]) -> PyTree:
    """Labels leaves by group, and by the phase since which they have been trained."""

    def label(path: str, group: str) -> str | None:
        start = since[path]
        if start is None:
            return None
        return f"{group}{optimizers.SINCE}{start}" if start else group

    return trees.map_with_path(label, groups)


def _trainable_mask(
    peft: Any, base_params: PyTree, params: PyTree, mask: PyTree
) -> PyTree:
    if peft is None:
        return mask
    base, adapted = trees.flatten(mask), trees.flatten(peft.adapted_mask(base_params))
    return trees.map_with_path(
        lambda path, _: base.get(path, True) or adapted.get(path, False), params
    )


def _stats_frozen_by_phase(
    phase: Phase,
    stats: PyTree,
    train_stages: tuple[str, ...],
    frozen_stats: tuple[str, ...],
) -> list[str]:
    """Modules whose statistics only this phase's pattern freezes."""
    if phase.frozen is None:
        return []
    modules = {
        path.rpartition("/")[0]
        for path in trees.flatten(stats)
        if selection.matches(phase.frozen, path) and path.split("/")[0] in train_stages
    }
    return sorted(modules - set(frozen_stats))


def declared_phases(phases: Any, stages: tuple[str, ...]) -> tuple[Phase, ...]:
    """An experiment's phases in order; one that lasts throughout for none.

    Args:
      phases: of the experiment: a rule, or `Phase` values in order.
      stages: of the model, the head last.

    Returns:
      At least one phase; the last one ends at 1.

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


def phase_bounds(phases: tuple[Phase, ...], steps: int) -> list[range]:
    """The steps of each phase; short runs may leave some of them none.

    Args:
      phases: as of `declared_phases`.
      steps: of the whole run.

    Returns:
      One range of step numbers for each phase; together they are range(steps).
    """
    ends = [round(phase.until * steps) for phase in phases]
    return [range(a, b) for a, b in zip([0, *ends], ends)]
