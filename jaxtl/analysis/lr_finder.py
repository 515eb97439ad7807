"""The learning-rate finder: one short run whose rate grows until the loss explodes."""

import dataclasses
import pathlib

import jax
import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.training.experiment import Experiment
from jaxtl.training.run import Run

SMOOTHING = 0.9  # a longer memory shifts the curve by decades in a hundred steps
DIVERGED = 4.0  # times the lowest smoothed loss


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """What the finder saw: the loss before each step, and the step's rate.

    Attributes:
      rates: (n,) learning rates, rising by a constant factor.
      losses: (n,) smoothed losses.
      raw: (n,) losses of the batches.
      diverged: whether the loss exploded, so that the curve ends before `high`.
    """

    rates: np.ndarray
    losses: np.ndarray
    raw: np.ndarray
    diverged: bool

    @property
    def suggestion(self) -> float | None:
        """The smaller of `steepest` and `tenth`; None where the loss never falls.

        The smoothed loss lags behind, so in short searches its steepest fall may lie
        where training no longer works.
        """
        return None if self.steepest is None else min(self.steepest, self.tenth)

    @property
    def steepest(self) -> float | None:
        """The rate where the smoothed loss falls steepest over log(rate).

        None where it never falls by more than batches differ. Looked for between the
        first steps, of which an average means little yet, and the lowest loss.
        """
        first, last = _settled(len(self.rates)), int(np.argmin(self.losses))
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
        """Draws the losses over the rates, the suggestions marked, to a PNG."""
        from jaxtl.results.plots import base  # matplotlib takes a second to import

        base.learning_rates(self, pathlib.Path(path), title=title)


def find_lr(
    run_or_exp: Run | Experiment,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> Curve:
    """Tries learning rates from low to high, one per step, and returns the losses.

    The rate is that of the optimizer (a schedule is put aside); groups keep their
    factors. It stops early when the smoothed loss is above four times its lowest value,
    or no longer finite.

    Args:
      run_or_exp: an experiment, or a run, which is tried from where it stands and is
        left as it is.
      low, high: first and last rate.
      steps: number of rates.

    References:
      Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017, section
      3.3 (the range test, with the rate growing exponentially).
    """
    rates = growing(low, high, steps)
    run = Run(run_or_exp) if isinstance(run_or_exp, Experiment) else run_or_exp
    run = _trial(run)
    raw, losses = [], []
    for rate in rates:
        raw.append(_step(run, rate))
        losses.append(smoothed(raw, SMOOTHING))
        if has_diverged(losses):
            break
    seen = len(raw)
    kept = [x for x in losses if np.isfinite(x)]
    if not kept:
        raise UserError(
            f"the loss of the first step is {raw[0]}, so no rate can be found; are "
            "there values in the data, or weights, that are not finite?"
        )
    return Curve(
        rates[: len(kept)], np.array(kept), np.array(raw[: len(kept)]), seen < steps
    )


def growing(low: float, high: float, steps: int) -> np.ndarray:
    """Returns low · (high / low)^(i / (steps − 1)), (steps,) in float64."""
    if not 0 < low < high:
        raise UserError(
            f"low={low!r} and high={high!r}: expected rates 0 < low < high."
        )
    if not (isinstance(steps, int) and steps >= 2):
        raise UserError(f"steps={steps!r}: expected a whole number of at least 2.")
    return low * (high / low) ** (np.arange(steps) / (steps - 1))


def smoothed(values: list[float], memory: float) -> float:
    """Returns Σ mⁿ⁻ⁱ vᵢ / Σ mⁿ⁻ⁱ: the bias-corrected moving average's last value."""
    weights = memory ** np.arange(len(values))[::-1]
    return float(np.dot(weights, values) / weights.sum())


def noise(values: np.ndarray) -> float:
    """Returns the standard deviation between neighbours: 1.048 · median |vᵢ₊₁ − vᵢ|.

    1.048 = 1 / (0.6745 · √2) makes it that of normal values; a median does not mind
    that the values fall as a whole.
    """
    return 1.048 * float(np.median(np.abs(np.diff(values))))


def has_diverged(losses: list[float]) -> bool:
    """Returns whether the last of the smoothed losses is far above their lowest."""
    last, lowest = losses[-1], min(losses)
    if not np.isfinite(last):
        return True
    # As 4 · lowest where that is positive; a negative loss needs a bound above it.
    bound = lowest + (DIVERGED - 1) * abs(lowest)
    return bool(last > bound)


def _settled(count: int) -> int:
    """Returns how many first values to pass over: the average's memory."""
    return min(round(1 / (1 - SMOOTHING)), count // 4)


def _trial(run: Run) -> Run:
    """Returns a run of its own state, whose learning rate is one traced number."""
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
