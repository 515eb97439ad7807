"""Averages of the weights, kept while training and evaluated in their place."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.models import merging


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averaging:
    """An average over steps of what is trained, and of BatchNorm statistics.

    Evaluations, the choice of the best checkpoint and what a run leaves behind are of
    the average; training goes on from the weights themselves.
    """

    def check(self) -> None:
        """Raises UserError for settings that make no average."""

    def update(
        self, average: PyTree, weights: PyTree, step: jax.Array, steps: jax.Array
    ) -> PyTree:
        """Computes the average after a step.

        Args:
          average: as it was before; equal to the weights before the first step.
          weights: those after the step, a tree of the same structure.
          step: the step just taken, from 0, traced.
          steps: of the run, traced.

        Returns:
          The new average, of the same structure, shapes and dtypes.
        """
        raise TypeError(f"{type(self).__name__} defines no update")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMA(Averaging):
    """`average ← d · average + (1 − d) · θ` with d = min(decay, (1 + t) / (10 + t)).

    The early steps' smaller d keeps the starting point from lingering (t counts steps
    from 0).

    References:
      Polyak & Juditsky, SIAM J. Control Optim. 30 (1992); Tarvainen & Valpola, Mean
      teachers, NeurIPS 2017 (the warm-up is TensorFlow's).
    """

    decay: float = traced(0.999)

    def check(self):
        if not 0 <= self.decay < 1:
            raise UserError(f"average.decay={self.decay!r}: expected 0 ≤ decay < 1.")

    def update(
        self, average: PyTree, weights: PyTree, step: jax.Array, steps: jax.Array
    ):
        decay = jnp.minimum(self.decay, (1.0 + step) / (10.0 + step))
        return merging.ema(average, weights, decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SWA(Averaging):
    """The plain mean of the weights after every step from `start` on.

    Before that it is the weights themselves. Statistics of BatchNorm are averaged like
    weights; `statistics.refresh_statistics` estimates them anew from data.

    Attributes:
      start: share of the run after which averaging begins.

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better
      Generalization, UAI 2018.
    """

    start: float = traced(0.75)

    def check(self):
        if not 0 <= self.start < 1:
            raise UserError(f"average.start={self.start!r}: expected 0 ≤ start < 1.")

    def update(
        self, average: PyTree, weights: PyTree, step: jax.Array, steps: jax.Array
    ):
        count = jnp.maximum(step - jnp.round(self.start * steps), 0.0)
        mean = merging.swa(average, weights, count)
        return jax.tree.map(lambda m, x: jnp.where(count > 0, m, x), mean, weights)
