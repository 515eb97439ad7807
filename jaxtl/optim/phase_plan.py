"""Phases resolved for a model: which parameters train, from which step to which."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN, PyTree
from jaxtl.optim import optimizer as optimizers
from jaxtl.optim import phases
from jaxtl.optim.optimizer import Optimizer
from jaxtl.optim.phases import Phase


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ResolvedPhase:
    """One phase of a run.

    Attributes:
      steps: the steps that it takes.
      schedule_steps: the steps that the learning rate's schedule runs over.
      optimizer: with this phase's groups and learning rate.
      labels: tree of optimizer groups, None at frozen leaves.
      base_mask, trainable_mask, train_stages, frozen_stats: as in `terms.Program`.
    """

    steps: range
    schedule_steps: range
    optimizer: Optimizer
    labels: PyTree
    base_mask: PyTree
    trainable_mask: PyTree
    train_stages: tuple[str, ...]
    frozen_stats: tuple[str, ...]


def resolve_phases(
    exp: Any,
    stages: tuple[str, ...],
    base_params: PyTree,
    stats: PyTree,
    params: PyTree,
) -> tuple[ResolvedPhase, ...]:
    """Resolves the phases of an experiment that take at least one step.

    Args:
      exp: the experiment.
      stages: of the model.
      base_params, stats: initial values, before a reparametrization.
      params: the parameters as the network reads them.

    Raises:
      UserError: where a pattern matches nothing, or a phase trains nothing.
    """
    declared = phases.resolve(exp.phases, stages)
    bounds = phases.bounds(declared, exp.steps)
    # Path -> number of the phase since which it has been trained, None while frozen.
    since: dict[str, int | None] = dict.fromkeys(trees.flatten(base_params))
    resolved = []
    for number, (phase, steps) in enumerate(zip(declared, bounds)):
        if len(steps) == 0 and not (exp.steps == 0 and phase is declared[-1]):
            continue
        optimizer = _optimizer(exp, phase, stages, base_params)
        groups = optimizers.labels(optimizer, base_params)
        mask = _mask(phase, optimizer, groups)
        if exp.peft is None and exp.steps and not any(jax.tree.leaves(mask)):
            raise UserError(
                f"optim.groups={dict(optimizer.groups)} freezes every parameter, so "
                "there is nothing to train; leave a group unfrozen, or set steps=0 to "
                "evaluate."
            )
        for path, trained in trees.flatten(mask).items():
            start = number if since[path] is None else since[path]
            since[path] = start if trained else None
        trainable_mask = _trainable_mask(exp.peft, base_params, params, mask)
        train_stages, frozen_stats = optimizers.modes(
            optimizer, stages, trainable_mask, stats
        )
        more = _stats_frozen_by_phase(phase, stats, train_stages, frozen_stats)
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
            )
        )
    return tuple(resolved)


def _optimizer(
    exp: Any, phase: Phase, stages: tuple[str, ...], params: PyTree
) -> Optimizer:
    groups = exp.optim.groups if phase.groups is None else phase.groups
    if exp.peft is not None and groups == {".*": 1.0}:
        # With adapters and no groups, only the adapters and the head are trained.
        head = stages[-1]
        groups = {head: 1.0, ".*": FROZEN} if head in params else {".*": FROZEN}
    changes: dict[str, Any] = {"groups": groups}
    if phase.lr is not None:
        changes["lr"] = phase.lr
    optimizer = dataclasses.replace(exp.optim, **changes)
    return optimizers.resolve(optimizer, stages, params)


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
