"""Averages of weights: against numpy, in evaluations and checkpoints, over phases."""

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.optim.averaging import EMA, SWA
from jaxtl.training import setup


def _path(exp):
    """Returns (run, the head's bias after each step, in float64)."""
    run = tl.setup(exp)
    seen = [np.float64(run.params["head"]["dense"]["bias"])]
    for _ in run:
        seen.append(np.float64(run.params["head"]["dense"]["bias"]))
    return run, seen


def test_ema_is_the_recursion(digits):
    run, seen = _path(digits(steps=6, average=EMA(decay=0.3)))
    mean = seen[0]
    for t, theta in enumerate(seen[1:]):
        d = min(0.3, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * theta
    got = run.weights()[0]["head"]["dense"]["bias"]
    np.testing.assert_allclose(got, mean, atol=1e-6)


def test_swa_is_the_mean_of_the_last_steps(digits):
    run, seen = _path(digits(steps=8, average=SWA(start=0.5)))
    got = run.weights()[0]["head"]["dense"]["bias"]
    # After half the run: the weights after steps 5 (the first), 6, 7 and 8.
    np.testing.assert_allclose(got, np.mean(seen[5:], 0), atol=1e-6)


def test_training_itself_is_not_changed(digits):
    plain, averaged = (
        tl.setup(digits(steps=5)),
        tl.setup(digits(steps=5, average=EMA(decay=0.5))),
    )
    list(plain), list(averaged)
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(averaged.params)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_what_is_evaluated_chosen_and_left_behind_is_the_average(digits, tmp_path):
    exp = digits(steps=8, average=SWA(start=0.25))
    run = tl.setup(exp, tmp_path / "run")
    result = tl.train(run, progress=False)
    assert result["val"] == tl.evaluate(run, "val", which="best")
    again = setup.reopen(tmp_path / "run")
    kept, _ = run.weights("best")
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again.params)):
        np.testing.assert_array_equal(a, b)


def test_resumed_averages_end_bit_for_bit_the_same(digits, assert_resumes):
    exp = digits(steps=8, average=EMA(decay=0.9), phases=tl.optim.LPFT(), monitor=None)
    assert_resumes(exp, 5)


def test_batch_statistics_are_averaged_too(digits):
    model = tl.models.CNN(widths=(4,), units=8, norm=True, pool=1)
    run = tl.setup(digits(model=model, steps=3, average=EMA(decay=0.5)))
    list(run)
    now, mean = run.state.stats, run.weights()[1]
    flat = trees.flatten(mean)
    assert flat
    assert any(np.any(flat[p] != x) for p, x in trees.flatten(now).items())


@pytest.mark.parametrize("wrong", [EMA(decay=1.0), SWA(start=1.0), SWA(start=-0.1)])
def test_settings_that_average_nothing_are_told(digits, wrong):
    with pytest.raises(tl.UserError, match=r"average\."):
        tl.setup(digits(average=wrong))


def test_what_is_no_average_is_told(digits):
    with pytest.raises(tl.UserError, match=r"tl\.optim\.EMA"):
        digits(average=0.9)
