"""Ways to choose `optim.groups` that know the model: who trains, and how fast.

A value of one of these classes stands where a mapping of patterns would; it becomes
that mapping once the model's stages and parameters are known, so its numbers are traced
like those of a mapping written by hand.

BatchNorm statistics obey the resulting patterns (see `optim.modes`): they stay still
where the pattern that covers their module is FROZEN.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import FROZEN, PyTree

REST = ".*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """A rule that finds the groups for a model: `resolve(stages, params)`."""

    def resolve(self, stages: tuple[str, ...], params: PyTree) -> Mapping[str, Any]:
        """Path pattern -> learning-rate factor, Group or FROZEN.

        Args:
          stages: names of the model's stages, in order; the last is the head.
          params: the model's parameters; arrays or shapes.

        Raises:
          UserError: if the model has no such parameters.
        """
        raise TypeError(f"{type(self).__name__} defines no resolve(stages, params)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerwiseDecay(Groups):
    """Learning rates that fall by a factor with each stage away from the head.

    Of n stages, the i-th (from 1) gets the factor decay^(n − i), the head 1 · head. A
    norm or pooler that is a stage of its own is a rung of the ladder.

    Attributes:
      decay: factor from a stage to the one before it; the first reference takes
        1 / 2.6, transformers 0.65 to 0.9, and 1 gives all stages the same rate.
      head: factor of the head's rate.

    References:
      Howard & Ruder, ULMFiT, ACL 2018, section 3.2 (discriminative fine-tuning).
      Clark et al., ELECTRA, ICLR 2020, appendix B; Bao et al., BEiT, ICLR 2022.
    """

    decay: float = 0.75
    head: float = 1.0

    def resolve(self, stages: tuple[str, ...], params: PyTree):
        if not self.decay > 0:
            raise UserError(
                f"optim.groups.decay={self.decay!r}: expected a number above 0 (to "
                "train the head alone use tl.optim.HeadOnly())."
            )
        rungs = {
            re.escape(stage): float(self.decay) ** (len(stages) - 1 - i)
            for i, stage in enumerate(stages)
        }
        rungs[re.escape(stages[-1])] = float(self.head)
        return _deciding(rungs, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surgical(Groups):
    """Trains what one pattern selects, and freezes the rest.

    Attributes:
      select: pattern of what is trained, such as a stage's name.
      head: whether the head is trained as well; a head that was re-initialized should
        be. (The paper keeps the head of the source.)

    References:
      Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts,
      ICLR 2023.
    """

    select: str
    head: bool = False

    def resolve(self, stages: tuple[str, ...], params: PyTree):
        selection.mask(self.select, params, what="optim.groups.select")
        factors: dict[str, Any] = {self.select: 1.0}
        if self.head:
            factors[re.escape(stages[-1])] = 1.0
        factors.setdefault(REST, FROZEN)  # `select` may be that pattern itself
        return _deciding(factors, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOnly(Groups):
    """Trains the head alone: a linear probe."""

    def resolve(self, stages: tuple[str, ...], params: PyTree):
        if stages[-1] not in params:
            raise UserError(
                "optim.groups=HeadOnly(): this model's head has no parameters of its "
                "own (it shares the embeddings'); choose a stage with "
                "tl.optim.Surgical(select=…)."
            )
        return _deciding({re.escape(stages[-1]): 1.0, REST: FROZEN}, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitFit(Groups):
    """Trains the biases alone, those of norms included (and the head).

    BatchNorm statistics stay still: they are no biases.

    Attributes:
      head: whether the whole head is trained as well.

    References:
      Ben Zaken, Goldberg, Ravfogel, BitFit, ACL 2022.
    """

    head: bool = True

    def resolve(self, stages: tuple[str, ...], params: PyTree):
        _demand(self, params, "bias", "no bias")
        return _with_head(self.head, {".*/bias": 1.0}, stages, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormOnly(Groups):
    """Trains the scales and biases of norms alone (and the head).

    A norm is a module with a leaf named `scale`: BatchNorm, LayerNorm, RMSNorm.

    Attributes:
      head: whether the whole head is trained as well.
      statistics: whether BatchNorm statistics follow the new data, as in training;
        else norms use those of the source, as in evaluation.

    References:
      Frankle, Schwab, Morcos, Training BatchNorm and Only BatchNorm, ICLR 2021.
      Zhao et al., Tuning LayerNorm in Attention, ICLR 2024.
    """

    head: bool = True
    statistics: bool = True

    def resolve(self, stages: tuple[str, ...], params: PyTree):
        _demand(self, params, "scale", "no norm")
        pattern = _norms(params)
        pattern = pattern if self.statistics else f"({pattern})/(scale|bias)"
        return _with_head(self.head, {pattern: 1.0}, stages, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezeUpTo(Groups):
    """Freezes the first stages, up to and including the one that is named.

    Attributes:
      stage: name of the last frozen stage.
    """

    stage: str

    def resolve(self, stages: tuple[str, ...], params: PyTree):
        if self.stage not in stages:
            raise UserError(
                f"optim.groups.stage={self.stage!r}: the model has no such stage"
                f"{nearest(self.stage, stages)} (stages: {', '.join(stages)})."
            )
        first = stages[: stages.index(self.stage) + 1]
        frozen = {re.escape(stage): FROZEN for stage in first}
        return _deciding({**frozen, REST: 1.0}, params)


def _with_head(
    head: bool, factors: dict[str, Any], stages: tuple[str, ...], params: PyTree
):
    """The groups: the head (if asked), what is chosen, the rest frozen."""
    first = {re.escape(stages[-1]): 1.0} if head else {}
    return _deciding({**first, **factors, REST: FROZEN}, params)


def _deciding(groups: Mapping[str, Any], params: PyTree) -> dict[str, Any]:
    """The groups without the patterns that would decide nothing."""
    used = {selection.first(groups, path) for path in trees.flatten(params)}
    return {pattern: value for pattern, value in groups.items() if pattern in used}


def _demand(groups: Groups, params: PyTree, leaf: str, what: str) -> None:
    """Raises if no leaf of the model has this name."""
    names = {path.rpartition("/")[2] for path in trees.flatten(params)}
    if leaf not in names:
        raise UserError(
            f"optim.groups={type(groups).__name__}(): the model has {what}, as no "
            f"leaf is named {leaf!r} (names of leaves: {', '.join(sorted(names))})."
        )


def _norms(params: PyTree) -> str:
    """A pattern that covers the modules with a scale, and nothing else.

    By their own names where those tell them apart (`bn1|bn2`), as a pattern is shown
    beside every parameter; else by their whole paths.
    """
    paths = list(trees.flatten(params))
    modules = [p.removesuffix("/scale") for p in paths if p.endswith("/scale")]
    names = sorted({re.escape(m.rpartition("/")[2]) for m in modules})
    short = f"(.*/)?({'|'.join(names)})"
    norm_paths = [p for p in paths if p.rpartition("/")[0] in modules]
    if [p for p in paths if selection.matches(short, p)] == norm_paths:
        return short
    return "|".join(re.escape(m) for m in modules)
