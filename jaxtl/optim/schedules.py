"""Schedules for learning rates and term weights: pure functions of (step, steps).

Their numbers are traced like every other number of an experiment, so two runs with
other peaks or warm-ups share one compiled program.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A number that changes over training."""

    def value(self, step: jax.Array, steps: jax.Array) -> jax.Array:
        """Computes the number at a step; a subclass defines it.

        Args:
          step: from 0, traced.
          steps: number of steps of the run, traced.

        Returns:
          A float32 scalar.
        """
        raise TypeError(f"{type(self).__name__} defines no value(step, steps)")


def value(number: Any, step: jax.Array, steps: jax.Array) -> jax.Array:
    """A schedule's value, or the number itself where it is none.

    Args:
      number: a `Schedule`, or a number.
      step: from 0, traced.
      steps: number of steps of the run, traced.

    Returns:
      A float32 scalar.
    """
    if isinstance(number, Schedule):
        return number.value(step, steps)
    return jnp.asarray(number, jnp.float32)


def progress(step: jax.Array, steps: jax.Array) -> jax.Array:
    """Computes step / steps in [0, 1]; 1 for a run of no steps.

    Args:
      step: from 0, traced.
      steps: number of steps of the run, traced.

    Returns:
      A float32 scalar.
    """
    return jnp.clip(step / jnp.maximum(steps, 1), 0.0, 1.0)


def _passed(step: Any, steps: Any, per_steps: float | None) -> jax.Array:
    """The share p: of the run in [0, 1], or of `per_steps` steps, which may pass 1."""
    return progress(step, steps) if per_steps is None else step / per_steps


def _warm(
    peak: Any, warmup: Any, from_zero: bool, step: jax.Array, steps: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(value while warming up, share of the remaining steps that passed)."""
    ramp = peak * (step if from_zero else step + 1) / jnp.maximum(warmup, 1.0)
    progress = jnp.clip((step - warmup) / jnp.maximum(steps - warmup, 1.0), 0.0, 1.0)
    return ramp, progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Linear warm-up to `peak`, then half a cosine down to `final`.

    Attributes:
      peak: highest value.
      warmup: steps of the linear rise (a count, not a share). The first step is at
        peak / warmup.
      from_zero: the first step is at 0, and the rise one step behind, as in the
        schedules of transformers.
      final: value that the last step comes near to, and that is kept after it.

    References:
      Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5 (without restarts).
    """

    peak: float = traced()
    warmup: float = traced(0.0)
    final: float = traced(0.0)
    from_zero: bool = False

    def value(self, step: jax.Array, steps: jax.Array):
        ramp, progress = _warm(self.peak, self.warmup, self.from_zero, step, steps)
        cosine = self.final + (self.peak - self.final) * 0.5 * (
            1 + jnp.cos(jnp.pi * progress)
        )
        return jnp.where(step < self.warmup, ramp, cosine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """Linear warm-up to `peak`, then a straight line to `final`.

    Attributes:
      peak, warmup, from_zero: as in `Cosine`.
      final: value that the last step comes near to, and that is kept after it.
    """

    peak: float = traced()
    warmup: float = traced(0.0)
    final: float = traced(0.0)
    from_zero: bool = False

    def value(self, step: jax.Array, steps: jax.Array):
        ramp, progress = _warm(self.peak, self.warmup, self.from_zero, step, steps)
        line = self.peak + (self.final - self.peak) * progress
        return jnp.where(step < self.warmup, ramp, line)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """`peak · factorᵏ`, k the number of the shares `at` of the run that have passed.

    Values are those of torch's MultiStepLR with the milestones round(at · steps).

    Attributes:
      peak: first value.
      factor: what each of them multiplies the value by.
      at: shares of the run in (0, 1), such as (0.5, 0.75).
    """

    peak: float = traced()
    factor: float = traced(0.1)
    at: tuple[float, ...] = (0.5, 0.75)

    def value(self, step: jax.Array, steps: jax.Array):
        milestones = jnp.round(jnp.asarray(self.at) * steps)
        passed = jnp.sum(step >= milestones)
        return self.peak * jnp.asarray(self.factor, jnp.float32) ** passed


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseDecay(Schedule):
    """`peak · (1 + gamma · p)^(−power)`, p the passed share of the run.

    Attributes:
      peak: first value.
      gamma, power: how fast it falls.
      per_steps: as in `Ramp`.

    References:
      Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
      section 5.2.2: 0.01, 10 and 0.75, as in the program of SHOT's authors. Those of
      CDAN, MDD and `tllib` have gamma = 1 with per_steps=1000.
    """

    peak: float = traced()
    gamma: float = traced(10.0)
    power: float = traced(0.75)
    per_steps: float | None = traced(None, low=1.0)

    def value(self, step: jax.Array, steps: jax.Array):
        p = _passed(step, steps, self.per_steps)
        return self.peak * (1.0 + self.gamma * p) ** -jnp.asarray(self.power)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp(Schedule):
    """`final · (2 / (1 + exp(−gamma · p)) − 1)`, p the passed share of the run.

    Attributes:
      final: value that the ramp comes near to.
      gamma: how fast it does.
      per_steps: p is step / per_steps, which may pass 1: the ramp is the same in short
        and in long runs. None for step / steps, so that every run ends near `final`.

    References:
      Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
      section 5.2: final = 1, gamma = 10, p the share of the run.
      Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018: in their
      program gamma = 10 and per_steps = 10,000.
    """

    final: float = traced(1.0)
    gamma: float = traced(10.0)
    per_steps: float | None = traced(None, low=1.0)

    def value(self, step: jax.Array, steps: jax.Array):
        p = _passed(step, steps, self.per_steps)
        return self.final * (2.0 / (1.0 + jnp.exp(-self.gamma * p)) - 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearRamp(Schedule):
    """0 until `start`, a straight rise to `final` at `end`, and `final` from there.

    Attributes:
      final: highest value.
      start, end: shares of the run, or of `per_steps` steps.
      per_steps: as in `Ramp`.

    References:
      Lee, Pseudo-Label, ICML 2013 workshops, eq. 16.
    """

    final: float = traced(1.0)
    start: float = traced(0.0)
    end: float = traced(1.0)
    per_steps: float | None = traced(None, low=1.0)

    def value(self, step: jax.Array, steps: jax.Array):
        span = jnp.maximum(jnp.subtract(self.end, self.start), 1e-6)
        share = (_passed(step, steps, self.per_steps) - self.start) / span
        return self.final * jnp.clip(share, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianRamp(Schedule):
    """`final · exp(−5 · (1 − p)²)`, p from 0 to 1 until `end`, and `final` from there.

    Attributes:
      final: highest value; the first is 0.0067 of it.
      end: share of the run, or of `per_steps` steps.
      per_steps: as in `Ramp`.

    References:
      Laine & Aila, Temporal Ensembling, ICLR 2017, section 3 (80 of 300 epochs).
    """

    final: float = traced(1.0)
    end: float = traced(0.25)
    per_steps: float | None = traced(None, low=1.0)

    def value(self, step: jax.Array, steps: jax.Array):
        p = _passed(step, steps, self.per_steps) / jnp.maximum(self.end, 1e-6)
        p = jnp.clip(p, 0.0, 1.0)
        return self.final * jnp.exp(-5.0 * jnp.square(1 - p))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaled(Schedule):
    """`factor` times another schedule.

    Attributes:
      of: the other one.
      factor: any number.
    """

    of: Schedule
    factor: float = traced(1.0)

    def value(self, step: jax.Array, steps: jax.Array):
        return self.factor * self.of.value(step, steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Half a cosine up from peak / div to `peak`, half a cosine down to nearly nothing.

    Values are those of torch's OneCycleLR with the same numbers; momentum stays as it
    is.

    Attributes:
      peak: highest value.
      rise: share of the steps that the rise takes.
      div: the first value is peak / div.
      final_div: the last value is peak / (div · final_div).

    References:
      Smith & Topin, Super-Convergence, 2018 (1cycle; there in straight lines).
    """

    peak: float = traced()
    rise: float = traced(0.3)
    div: float = traced(25.0)
    final_div: float = traced(1e4)

    def value(self, step: jax.Array, steps: jax.Array):
        top = jnp.maximum(self.rise * steps - 1, 1e-6)
        up = jnp.clip(step / top, 0.0, 1.0)
        down = jnp.clip((step - top) / jnp.maximum(steps - 1 - top, 1e-6), 0.0, 1.0)
        first = jnp.divide(self.peak, self.div)
        last = first / self.final_div
        rising, falling = _cosine(first, self.peak, up), _cosine(self.peak, last, down)
        return jnp.where(step <= top, rising, falling)


def _cosine(start: Any, end: Any, share: Any):
    """Half a cosine from start (share 0) to end (share 1)."""
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * share))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlantedTriangular(Schedule):
    """A short straight rise from peak / ratio to `peak`, and a long straight fall back.

    Attributes:
      peak: highest value.
      rise: share of the steps that the rise takes (cut_frac).
      ratio: how many times smaller the lowest value is than the peak.

    References:
      Howard & Ruder, ULMFiT, ACL 2018, eq. 3. Its last values fall below peak / ratio,
      and in short runs below 0, where rise · steps is no whole number; here they stop
      at peak / ratio.
    """

    peak: float = traced()
    rise: float = traced(0.1)
    ratio: float = traced(32.0)

    def value(self, step: jax.Array, steps: jax.Array):
        cut = jnp.maximum(jnp.floor(steps * self.rise), 1.0)
        fall = jnp.maximum(cut * (jnp.divide(1, self.rise) - 1), 1e-6)
        share = jnp.where(step < cut, step / cut, 1 - (step - cut) / fall)
        share = jnp.clip(share, 0.0, 1.0)
        return jnp.divide(self.peak * (1 + share * (self.ratio - 1)), self.ratio)
