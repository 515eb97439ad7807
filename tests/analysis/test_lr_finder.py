"""The learning-rate finder against runs whose schedule has the same rates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from jaxtl.analysis import lr_finder
from jaxtl.cli import main
from jaxtl.core import compilation
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.optim.schedules import Schedule
from jaxtl.training import compiled_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExponentialGrowth(Schedule):
    """Schedule of the rates that the finder tries."""

    low: float = traced()
    high: float = traced()

    def value(self, step, steps):
        # jnp.divide, because programs are compiled with zeros.
        return self.low * jnp.divide(self.high, self.low) ** (step / (steps - 1))


@pytest.fixture(scope="module")
def exp(digits):
    return digits(optim=tl.optim.SGD(lr=0.05), steps=12)


def test_the_losses_agree_with_a_run_of_the_same_rates(exp):
    curve = tl.find_lr(exp, low=1e-4, high=1.0, steps=12)
    rates = [1e-4 * 1e4 ** (i / 11) for i in range(12)]
    np.testing.assert_allclose(curve.rates, rates, rtol=1e-12)
    optimizer = tl.optim.SGD(lr=ExponentialGrowth(low=1e-4, high=1.0))
    run = tl.setup(dataclasses.replace(exp, optim=optimizer))
    expected = [row["loss"] for row in run.advance(12)]
    np.testing.assert_allclose(curve.raw, expected, rtol=2e-5)
    # The bias-corrected moving average, as a recursion.
    average = 0.0
    for i, loss in enumerate(expected):
        average = 0.9 * average + 0.1 * loss
        assert curve.losses[i] == pytest.approx(
            average / (1 - 0.9 ** (i + 1)), rel=1e-4
        )


def test_the_run_does_not_change_and_nothing_is_compiled_again(exp):
    run, uninterrupted = tl.setup(exp), tl.setup(exp)
    run.advance(3)
    programs, before = (
        len(compilation.stored(compiled_step.compiled)),
        jax.tree.map(np.asarray, run.state),
    )
    curve = tl.find_lr(run, steps=20)
    assert len(compilation.stored(compiled_step.compiled)) == programs
    jax.tree.map(np.testing.assert_array_equal, run.state, before)
    assert (run.steps_done, run.exp) == (3, exp)
    run.advance(9)
    uninterrupted.advance(12)
    jax.tree.map(np.testing.assert_array_equal, run.params, uninterrupted.params)
    assert len(curve.rates) == len(curve.losses) == len(curve.raw)


def test_one_program_replaces_a_schedule_for_all_rates(exp):
    peak = tl.optim.SGD(lr=tl.optim.Cosine(peak=0.1, warmup=3.0))
    run = tl.setup(dataclasses.replace(exp, optim=peak))
    run.compile()
    constant = tl.find_lr(exp, low=1e-3, high=0.1, steps=8)
    programs = len(compilation.stored(compiled_step.compiled))
    curve = tl.find_lr(run, low=1e-3, high=0.1, steps=8)
    assert len(compilation.stored(compiled_step.compiled)) == programs, (
        "one program serves both"
    )
    np.testing.assert_array_equal(curve.raw, constant.raw)
    run.advance(2)  # the run still has its program and schedule
    assert set(run.state.hypers["optim"]["lr"]) == {"peak", "warmup", "final"}


def test_host_batches_of_the_run_are_not_consumed(exp):
    host = tl.setup(dataclasses.replace(exp, device_bytes=0))
    host.advance(1)
    curve = tl.find_lr(host, low=1e-3, high=0.1, steps=5)
    device = tl.setup(exp)
    device.advance(1)
    expected = tl.find_lr(device, low=1e-3, high=0.1, steps=5)
    np.testing.assert_allclose(curve.raw, expected.raw, rtol=1e-6)
    host.advance(2)
    device.advance(2)
    for a, b in zip(jax.tree.leaves(host.params), jax.tree.leaves(device.params)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_suggested_rate_trains(exp):
    curve = tl.find_lr(exp)
    assert curve.diverged
    assert len(curve.rates) < 100
    # Runs of 300 steps end lowest between 0.05 and 0.3.
    assert 0.01 < curve.suggestion < 0.3
    assert curve.suggestion == min(curve.steepest, curve.tenth)
    lowest = int(np.argmin(curve.losses))
    assert curve.tenth == pytest.approx(curve.rates[lowest] / 10)
    assert curve.rates[0] < curve.steepest < curve.rates[lowest]
    low, high = (
        tl.setup(dataclasses.replace(exp, optim=tl.optim.SGD(lr=lr), steps=100))
        for lr in (curve.suggestion, curve.rates[-1])
    )
    losses = [np.mean([r["loss"] for r in x.advance(100)[-10:]]) for x in (low, high)]
    assert losses[0] < 0.5 < 1.5 < losses[1]


def curve_of(losses):
    rates = 10.0 ** np.linspace(-5, 0, len(losses))
    return lr_finder.LearningRateCurve(rates, np.array(losses), np.array(losses), False)


def test_the_steepest_fall_is_found_on_curves_with_a_formula():
    x = np.linspace(-5, 0, 101)
    curve = curve_of(2.0 - np.tanh(2 * (x + 2)))  # falls everywhere, most at 1e-2
    assert curve.steepest == pytest.approx(1e-2, rel=1e-6)
    assert curve.suggestion == pytest.approx(1e-2, rel=1e-6)
    bowl = curve_of((x + 1) ** 2)  # steepest at its start, lowest at 0.1
    assert bowl.tenth == pytest.approx(1e-2, rel=1e-6)
    assert bowl.steepest == pytest.approx(bowl.rates[10])
    assert curve_of(np.exp(x)).suggestion is None, "it only rises"
    assert curve_of([1.0, 1.0]).suggestion is None


@pytest.mark.parametrize("seed", range(5))
def test_noise_between_batches_is_no_fall(seed):
    rng = np.random.default_rng(seed)
    raw = 2 + 0.1 * rng.normal(size=2000)
    assert lr_finder.noise(raw) == pytest.approx(0.1, rel=0.08)
    smooth = np.array([lr_finder.smoothed(raw[: i + 1], 0.9) for i in range(100)])
    curve = dataclasses.replace(curve_of(smooth), raw=raw[:100])
    assert curve.suggestion is None


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0, 1.0, 3.9], False),
        ([2.0, 1.0, 4.1], True),
        ([2.0, 1.0, float("nan")], True),
        ([float("inf")], True),
        ([-1.0, -2.0, -1.0], False),  # four times a negative loss would be below it
        ([-1.0, -2.0, 4.5], True),
        ([5.0], False),
    ],
)
def test_divergence_is_four_times_the_lowest_loss(losses, expected):
    assert lr_finder.has_diverged(losses) == expected


def test_invalid_rates_and_steps_raise(exp):
    for fields, message in (
        ({"low": 1.0, "high": 0.1}, r"low=1.0 and high=0.1: expected rates 0 < low"),
        ({"low": 0.0}, r"low=0.0"),
        ({"steps": 1}, r"steps=1: expected a whole number of at least 2"),
    ):
        with pytest.raises(UserError, match=message):
            tl.find_lr(exp, **fields)


def test_a_first_loss_that_is_not_finite_raises(exp):
    run = tl.setup(exp)
    bad = jax.tree.map(lambda x: x * np.nan, run.state.trainable)
    run.state = dataclasses.replace(run.state, trainable=bad)
    with pytest.raises(UserError, match=r"loss of the first step is nan"):
        tl.find_lr(run, steps=3)


FILE = """
import jaxtl as tl

def experiment():
    fields = dict(model=tl.models.MLP(widths=(16,)), data=tl.data.Digits(), batch=32)
    exp = tl.Experiment(**fields, optim=tl.optim.SGD())
    return {"one": exp, "two": exp} if SEVERAL else exp
"""


def text(capsys, *arguments, code=0):
    assert main.main([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_the_command_prints_and_plots(tmp_path, capsys):
    single, several = tmp_path / "single.py", tmp_path / "several.py"
    single.write_text(FILE.replace("SEVERAL", "False"))
    several.write_text(FILE.replace("SEVERAL", "True"))
    plot = tmp_path / "plots" / "lr.png"
    out = text(capsys, "lr", single, "optim.momentum=0.5", "--steps", 60, "--out", plot)
    assert "to begin with: optim.lr=" in out
    assert str(plot) in out
    assert Image.open(plot).size[0] > 600
    out = text(capsys, "lr", several, "--variant", "two", "--steps", 60, "--out", plot)
    assert "learning rates of several two" in out
    message = text(capsys, "lr", several, code=1)
    assert "choose one with --variant (known: one, two)" in message
    message = text(capsys, "lr", several, "--variant", "tow", code=1)
    assert "did you mean 'two'" in message
    nothing = ("--low", 1e-12, "--high", 2e-12, "--steps", 5, "--out", plot)
    message = text(capsys, "lr", single, "SEEDS=0", *nothing, code=1)
    assert "the loss never fell" in message
