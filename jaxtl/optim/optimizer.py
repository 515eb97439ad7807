"""Optimizers with groups: what is frozen, and the learning rate of each group.

An optimizer is a value; `transform` turns it into an optax transformation over the
trainable leaves alone, so frozen leaves cost no gradient and no state, and a norm clip
sees the trainable norm only.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN, PyTree, Source, _Frozen
from jaxtl.optim.groups import (
    Groups,
)
from jaxtl.optim.projections import Projection
from jaxtl.optim.schedules import Schedule

TERMS = "terms"  # the group of the terms' own parameters
SINCE = " since phase "  # in the label of leaves that were unfrozen during the run
IDLE = "idle"  # label of the parameters of terms that a phase leaves out
PEFT = "peft"  # the group of parameters that a reparametrization trains


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Settings of the parameters that one pattern selects.

    Attributes:
      lr: factor of the optimizer's learning rate.
      weight_decay: replaces the optimizer's (None keeps it).
    """

    lr: float = traced(1.0)
    weight_decay: float | None = traced(None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The fields that all optimizers share.

    Attributes:
      lr: learning rate, a number or a schedule.
      weight_decay: decoupled weight decay: `θ ← θ − lr · weight_decay · θ` on leaves
        of two or more dimensions (kernels and embeddings; not biases and norms).
      decay_to_source: decoupled L2-SP: `θ ← θ − lr · decay_to_source · (θ − θ₀)` on
        every leaf that has a source; None leaves it out. Under Adam this differs from
        the term L2SP, whose gradient is divided by the second moment like any other.
      groups: path pattern -> FROZEN, a learning-rate factor, or a Group. The first
        pattern that covers a path decides; every path must be covered. Or a `Groups`,
        which finds patterns and values for the model: `LayerwiseDecay(decay=0.8)`.
        A pattern that begins with "terms/" is of the parameters that terms have of
        their own, `{"terms/domain/.*": 10.0, ".*": 1.0}` for the discriminator of the
        term "domain"; where none covers them, their factor is 1.
      clip: upper bound of the trainable gradient's global norm.
      project: projections towards θ₀, taken in turn after each update, such as
        `(tl.optim.MARS(radius=1.0),)`.
    """

    lr: float | Schedule = traced(1e-3)
    weight_decay: float = traced(0.0)
    decay_to_source: float | None = traced(None)
    groups: Mapping[str, float | Group | _Frozen] | Groups = traced({".*": 1.0})
    clip: float | None = traced(None)
    project: tuple[Projection, ...] = ()

    @property
    def group_of(self) -> Mapping[str, Any]:
        """The groups as a mapping from patterns, once they are resolved for a model."""
        if not isinstance(self.groups, Mapping):
            raise TypeError(f"optim.groups={self.groups!r} are not resolved yet")
        return self.groups

    @property
    def decays_gradient(self) -> bool:
        """Whether weight decay is added to the gradient, not to the step."""
        return False

    def direction(self) -> optax.GradientTransformation:
        """The transformation of gradients into unscaled steps."""
        raise TypeError(f"{type(self).__name__} defines no direction()")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019).

    Attributes:
      b1, b2: decay rates of the first and second moment's averages.
      eps: added to the root of the second moment.
    """

    b1: float = traced(0.9)
    b2: float = traced(0.999)
    eps: float = traced(1e-8)

    def direction(self):
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum: `m ← g + momentum · m`.

    Attributes:
      momentum: 0 for none.
      nesterov: take g + momentum · m as the step.
      coupled_decay: add weight_decay · θ to g, so that it goes through the momentum, as
        in torch's SGD: with momentum 0.9 it pulls some ten times as far as a decoupled
        decay of the same number. Torch decays every parameter of a group; here it is
        still the leaves of two or more dimensions.
    """

    lr: float | Schedule = traced(1e-2)
    momentum: float = traced(0.9)
    nesterov: bool = False
    coupled_decay: bool = False

    @property
    def decays_gradient(self) -> bool:
        return self.coupled_decay

    def direction(self):
        return optax.trace(decay=self.momentum, nesterov=self.nesterov)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optax(Optimizer):
    """Any optax transformation as direction, `Optax(make=optax.scale_by_lion)`.

    Attributes:
      make: called without arguments; must return *unscaled* steps (`scale_by_…`), as
        the learning rate, its groups and the sign are applied here.
    """

    make: Callable[[], optax.GradientTransformation] = optax.scale_by_lion

    def direction(self):
        return self.make()


def resolve(optimizer: Optimizer, stages: tuple[str, ...], params: PyTree) -> Optimizer:
    """The optimizer with its groups as a mapping, for this model.

    Args:
      optimizer: its groups may be a rule such as `LayerwiseDecay`.
      stages: of the model, the head last.
      params: the model's parameters; only paths and shapes are read.

    Returns:
      The same optimizer, groups as pattern -> factor, `Group` or FROZEN; where all
      groups are of terms' parameters, ".*" trains the model.

    Raises:
      UserError: groups that are neither a mapping nor a rule.
    """
    groups = optimizer.groups
    if isinstance(groups, Groups):
        groups = groups.resolve(stages, params)
    if not isinstance(groups, Mapping):
        raise UserError(
            f"optim.groups={groups!r}: expected a mapping from patterns to factors, or "
            "a choice such as tl.optim.LayerwiseDecay()."
        )
    if groups and all(map(_names_terms, groups)):
        groups = {**groups, ".*": 1.0}
    return dataclasses.replace(optimizer, groups=groups)


def model_groups(groups: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of the model's parameters: without those of terms' parameters.

    Args:
      groups: pattern -> value, as in `optim.groups`.

    Returns:
      The entries whose pattern does not begin with that of terms.
    """
    return {p: value for p, value in groups.items() if not _names_terms(p)}


def _names_terms(pattern: str) -> bool:
    """Whether a pattern is one of the terms' own parameters."""
    return re.match(rf"{TERMS}(\W|$)", pattern) is not None


def check(optimizer: Optimizer, params: PyTree, mask: PyTree, source: Source) -> None:
    """Raises UserError where the optimizer needs a θ₀ that is not there.

    Args:
      optimizer: with numbers, not traced.
      params: the model's parameters.
      mask: tree of bools, True where a parameter is trainable.
      source: θ₀.
    """
    if optimizer.decay_to_source is not None and source.params is None:
        raise UserError(
            f"optim.decay_to_source={optimizer.decay_to_source}: the experiment starts "
            "from scratch, so there is no θ₀ to stay near; give it an init=."
        )
    is_tuple = isinstance(optimizer.project, tuple)
    for i, projection in enumerate(optimizer.project if is_tuple else (None,)):
        if not isinstance(projection, Projection):
            raise UserError(
                f"optim.project={optimizer.project!r}: expected a tuple of projections "
                "such as (tl.optim.L2Ball(radius=1.0),)."
            )
        projection.check(f"optim.project.{i}", params, mask, source.params)


def group(optimizer: Optimizer, label: str) -> Group:
    """The group of a label as a Group (a number is its lr factor).

    Args:
      optimizer: with its groups as a mapping.
      label: a pattern of the groups, or one of the labels of added parameters, to which
        a phase may have appended its number.

    Returns:
      The group, whose `lr` is a factor of the optimizer's; 0 for what is idle.
    """
    label = label.split(SINCE)[0]
    if label == IDLE:
        return Group(lr=0.0)
    settings = Group() if label in (TERMS, PEFT) else optimizer.group_of[label]
    return settings if isinstance(settings, Group) else Group(lr=settings)


def labels(optimizer: Optimizer, params: PyTree) -> PyTree:
    """The tree of group patterns, one for each of the model's parameters.

    Args:
      optimizer: with its groups as a mapping.
      params: the model's parameters; only paths are read.

    Returns:
      A tree in the structure of `params` with a pattern at each leaf.

    Raises:
      UserError: for a pattern that matches nothing, an uncovered parameter, or a group
        that is none of FROZEN, a number and a Group.
    """
    for pattern, value in optimizer.group_of.items():
        if not isinstance(value, int | float | Group | _Frozen | jax.Array):
            raise UserError(
                f"optim.groups[{pattern!r}]={value!r}: expected tl.FROZEN, a factor of "
                "the learning rate, or a tl.optim.Group."
            )
    patterns = model_groups(optimizer.group_of)
    return selection.labels(patterns, params, what="optim.groups")


def term_labels(optimizer: Optimizer, params: PyTree) -> PyTree:
    """The tree of group patterns of the terms' parameters, `TERMS` where none covers.

    Args:
      optimizer: with its groups as a mapping.
      params: term name -> the term's own parameters; arrays or shapes.

    Returns:
      A tree in the structure of `params` with a label at each leaf.

    Raises:
      UserError: for a pattern that matches nothing, or a group that is FROZEN.
    """
    patterns = [p for p in optimizer.group_of if _names_terms(p)]
    for pattern in patterns:
        if optimizer.group_of[pattern] is FROZEN:
            raise UserError(
                f"optim.groups[{pattern!r}]=FROZEN: the parameters of a term can't be "
                "frozen; a factor of 0.0 leaves them as they begin."
            )
    if patterns and not params:
        raise UserError(
            f"optim.groups: the pattern {patterns[0]!r} matches nothing, since no term "
            "of this experiment has parameters of its own."
        )
    tree = {TERMS: params}
    named = selection.labels(patterns, tree, what="optim.groups", rest=TERMS)
    return named[TERMS]


def trainable(optimizer: Optimizer, label_tree: PyTree) -> PyTree:
    """The tree of bools: True where the parameter is not frozen.

    Args:
      optimizer: with its groups as a mapping.
      label_tree: as `labels` returns it.

    Returns:
      A tree of bools in the same structure.
    """
    return jax.tree.map(lambda g: optimizer.group_of[g] is not FROZEN, label_tree)


def modes(
    optimizer: Optimizer, stages: tuple[str, ...], mask: PyTree, stats: PyTree
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(stages in training mode, modules whose statistics stay still).

    A stage trains if any parameter of it does. A module's statistics obey the same
    patterns as parameters; where no pattern names them, they move if any parameter of
    their module does.

    Args:
      optimizer: with its groups as a mapping.
      stages: of the model, the head last.
      mask: tree of bools, as of `trainable`.
      stats: batch statistics, stage -> subtree.

    Returns:
      Both for `Network.apply`, as `train` and `frozen_stats`.
    """
    flat = trees.flatten(mask)
    train = tuple(
        s for s in stages if any(m for p, m in flat.items() if p.split("/")[0] == s)
    )
    still = []
    for path in trees.flatten(stats):
        module = path.rpartition("/")[0]
        pattern = selection.first(optimizer.group_of, path)
        if pattern is None:
            moves = any(m for p, m in flat.items() if p.startswith(module + "/"))
        else:
            moves = optimizer.group_of[pattern] is not FROZEN
        if not moves and path.split("/")[0] in train:
            still.append(module)
    return train, tuple(dict.fromkeys(still))
