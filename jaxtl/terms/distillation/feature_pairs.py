"""Pairs of a stage of the model and one of its teacher, and their features."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import Tokens
from jaxtl.pretrained.trained_network import TrainedNetwork
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.distillation import teacher as teachers
from jaxtl.terms.distillation.base import TeacherTerm
from jaxtl.terms.regularizers import feature_maps


def adaptive_pool(values: jax.Array, height: int, width: int) -> jax.Array:
    """Means over nearly equal windows, as torch's `adaptive_avg_pool2d`.

    Args:
      values: (batch, H, W, channels).
      height, width: of the result; window i of n covers ⌊i·H/n⌋ to ⌈(i + 1)·H/n⌉.
    """
    if values.shape[1:3] == (height, width):
        return values
    rows = jnp.asarray(_windows(values.shape[1], height), values.dtype)
    columns = jnp.asarray(_windows(values.shape[2], width), values.dtype)
    return jnp.einsum("bhwc,ih,jw->bijc", values, rows, columns)


def _windows(size: int, count: int) -> np.ndarray:
    """The weights of each window's mean, (count, size)."""
    index, place = np.arange(count)[:, None], np.arange(size)[None]
    first, end = index * size // count, -(-(index + 1) * size // count)
    inside = (first <= place) & (place < end)
    return inside / inside.sum(1, keepdims=True)


class Positions(NamedTuple):
    """Features of two stages at the same positions.

    Attributes:
      student, teacher: (batch, positions, channels), each with channels of its own.
      mask: (batch, positions), 0 at padding.
    """

    student: jax.Array
    teacher: jax.Array
    mask: jax.Array


def paired(student: Any, teacher: Any) -> Positions:
    """Two stages' outputs at the same positions.

    The larger of two feature maps is averaged to the height and width of the smaller
    one; beside one vector per example a map or a text is averaged over its positions.

    Args:
      student, teacher: (batch, …, channels) or Tokens.

    Raises:
      UserError: positions that do not correspond.
    """
    dimensions = [0 if isinstance(f, Tokens) else f.ndim for f in (student, teacher)]
    if 2 in dimensions:
        student, teacher = map(feature_maps.mean_over_positions, (student, teacher))
    elif dimensions == [4, 4]:
        height, width = map(min, zip(student.shape[1:3], teacher.shape[1:3]))
        student = adaptive_pool(as_float32(student), height, width)
        teacher = adaptive_pool(as_float32(teacher), height, width)
    first, mask = feature_maps.flatten_positions(student)
    second, _ = feature_maps.flatten_positions(teacher)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"the model's stage has {first.shape[1]} positions and the teacher's "
            f"{second.shape[1]}, and they are not both maps of pixels; take stages "
            "with one vector per example."
        )
    return Positions(first, second, mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePairTerm(TeacherTerm):
    """Base of terms that compare stages of the model with stages of its teacher.

    The value is the sum over pairs of stages.

    Attributes:
      teacher: trained weights of one teacher; its head is not read.
      stages: {stage of the model: stage of the teacher}; None pairs the last one before
        the head of each.
    """

    with_positions: ClassVar[bool] = False  # whether it compares positions
    least_batch: ClassVar[int] = 1

    stages: Mapping[str, str] | None = None

    def _is_read(self, feature: Any) -> bool:
        """Whether the stage with this output may be read by default."""
        return not self.with_positions or feature_maps.has_positions(feature)

    def teacher_stages(
        self, network: TrainedNetwork, features: Mapping[str, Any]
    ) -> tuple[str, ...]:
        if self.stages is not None:
            return tuple(dict.fromkeys(self.stages.values()))
        return (self._last(network.network.stages, features),)

    def _last(self, stages: tuple[str, ...], features: Mapping[str, Any]) -> str:
        """The last stage before the head that the term can read."""
        for stage in reversed(stages[:-1]):
            try:
                if self._is_read(features[stage]):
                    return stage
            except KeyError:
                continue
        return stages[-1]

    def pairs(self, context: View) -> Iterator[tuple[str, Any, Any]]:
        """Yields (stage of the model, its output, the output of the teacher's)."""
        features = context.forward(self.stream).features
        [outputs] = self.teacher_outputs(context)
        if self.stages is None:
            stage = self._last(context.program.network.stages, features)
            [of_teacher] = outputs.values()
            yield stage, features[stage], of_teacher
        else:
            for stage, name in self.stages.items():
                yield stage, features[stage], outputs[name]

    def pair_shapes(self, setup: Setup) -> dict[str, tuple[Any, Any]]:
        """Stage of the model -> shapes of its output and of the teacher's."""
        [network] = self.networks(setup)
        features = teachers.shapes(setup, network, self.stream).features
        if self.stages is None:
            stage = self._last(setup.program.network.stages, setup.features)
            [name] = self.teacher_stages(network, features)
            return {stage: (setup.features[stage], features[name])}
        return {s: (setup.features[s], features[t]) for s, t in self.stages.items()}

    def check(self, setup: Setup) -> None:
        if isinstance(self.teacher, list | tuple):
            raise UserError(
                f"{checks.where(setup, 'teacher')}: {type(self).__name__} compares "
                f"features with one teacher, got {len(self.teacher)}; take a term for "
                "each."
            )
        super().check(setup)
        if self.least_batch > 1:
            name = type(self).__name__
            checks.batch_of(setup, name, self.stream, self.least_batch)
        self._check_stages(setup)
        for stage, shapes in self.pair_shapes(setup).items():
            if self.with_positions and not all(map(feature_maps.has_positions, shapes)):
                raise UserError(
                    f"{checks.where(setup, 'stages')}: {type(self).__name__} compares "
                    f"the positions of an image or a text, and the stage {stage!r} or "
                    "the teacher's gives one vector per example; name others."
                )
            self.check_pair(setup, stage, *shapes)

    def check_pair(self, setup: Setup, stage: str, student: Any, teacher: Any) -> None:
        """Raises UserError for features that can't be compared."""
        del setup, stage, student, teacher

    def __call__(self, context: View) -> jax.Array:
        total = jnp.float32(0.0)
        for stage, student, teacher in self.pairs(context):
            total += self.pair_value(context, stage, student, teacher)
        return total

    def pair_value(
        self, context: View, stage: str, student: Any, teacher: Any
    ) -> jax.Array:
        """The value of one pair of stages, a scalar.

        Args:
          context: of the step.
          stage: of the model.
          student, teacher: outputs of the two stages, (batch, …, channels) or Tokens.
        """
        raise TypeError(f"{type(self).__name__} defines no pair_value(…)")

    def _check_stages(self, setup: Setup) -> None:
        field = checks.where(setup, "stages")
        if self.stages is None:
            return
        if not isinstance(self.stages, Mapping) or not self.stages:
            raise UserError(
                f"{field}={self.stages!r}: expected a mapping from stages of the model "
                "to stages of the teacher, such as {'stage2': 'stage2'}."
            )
        [network] = self.networks(setup)
        for stage, name in self.stages.items():
            checks.stage(setup, "stages", stage)
            teachers.check_stage(setup, network, "stages", name, self.stream)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionPairTerm(StagePairTerm):
    """Base of those that compare two stages position by position, as `paired`."""

    def check_pair(self, setup: Setup, stage: str, student: Any, teacher: Any) -> None:
        one, two = jax.tree.map(_one_example, (student, teacher))
        try:
            jax.eval_shape(paired, one, two)
        except UserError as error:
            name = f"{checks.where(setup, 'stages')}[{stage!r}]"
            raise UserError(f"{name}: {error}") from None

    def pair_value(
        self, context: View, stage: str, student: Any, teacher: Any
    ) -> jax.Array:
        return self.position_value(context, stage, paired(student, teacher))

    def position_value(self, context: View, stage: str, pair: Positions) -> jax.Array:
        """`pair_value` of features at the same positions."""
        raise TypeError(f"{type(self).__name__} defines no position_value(…)")


def _one_example(shape: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *shape.shape[1:]), shape.dtype)


def width(feature: Any) -> int:
    """Number of channels of a stage's output, or of its shape."""
    states = feature.states if isinstance(feature, Tokens) else feature
    return int(states.shape[-1])
