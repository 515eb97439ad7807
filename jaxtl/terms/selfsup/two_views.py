"""Two random views of each example, and the base class of the terms that read them."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data.augment import views as augment
from jaxtl.data.augment.image import Flip
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.domain.domain_pair import stage_vectors, vector_width
from jaxtl.terms.selfsup import projector
from jaxtl.terms.semi import augmented_views
from jaxtl.terms.semi.augmented_views import Operations

_BLURRED = 64  # pixels of a side from which the default views are blurred


def simclr_views(strength: float = 0.5, blur: bool = False) -> Operations:
    """SimCLR's operations: crop and resize, mirror, color, grayscale, blur.

    Args:
      strength: of the change of color; 0.5 for images of 32 pixels, 1 for ImageNet.
      blur: whether half of the images are blurred, as for ImageNet.

    Returns:
      A tuple of operations `(key, x) -> x` on images (batch, height, width, channels).

    References:
      Chen et al., ICML 2020, appendices A and B.9.
    """
    color = augment.ColorJitter(
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
    )
    operations = (augment.RandomResizedCrop(), Flip(), color, augment.RandomGrayscale())
    return (*operations, *[augment.GaussianBlur()] * blur)


def byol_views() -> tuple[Operations, Operations]:
    """BYOL's operations of the first view and of the second.

    References:
      Grill et al., NeurIPS 2020, table 6.
    """
    color = augment.ColorJitter(saturation=0.2)
    shared = (augment.RandomResizedCrop(), Flip(), color, augment.RandomGrayscale())
    first = (*shared, augment.GaussianBlur(probability=1.0))
    second = (*shared, augment.GaussianBlur(probability=0.1), augment.Solarize())
    return first, second


def default_views(x: Any) -> Operations:
    """`simclr_views` for images of this size, blurred from 64 pixels on."""
    is_large = min(x.shape[1:3]) >= _BLURRED
    return simclr_views(1.0 if is_large else 0.5, blur=is_large)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepresentationTerm(Term):
    """Base class of terms that read one stage's features of changed inputs.

    Attributes:
      stream: name of the stream; its labels are not used.
      stage: stage whose output is read, as one vector per example; None is the last
        one before the head.
    """

    trains_head: ClassVar[Any] = False

    stream: str = stream_field("unlabelled")
    stage: str | None = None

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        checks.stage(setup, "stage", self.stage_name(setup))

    def stage_name(self, program: Any) -> str:
        """Name of the stage that is read; of a `Setup` or of a context."""
        return feature_stage(program.program.network.stages, self.stage)

    def width(self, setup: Setup) -> int:
        """Width of the features."""
        return vector_width(setup, self.stage_name(setup))

    def check_batch(self, setup: Setup, least: int = 2) -> None:
        """Raises UserError where a pass has fewer examples than can be compared."""
        program = setup.program
        size = program.batch_sizes[self.stream] // program.accumulate
        if size < least:
            part = " in a micro-batch" if program.accumulate > 1 else ""
            raise UserError(
                f"terms.{setup.name}: {type(self).__name__} compares the examples of a "
                f"batch, and the stream {self.stream!r} gives {size} at a time{part}; "
                f"expected a batch of at least {least * program.accumulate}."
            )

    def features(self, context: View, x: PyTree, **settings: Any) -> jax.Array:
        """Features of a further pass, (batch, width).

        The student's pass, the one without `params`, updates BatchNorm's statistics.

        Args:
          context: of the step.
          x: inputs.
          **settings: of `Context.run`.
        """
        stage = self.stage_name(context)
        out = context.run(x, **settings)
        if "params" not in settings:
            context.keep_stats(out.stats, self.stream)
        return stage_vectors(context.program.network, stage, out.features[stage])


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoViewTerm(RepresentationTerm):
    """Base class of terms that compare two random views of each example.

    Each view is a pass of the network of its own, with batch statistics of its own.

    Attributes:
      stream, stage: as in `RepresentationTerm`.
      views: operations of a view, on stored values; None takes `simclr_views` for
        images. () leaves the inputs as they are, so that views differ by dropout alone
        (SimCSE; Gao et al., EMNLP 2021).
      second: operations of the second view; None takes those of the first.
    """

    views: tuple | None = None
    second: tuple | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        if self.compares:
            self.check_batch(setup)
        for field in ("views", "second"):
            augmented_views.check_operations(setup, field, getattr(self, field))
        x = augmented_views.first_inputs(setup, self.stream)
        kind = augmented_views.input_kind(x)
        if self.views is None and kind != "images":
            example = {
                "tokens": "views=(tl.data.WordDropout(),), or views=() for dropout "
                "alone",
                "vectors": "views=(tl.data.Noise(scale=0.1),)",
            }[kind]
            raise UserError(
                f"{checks.where(setup, 'views')}=None: there are no default views of "
                f"{'texts' if kind == 'tokens' else 'vectors'}; name operations that "
                f"change them, such as {example}."
            )

    def describe(self, setup: Setup) -> str:
        if self.views is not None:
            return ""
        x = augmented_views.first_inputs(setup, self.stream)
        names = [type(operation).__name__ for operation in default_views(x)]
        return f"its views are made by {', '.join(names)}"

    def view_inputs(self, context: View) -> tuple[PyTree, PyTree]:
        """The inputs of both views."""
        x = context.batches[self.stream]["x"]
        first = default_views(x) if self.views is None else self.views
        second = first if self.second is None else self.second
        keys = jax.random.split(context.key)
        return (
            context.view(self.stream, first, keys[0]),
            context.view(self.stream, second, keys[1]),
        )

    def view_features(self, context: View) -> tuple[jax.Array, jax.Array]:
        """The features of both views in training mode, (batch, width) each."""
        first, second = self.view_inputs(context)
        return self.features(context, first), self.features(context, second)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectedViews(TwoViewTerm):
    """Base class of terms that compare projections of two views.

    Attributes:
      stream, stage, views, second: as in `TwoViewTerm`.
      projector: widths of the layers of the perceptron between the features and the
        loss; () compares the features themselves.
      norm: whether its hidden layers are batch-normalized.
    """

    projector: tuple[int, ...] = (2048, 128)
    norm: bool = True

    def check(self, setup: Setup) -> None:
        super().check(setup)
        projector.check_widths(setup, "projector", self.projector)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        width, widths = self.width(setup), tuple(self.projector)
        layers = projector.projector_init(key, width, widths, self.norm)
        return {"projector": layers} if layers else {}

    def projections(self, context: View) -> tuple[jax.Array, jax.Array]:
        """Projections of both views, (batch, width) each."""
        params = context.term_params.get("projector", {})
        first, second = self.view_features(context)
        return projector.project(params, first), projector.project(params, second)

    def output_width(self, setup: Setup) -> int:
        """Width of the projections."""
        return self.projector[-1] if self.projector else self.width(setup)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictedViews(ProjectedViews):
    """Base class of terms whose predictor makes of one view's projection the other's.

    Attributes:
      stream, stage, views, second, projector: as in `ProjectedViews`.
      predictor: widths of the layers of the perceptron on top of the projections; the
        last one is the width of these.
      norm: whether hidden layers of both are batch-normalized.
    """

    predictor: tuple[int, ...] = (512, 128)

    @property
    def compares(self) -> str:  # type: ignore[override]
        return "BatchNorm of its own networks" if self.norm else ""

    def check(self, setup: Setup) -> None:
        super().check(setup)
        width = self.width(setup)
        projector.check_predictor(setup, self.projector, self.predictor, width)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        keys = jax.random.split(key)
        width, widths = self.output_width(setup), tuple(self.predictor)
        predictor = projector.projector_init(keys[1], width, widths, self.norm)
        return {**super().init(keys[0], setup), "predictor": predictor}
