"""The learning-rate finder: a short run whose learning rate grows until it diverges."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from jaxtl.core import config, progress
from jaxtl.core.errors import UserError
from jaxtl.training.experiment import Experiment
from jaxtl.training.run import Run

SMOOTHING = 0.9  # a larger decay shifts the curve by decades in a hundred steps
DIVERGENCE = 4.0  # ratio to the lowest smoothed loss


@dataclasses.dataclass(frozen=True, eq=False)
class LearningRateCurve:
    """The loss before each step of the finder, and the step's learning rate.

    Attributes:
      rates: (n,) learning rates, rising by a constant factor.
      losses: (n,) smoothed losses.
      raw: (n,) losses of the batches.
      diverged: whether the loss diverged, so that the curve ends before `high`.
    """

    rates: np.ndarray
    losses: np.ndarray
    raw: np.ndarray
    diverged: bool

    @property
    def suggestion(self) -> float | None:
        """The smaller of `steepest` and `tenth`; None where the loss never falls.

        The smoothed loss lags behind that of the batches, so in short searches its
        steepest fall may be at a rate that is too large for training.
        """
        return None if self.steepest is None else min(self.steepest, self.tenth)

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls steepest over log(rate).

        None where it never falls by more than the noise between batches. The search
        leaves out the first steps, whose averages are noisy, and ends at the lowest
        loss.
        """
        first, last = _warmup(len(self.rates)), int(np.argmin(self.losses))
        if last <= first:
            return None
        fall = np.max(self.losses[first:last]) - self.losses[last]
        if fall <= 2 * noise(self.raw[: last + 1]):
            return None
        slopes = np.gradient(self.losses, np.log(self.rates))[first:last]
        steepest = int(np.argmin(slopes))
        return float(self.rates[first + steepest]) if slopes[steepest] < 0 else None

    @property
    def tenth(self) -> float:
        """A tenth of the rate of the lowest smoothed loss."""
        return float(self.rates[int(np.argmin(self.losses))]) / 10

    def plot(self, path: str | pathlib.Path, *, title: str = "") -> None:
        """Draws the losses over the rates, and the suggestions, to a PNG."""
        from jaxtl.results.plots import analyses  # matplotlib imports slowly

        analyses.learning_rates(self, pathlib.Path(path), title=title)


def find_lr(
    run_or_exp: Run | Experiment,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> LearningRateCurve:
    """Trains with learning rates from low to high, one per step, and records the loss.

    The rate replaces the optimizer's rate or schedule; groups keep their factors. It
    stops early where the smoothed loss is above four times its lowest value, or not
    finite.

    Args:
      run_or_exp: an experiment, or a run, whose current state is copied.
      low, high: first and last rate.
      steps: number of rates.

    Returns:
      The losses by rate, with the rates that they suggest.

    Raises:
      UserError: invalid rates or steps, or a first loss that is not finite.

    References:
      Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017, section
      3.3 (the range test, with the rate growing exponentially).
    """
    rates = _rates(low, high, steps)
    run = Run(run_or_exp) if isinstance(run_or_exp, Experiment) else run_or_exp
    run = _trial(run)
    raw, losses = [], []
    for rate in progress.track(rates, "learning rates"):
        raw.append(_step(run, rate))
        losses.append(smoothed(raw, SMOOTHING))
        if has_diverged(losses):
            break
    finite = [x for x in losses if np.isfinite(x)]
    if not finite:
        raise UserError(
            f"the loss of the first step is {raw[0]}, so no rate can be found; are "
            "there values in the data, or weights, that are not finite?"
        )
    count = len(finite)
    return LearningRateCurve(
        rates=rates[:count],
        losses=np.array(finite),
        raw=np.array(raw[:count]),
        diverged=len(raw) < steps,
    )


def _rates(low: float, high: float, steps: int) -> np.ndarray:
    """Computes low · (high / low)^(i / (steps − 1)), (steps,) in float64."""
    if not 0 < low < high:
        raise UserError(
            f"low={low!r} and high={high!r}: expected rates 0 < low < high."
        )
    if not (isinstance(steps, int) and steps >= 2):
        raise UserError(f"steps={steps!r}: expected a whole number of at least 2.")
    return low * (high / low) ** (np.arange(steps) / (steps - 1))


def smoothed(values: Sequence[float], decay: float) -> float:
    """Computes Σ dⁿ⁻ⁱ vᵢ / Σ dⁿ⁻ⁱ, the last bias-corrected moving average."""
    weights = decay ** np.arange(len(values))[::-1]
    return float(np.dot(weights, values) / weights.sum())


def noise(values: np.ndarray) -> float:
    """Estimates the standard deviation of noise as 1.048 · median |vᵢ₊₁ − vᵢ|.

    1.048 = 1 / (0.6745 · √2) makes it unbiased for independent normal noise; a trend
    in the values hardly changes the median.
    """
    return 1.048 * float(np.median(np.abs(np.diff(values))))


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the last of the smoothed losses is far above their lowest."""
    last, lowest = losses[-1], min(losses)
    if not np.isfinite(last):
        return True
    # For a positive loss this is 4 · lowest; for a negative one it is above the lowest.
    bound = lowest + (DIVERGENCE - 1) * abs(lowest)
    return bool(last > bound)


def _warmup(count: int) -> int:
    """Number of first values that are left out: the time constant of the average."""
    return min(round(1 / (1 - SMOOTHING)), count // 4)


def _trial(run: Run) -> Run:
    """Copies a run, whose learning rate then is one traced number."""
    trial = run.in_memory()
    program = run.program
    if config.is_config(program.optimizer.lr):
        optimizer = dataclasses.replace(program.optimizer, lr=0.0)
        trial.program = dataclasses.replace(program, optimizer=optimizer)
        trial.compiled = None
    return trial


def _step(run: Run, rate: float) -> float:
    """Takes one step at a rate; returns the loss before it."""
    state = run.state
    rate = jax.device_put(np.float32(rate), state.step.sharding)
    hypers = {**state.hypers, "optim": {**state.hypers["optim"], "lr": rate}}
    run.state = dataclasses.replace(state, hypers=hypers)
    return run.advance(1)[0]["loss"]
