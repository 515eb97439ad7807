"""DINO: self-distillation without labels, from a centered and sharpened teacher."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import serialization
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import PyTree
from jaxtl.data.augment.views import RandomResizedCrop
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.selfsup.momentum import MomentumTerm
from jaxtl.terms.selfsup.projector import check_widths, unit
from jaxtl.terms.selfsup.two_views import default_views
from jaxtl.terms.semi import augmented_views

_LOCAL_SCALE = (0.05, 0.4)  # of a small crop's area, of the image's


def self_distillation(
    students: Sequence[jax.Array],
    teachers: Sequence[jax.Array],
    center: jax.Array,
    temperatures: tuple[Any, Any],
) -> jax.Array:
    """Mean of H(t_i, s_j) over both teacher's views i and all student's views j ≠ i.

    H is the cross-entropy −Σ t log s, mean over examples, in nats, with
    t = softmax((z − c) / τ_t) and s = softmax(z / τ_s). Of two views the loss is
    ½ H(t₁, s₂) + ½ H(t₂, s₁).

    Args:
      students: outputs z of the student, (n, K) each: those of the views that the
        teacher sees, in its order, and of any further ones.
      teachers: outputs z of the teacher, (n, K) each; no gradient flows through them.
      center: c, (K,).
      temperatures: τ_s and τ_t.

    Returns:
      A scalar in nats.

    References:
      Caron et al., ICCV 2021, eq. 1 to 4 and algorithm 1; further views as in the
      authors' program.
    """
    log_s = [jax.nn.log_softmax(as_float32(z) / temperatures[0]) for z in students]
    t = [jax.nn.softmax((as_float32(z) - center) / temperatures[1]) for z in teachers]
    t = list(map(jax.lax.stop_gradient, t))
    pairs = [(i, j) for i in range(len(t)) for j in range(len(log_s)) if i != j]
    products = jnp.stack([jnp.mean(jnp.sum(t[i] * log_s[j], -1)) for i, j in pairs])
    return -products.mean()


def moved_center(
    center: jax.Array, teachers: Sequence[jax.Array], momentum: Any
) -> jax.Array:
    """m·center + (1 − m)·mean of the teacher's outputs over views and examples, (K,).

    Args:
      center: c before the step, (K,).
      teachers: the teacher's outputs of each view, (n, K) each, before the softmax.
      momentum: m in [0, 1].

    Returns:
      c after the step, float32 or wider.

    References:
      Caron et al., ICCV 2021, eq. 4.
    """
    mean = jnp.mean(as_float32(jnp.concatenate(list(teachers))), 0)
    return momentum * center + (1 - momentum) * mean


def head_init(
    key: jax.Array, widths: tuple[int, ...], prototypes: int
) -> dict[str, PyTree]:
    """Initializes DINO's head: normal kernels of deviation 0.02, biases 0.

    Args:
      key: PRNG key.
      widths: of the input, the hidden layers and the bottleneck.
      prototypes: number of outputs, K.

    Returns:
      {"layer0": {"kernel", "bias"}, …, "prototypes": (bottleneck, K)}.
    """
    keys = jax.random.split(key, len(widths))
    layers = {
        f"layer{i}": {
            "kernel": 0.02 * jax.random.truncated_normal(k, -2, 2, (rows, columns)),
            "bias": jnp.zeros(columns),
        }
        for i, (k, rows, columns) in enumerate(zip(keys, widths, widths[1:]))
    }
    last = jax.random.normal(keys[-1], (widths[-1], prototypes))
    return {**layers, "prototypes": last}


def head(params: PyTree, x: jax.Array) -> jax.Array:
    """Outputs of DINO's head, (batch, K).

    Affine maps with GELU between them, the result scaled to length 1, then its cosines
    with prototypes (a weight-normalized map whose norms stay at 1).

    Args:
      params: {"layer0", …, "prototypes"} of kernels and biases; prototypes are (width,
        K).
      x: features, (batch, width of the stage).

    Returns:
      Cosines in [−1, 1], float32 or wider, before the division by a temperature.
    """
    layers = len(params) - 1
    for i in range(layers):
        layer = params[f"layer{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.gelu(x, approximate=False) if i < layers - 1 else x
    return unit(as_float32(x)) @ unit(params["prototypes"].T).T


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINO(MomentumTerm):
    """Cross-entropy of a view's prototypes with those of a teacher's other view.

    The teacher is a momentum encoder; its center keeps one prototype from winning, its
    low temperature all from being equal. Reports "entropy" of the teacher in nats: 0
    and log K are the two ways to collapse.

    With `local_views` the student also sees that many small crops, which predict the
    teacher's two large ones ("multi-crop"). They are enlarged to the images' size; the
    authors', of 96 pixels beside 224, are cheaper. The large ones are crops of at least
    0.4 of the image there, `views=` here.

    Attributes:
      layers: widths of the head's hidden layers and of its bottleneck.
      prototypes: K, 65,536 in the paper.
      student_temperature: τ_s.
      teacher_temperature: τ_t after a warm-up.
      warmup_temperature: τ_t at first, from which it rises linearly.
      warmup: share of the run until then, 30 of 100 epochs in the paper.
      center_momentum: of the center.
      momentum, rises: of the teacher, 0.996 rising to 1.
      local_views: number of small crops, 8 or 10 in the paper.
      local: operations of a small crop; None takes the default views' with crops of
        0.05 to 0.4 of the image, the paper's.
      stream, stage, views, second: as in `TwoViewTerm`.

    References:
      Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV
      2021.
    """

    averaged: ClassVar[tuple[str, ...]] = ("head",)

    layers: tuple[int, ...] = (2048, 2048, 256)
    prototypes: int = 4096
    student_temperature: float = traced(0.1)
    teacher_temperature: float = traced(0.07)
    warmup_temperature: float = traced(0.04)
    warmup: float = traced(0.3)
    center_momentum: float = traced(0.9)
    local_views: int = serialization.later_field(0)
    local: tuple | None = serialization.later_field(None)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        check_widths(setup, "layers", self.layers)
        checks.count(setup, "prototypes", self.prototypes)
        for field in ("student", "teacher", "warmup"):
            name = f"{field}_temperature"
            checks.positive(setup, name, getattr(self, name))
        checks.number(setup, "warmup", self.warmup, 0.0, 1.0)
        checks.number(setup, "center_momentum", self.center_momentum, 0.0, 1.0)
        self._check_local_views(setup)

    def _check_local_views(self, setup: Setup) -> None:
        checks.count(setup, "local_views", self.local_views, 0)
        augmented_views.check_operations(setup, "local", self.local)
        if self.local is not None and not self.local_views:
            raise UserError(
                f"{checks.where(setup, 'local')}={self.local!r} makes small crops, and "
                "local_views=0 asks for none; give their number, such as local_views=8."
            )
        x = augmented_views.first_inputs(setup, self.stream)
        is_image = augmented_views.input_kind(x) == "images"
        if self.local_views and self.local is None and not is_image:
            raise UserError(
                f"{checks.where(setup, 'local_views')}={self.local_views}: only images "
                "have small crops; name operations that change these inputs by local=."
            )

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        widths = (self.width(setup), *self.layers)
        return {"head": head_init(key, widths, self.prototypes)}

    def init_state(self, setup: Setup) -> PyTree:
        return {**super().init_state(setup), "center": jnp.zeros(self.prototypes)}

    def _teacher_temperature(self, context: View) -> jax.Array:
        steps = jnp.maximum(self.warmup * context.steps, 1e-6)
        share = jnp.minimum(context.step / steps, 1.0)
        rise = self.teacher_temperature - self.warmup_temperature
        return self.warmup_temperature + share * rise

    def _local_inputs(self, context: View) -> list[PyTree]:
        """The inputs of the small crops."""
        operations = self.local
        if operations is None:
            _, *others = default_views(context.batches[self.stream]["x"])
            operations = (RandomResizedCrop(scale=_LOCAL_SCALE), *others)
        # `view_inputs` has the keys 0 and 1.
        return [
            context.view(
                self.stream, operations, jax.random.fold_in(context.key, 2 + i)
            )
            for i in range(self.local_views)
        ]

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        encoder, views = self.encoder(context), self.view_inputs(context)
        own, center = context.term_params["head"], context.state["center"]
        seen = (*views, *self._local_inputs(context))
        students = [head(own, self.features(context, x)) for x in seen]
        teachers = [
            head(encoder["heads"]["head"], self.encoded(context, encoder, x))
            for x in views
        ]
        temperature = self._teacher_temperature(context)
        moved = moved_center(center, teachers, self.center_momentum)
        context.set_state({**encoder, "center": moved})
        temperatures = (self.student_temperature, temperature)
        value = self_distillation(students, teachers, center, temperatures)
        log_t = jax.nn.log_softmax((teachers[0] - center) / temperature)
        entropy = -jnp.mean(jnp.sum(jnp.exp(log_t) * log_t, -1))
        return value, {"entropy": entropy}
