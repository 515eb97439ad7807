"""Schedules against closed forms and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.optim import schedules
from jaxtl.optim.schedules import (
    Cosine,
    GaussianRamp,
    InverseDecay,
    Linear,
    LinearRamp,
    OneCycle,
    Ramp,
    SlantedTriangular,
    StepDecay,
)

STEPS = 40


def values(schedule, steps=STEPS, count=None):
    call = jax.jit(lambda t, n: schedules.value(schedule, t, n))
    return np.array([call(t, steps) for t in range(count or steps + 1)])


def test_cosine_without_warmup_is_optaxs():
    found = values(Cosine(peak=0.3, final=0.03))
    there = optax.schedules.cosine_decay_schedule(0.3, STEPS, alpha=0.1)
    np.testing.assert_allclose(found, [there(t) for t in range(STEPS + 1)], rtol=1e-5)


def test_cosine_with_warmup_is_the_closed_form():
    warmup, peak, final = 8, 0.3, 0.01
    found = values(Cosine(peak=peak, warmup=warmup, final=final))
    t = np.arange(STEPS + 1)
    half = 0.5 * (1 + np.cos(np.pi * (t - warmup) / (STEPS - warmup)))
    expected = np.where(
        t < warmup, peak * (t + 1) / warmup, final + (peak - final) * half
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[warmup - 1] == pytest.approx(peak)
    assert found[0] > 0, "the first step is not thrown away"


def test_cosine_decay_after_warmup_is_optaxs():
    found = values(Cosine(peak=0.3, warmup=8.0))
    there = optax.schedules.cosine_decay_schedule(0.3, STEPS - 8)
    np.testing.assert_allclose(
        found[8:], [there(t) for t in range(STEPS - 7)], rtol=1e-5, atol=1e-8
    )


def test_linear_is_optaxs():
    found = values(Linear(peak=0.3, warmup=8.0, final=0.1))
    up = optax.schedules.linear_schedule(0.3 / 8, 0.3, 7)
    down = optax.schedules.linear_schedule(0.3, 0.1, STEPS - 8)
    expected = [up(t) if t < 8 else down(t - 8) for t in range(STEPS + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_ramp_is_the_dann_papers():
    p = np.arange(STEPS + 1) / STEPS
    expected = 2 / (1 + np.exp(-10 * p)) - 1
    np.testing.assert_allclose(values(Ramp()), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        values(Ramp(final=0.3, gamma=2.0)),
        0.3 * (2 / (1 + np.exp(-2 * p)) - 1),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (600, 0.29131), (4000, 0.96403)]
)
def test_a_ramp_by_steps_is_that_of_the_authors_programs(step, expected):
    # calc_coeff(step) of CDAN's pytorch/network.py (thuml/CDAN, c904cd3), and tllib's
    # WarmStartGradientReverseLayer(alpha=1, max_iters=1000) after as many steps.
    schedule = Ramp(gamma=10.0, per_steps=10_000)
    slower = Ramp(gamma=1.0, per_steps=1000)
    for steps in (100, 100_000):
        for ramp in (schedule, slower):
            found = ramp.value(jnp.asarray(step), jnp.asarray(steps))
            np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("schedule", [Ramp, LinearRamp, GaussianRamp])
def test_by_steps_it_is_the_ramp_of_a_run_of_so_many(schedule):
    by_steps = schedule(per_steps=STEPS)
    for steps in (7, 1000):
        call = jax.jit(lambda t, n: by_steps.value(t, n))
        found = [call(t, steps) for t in range(STEPS)]
        np.testing.assert_allclose(found, values(schedule(), count=STEPS), rtol=1e-6)


def test_steps_beyond_the_end_keep_the_last_value():
    for schedule in (Cosine(peak=1.0, final=0.2), Linear(peak=1.0, final=0.2)):
        assert values(schedule, 5, 9)[5:] == pytest.approx([0.2] * 4)
    for schedule in (OneCycle(peak=1.0), SlantedTriangular(peak=1.0)):
        found = values(schedule, 10, 20)
        assert found[10:] == pytest.approx([found[10]] * 10)
        assert found[10] == pytest.approx(found[:10].min(), rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        ({}, {}),
        (
            {"rise": 0.25, "div": 10.0, "final_div": 50.0},
            {"pct_start": 0.25, "div_factor": 10.0, "final_div_factor": 50.0},
        ),
    ],
)
@pytest.mark.parametrize("steps", [10, STEPS, 101])
def test_one_cycle_is_torchs(fields, theirs, steps):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    there = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps, **theirs
    )
    expected = []
    for t in range(steps):
        expected.append(there.get_last_lr()[0])
        optimizer.step()
        if t < steps - 1:
            there.step()
    found = values(OneCycle(peak=0.3, **fields), steps, steps)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("rise", "ratio"), [(0.1, 32.0), (0.25, 8.0)])
def test_slanted_triangular_is_ulmfits_equation(rise, ratio):
    expected, cut = [], int(STEPS * rise)
    for t in range(STEPS):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / rise - 1))
        expected.append(0.3 * (1 + p * (ratio - 1)) / ratio)
    schedule = SlantedTriangular(peak=0.3, rise=rise, ratio=ratio)
    found = values(schedule, count=STEPS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.argmax() == cut
    assert found.max() == pytest.approx(0.3)
    # 15 · 0.1 is no whole number: the equation itself goes below 0 there.
    assert values(SlantedTriangular(peak=0.32), 15).min() == pytest.approx(0.01)


def test_linear_ramp_is_pseudo_labels_equation():
    expected = []
    for t in range(STEPS):
        p = t / STEPS
        expected.append(0 if p < 0.2 else 3 if p >= 0.6 else 3 * (p - 0.2) / 0.4)
    schedule = LinearRamp(final=3.0, start=0.2, end=0.6)
    np.testing.assert_allclose(values(schedule, count=STEPS), expected, atol=1e-5)
    assert values(LinearRamp(start=0.5, end=0.5), 10)[-1] == 1


def test_gaussian_ramp_is_temporal_ensemblings():
    expected = [
        7 * np.exp(-5 * (1 - min(t / STEPS / 0.25, 1)) ** 2) for t in range(STEPS)
    ]
    schedule = GaussianRamp(final=7.0, end=0.25)
    np.testing.assert_allclose(values(schedule, count=STEPS), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        GaussianRamp(),
        LinearRamp(),
        Cosine(peak=1.0),
        Linear(peak=1.0),
        Ramp(),
        OneCycle(peak=1.0),
        SlantedTriangular(peak=1.0),
    ],
)
def test_no_schedule_breaks_on_a_run_of_no_steps(schedule):
    assert np.isfinite(values(schedule, 0, 2)).all()


def test_numbers_are_their_own_schedule():
    assert float(schedules.value(0.25, 3, 10)) == 0.25


# `get_…_schedule_with_warmup(optimizer, 4, 10)` of transformers 5.24 at the peak 1.
_TRANSFORMERS = {
    Cosine: [0, 0.25, 0.5, 0.75, 1, 0.9330127018922194, 0.75, 0.5, 0.25],
    Linear: [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6],
}


@pytest.mark.parametrize("schedule", _TRANSFORMERS)
def test_a_warmup_from_zero_is_that_of_transformers(schedule):
    found = values(schedule(peak=1.0, warmup=4.0, from_zero=True), 10, 9)
    np.testing.assert_allclose(found, _TRANSFORMERS[schedule], atol=1e-6)


def test_step_decay_is_optaxs_at_the_shares_of_the_run():
    there = optax.schedules.piecewise_constant_schedule(0.3, {10: 0.5, 30: 0.5})
    actual = values(StepDecay(peak=0.3, factor=0.5, at=(0.25, 0.75)))
    np.testing.assert_allclose(actual, [there(t) for t in range(41)], rtol=1e-6)


def test_inverse_decay_is_the_closed_form_by_share_and_by_steps():
    t = np.arange(STEPS + 1)
    np.testing.assert_allclose(
        values(InverseDecay(peak=0.01)), 0.01 * (1 + 10 * t / STEPS) ** -0.75, rtol=1e-5
    )
    np.testing.assert_allclose(
        values(InverseDecay(peak=0.01, gamma=1.0, per_steps=1000.0)),
        0.01 * (1 + 0.001 * t) ** -0.75,
        rtol=1e-5,
    )
