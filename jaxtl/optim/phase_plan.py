"""Stretches: a run's phases worked out for its model: who trains, from when to when."""

import dataclasses
from typing import Any

import jax

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN, PyTree
from jaxtl.optim import optimizer as optim_optimizer
from jaxtl.optim import phases


@dataclasses.dataclass(frozen=True, eq=False)
class ResolvedPhase:
    """One phase of a run.

    Attributes:
      steps: those it takes.
      schedule: the steps that the learning rate's schedule runs over.
      optimizer: with this phase's groups and rate.
      labels: tree of optimizer groups, None at frozen leaves.
      mask: tree of bools: which parameters are trainable.
      moving: the same over the parameters as the network reads them, where what a
        reparametrisation changes or adds counts as trainable.
      train, still: what is in training mode (see `core.Network`).
    """

    steps: range
    schedule: range
    optimizer: optim_optimizer.Optimizer
    labels: PyTree
    mask: PyTree
    moving: PyTree
    train: tuple[str, ...]
    still: tuple[str, ...]


def resolve_phases(
    exp, stages: tuple[str, ...], params, stats, merged
) -> tuple[ResolvedPhase, ...]:
    """Returns the stretches of an experiment that have any steps.

    Args:
      exp: the experiment.
      stages: of the model.
      params, stats: its initial values, before a reparametrisation.
      merged: the parameters as the network reads them.

    Raises:
      UserError: where a pattern matches nothing, or a phase trains nothing.
    """
    found = phases.resolve(exp.phases, stages)
    spans = phases.bounds(found, exp.steps)
    made, since = [], dict.fromkeys(trees.flatten(params))
    for number, (phase, steps) in enumerate(zip(found, spans)):
        if len(steps) == 0 and not (exp.steps == 0 and phase is found[-1]):
            continue
        optimizer = _optimizer(exp, phase, stages, params)
        groups = optim_optimizer.labels(optimizer, params)
        mask = _mask(phase, optimizer, groups)
        if exp.peft is None and exp.steps and not any(jax.tree.leaves(mask)):
            raise UserError(
                f"optim.groups={dict(optimizer.groups)} freezes every parameter, so "
                "there is nothing to train; leave a group unfrozen, or set steps=0 to "
                "evaluate."
            )
        for path, moves in trees.flatten(mask).items():
            began = number if since[path] is None else since[path]
            since[path] = began if moves else None
        moving = _moving(exp.peft, params, merged, mask)
        train, still = optim_optimizer.modes(optimizer, stages, moving, stats)
        made.append(
            ResolvedPhase(
                steps=steps,
                schedule=range(exp.steps) if phase.lr is None else steps,
                optimizer=optimizer,
                labels=_labels(groups, since),
                mask=mask,
                moving=moving,
                train=train,
                still=(*still, *_frozen_statistics(phase, stats, train, still)),
            )
        )
    return tuple(made)


def _optimizer(exp, phase: phases.Phase, stages, params) -> optim_optimizer.Optimizer:
    groups = exp.optim.groups if phase.groups is None else phase.groups
    if exp.peft is not None and groups == {".*": 1.0}:
        # Who asks for adapters without more wants the rest to stay as it is.
        head = stages[-1]
        groups = {head: 1.0, ".*": FROZEN} if head in params else {".*": FROZEN}
    changes: dict[str, Any] = {"groups": groups}
    if phase.lr is not None:
        changes["lr"] = phase.lr
    optimizer = dataclasses.replace(exp.optim, **changes)
    return optim_optimizer.resolve(optimizer, stages, params)


def _mask(phase: phases.Phase, optimizer, groups: PyTree) -> PyTree:
    mask = optim_optimizer.trainable(optimizer, groups)
    if phase.frozen is None:
        return mask
    held = selection.mask(phase.frozen, mask, what="phases.frozen")
    return jax.tree.map(lambda moves, stays: moves and not stays, mask, held)


def _labels(groups: PyTree, since: dict[str, int | None]) -> PyTree:
    def one(path, group):
        began = since[path]
        if began is None:
            return None
        return f"{group}{optim_optimizer.SINCE}{began}" if began else group

    return trees.map_with_path(one, groups)


def _moving(peft, params: PyTree, merged: PyTree, mask: PyTree) -> PyTree:
    if peft is None:
        return mask
    base, changed = trees.flatten(mask), trees.flatten(peft.adapted(params))
    return trees.map_with_path(
        lambda path, _: base.get(path, True) or changed.get(path, False), merged
    )


def _frozen_statistics(phase, stats, train, still) -> list[str]:
    """Returns the modules whose statistics only this phase's pattern holds still."""
    if phase.frozen is None:
        return []
    held = {
        path.rpartition("/")[0]
        for path in trees.flatten(stats)
        if selection.matches(phase.frozen, path) and path.split("/")[0] in train
    }
    return sorted(held - set(still))
