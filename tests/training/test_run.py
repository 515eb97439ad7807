"""Runs in memory and on disk: what is logged, chosen, saved, and how they stop."""

import contextlib
import dataclasses
import errno
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import checkpoint, orbax_module
from jaxtl.core.config import traced
from jaxtl.core.errors import Stopped
from jaxtl.terms.base import Term
from jaxtl.training import loop, metrics_log


def lines(directory, kind=None):
    rows = [
        json.loads(x)
        for x in (directory / "metrics.jsonl").read_text().split("\n")
        if x
    ]
    return [r for r in rows if kind in (None, r["kind"])]


def test_stepping_by_hand_is_training(digits):
    by_hand, trained = tl.setup(digits()), tl.setup(digits())
    losses = [found["loss"] for _, found in by_hand]
    assert len(losses) == 6
    assert all(isinstance(x, float) for x in losses)
    tl.train(trained)
    jax.tree.map(np.testing.assert_array_equal, by_hand.params, trained.params)
    assert list(by_hand) == [], "nothing remains"


def test_training_learns_and_tells_what_it_cost(digits, tmp_path):
    run = tl.setup(digits(steps=120, evaluate_every=40), tmp_path / "run")
    result = tl.train(run)
    assert result["test"]["accuracy"] > 0.85
    assert result["steps"] == 120
    assert result["chosen"] in (40, 80, 120)
    assert result["monitor"] == "accuracy"
    best = max(r["accuracy"] for r in lines(tmp_path / "run", "val"))
    assert result["val"]["accuracy"] == best
    assert result["parameters"] == 64 * 16 + 16 + 170 == result["trainable_parameters"]
    assert result["parameter_bytes"] == 4 * result["parameters"]
    assert result["flops_per_step"] > 2 * 3 * 32 * (16 * 10)
    assert sum(result["examples"].values()) == 1797
    assert result["versions"]["jax"] == jax.__version__
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert tl.train(tl.resume(tmp_path / "run")) == stored, "finished stays finished"


def test_the_log_has_a_line_for_each_hundredth_and_evaluation(digits, tmp_path):
    exp = digits(steps=20, log_every=4, evaluate_every=10)
    tl.train(tl.setup(exp, tmp_path / "run"))
    assert [r["step"] for r in lines(tmp_path / "run", "train")] == [
        4,
        8,
        10,
        12,
        16,
        20,
    ]
    val = lines(tmp_path / "run", "val")
    assert [r["step"] for r in val] == [10, 20]
    assert val[0]["best"] is True
    each = [found["loss"] for _, found in tl.setup(exp)]
    first = lines(tmp_path / "run", "train")[0]
    assert first["loss"] == pytest.approx(np.mean(each[:4]), rel=1e-6)


def test_without_a_monitor_the_last_is_kept(digits, tmp_path):
    exp = digits(monitor=None, evaluate_every=2)
    run = tl.setup(exp, tmp_path / "run")
    result = tl.train(run)
    assert run.best is None
    assert result["chosen"] == 6
    assert result["val"] == tl.evaluate(run, "val")


def test_no_steps_evaluate_the_initial_model(digits):
    run = tl.setup(digits(steps=0))
    result = tl.train(run)
    assert run.compiled is None
    assert (result["steps"], result["chosen"]) == (0, 0)
    assert result["test"] == tl.evaluate(run, "test")


def test_a_run_is_chosen_by_the_metric_that_is_asked_for(digits):
    run = tl.setup(digits(monitor="nll", steps=30, evaluate_every=3))
    found = []
    keep = run.update_best

    def noted(values):
        found.append(values["nll"])
        return keep(values)

    run.update_best = noted
    result = tl.train(run)
    assert result["val"]["nll"] == min(found)


def test_the_progress_line_shows_loss_and_metric(digits, capsys):
    tl.train(tl.setup(digits()), progress=True)
    shown = capsys.readouterr().err
    assert "val accuracy" in shown
    assert "examples/s" in shown


# --- stopping -----------------------------------------------------------------------


def interrupted_at(run, step, number=signal.SIGINT):
    """Makes a run send itself a signal once it has taken so many steps."""
    advance = run.advance

    def stopping(count):
        rows = advance(count)
        if run.steps_done >= step:
            os.kill(os.getpid(), number)
        return rows

    run.advance = stopping


@pytest.mark.usefixtures("default_hangup")
@pytest.mark.parametrize(
    ("number", "pause", "stops_at_once"),
    [
        (signal.SIGTERM, 0.0, False),
        (signal.SIGTERM, 3.0, True),
        (signal.SIGINT, 0.0, True),
    ],
)
def test_a_second_signal(monkeypatch, number, pause, stops_at_once):
    """One request may come twice: from the cluster, and passed on by `jaxtl launch`."""
    clock = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    at_once = pytest.raises(Stopped, match="at once, by a second signal")
    with loop.Interrupt() as interrupt:
        signal.raise_signal(number)
        clock[0] += pause
        with at_once if stops_at_once else contextlib.nullcontext():
            signal.raise_signal(number)
        requested, interrupt.requested = interrupt.requested, False  # acted on
    assert requested


@pytest.fixture
def without_nohup():
    """Lets SIGHUP through in tests that run under nohup, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_writes_a_last_checkpoint_and_says_how_to_go_on(
    digits, tmp_path, number, without_nohup
):
    exp = digits(steps=20, log_every=4)
    run = tl.setup(exp, tmp_path / "run")
    interrupted_at(run, 7, number)
    old = [signal.getsignal(n) for n in loop.STOP_SIGNALS]
    with pytest.raises(Stopped) as caught:
        tl.train(run)
    assert caught.value.signal_number == number
    assert [signal.getsignal(n) for n in loop.STOP_SIGNALS] == old
    text = str(caught.value)
    assert f"stopped after step {run.steps_done} of 20" in text
    assert f"jaxtl resume {tmp_path / 'run'}" in text
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") == run.steps_done < 20
    again = tl.resume(tmp_path / "run")
    assert again.steps_done == run.steps_done
    assert again.seconds == pytest.approx(run.seconds)
    result, whole = tl.train(again), tl.setup(exp)
    assert result["test"] == tl.train(whole)["test"]
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_ctrl_c_in_memory_stores_nothing_and_says_so(digits):
    run = tl.setup(digits(steps=20))
    interrupted_at(run, 3)
    with pytest.raises(KeyboardInterrupt, match="nothing is stored"):
        tl.train(run)


def test_ctrl_c_does_not_wait_for_the_log(digits, tmp_path, monkeypatch):
    # A long run logs rarely; its steps still come in portions.
    monkeypatch.setattr(loop, "PAUSE", 0.0)
    run = tl.setup(digits(steps=500, log_every=500, evaluate_every=500), tmp_path / "r")
    interrupted_at(run, 5)
    with pytest.raises(KeyboardInterrupt, match="after step 5 of 500"):
        tl.train(run)
    assert [r["step"] for r in lines(tmp_path / "r")] == [5]


def test_a_checkpoint_is_written_each_minute(digits, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "MINUTE", 0.0)
    monkeypatch.setattr(loop, "PAUSE", 0.0)
    monkeypatch.setattr(
        loop.checkpointing, "save", lambda run: saved.append(run.steps_done)
    )
    tl.train(tl.setup(digits(log_every=3, evaluate_every=6), tmp_path / "run"))
    assert saved == [1, 2, 3, 4, 5, 6]
    steps = [r["step"] for r in lines(tmp_path / "run", "train")]
    assert steps == sorted(set(steps))


# --- what goes wrong ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bomb(Term):
    """A term that is NaN from a step on, in its value or in its gradient alone."""

    at: float = traced(4.0)
    hidden: float = traced(0.0)

    def __call__(self, context):
        late = context.step >= self.at
        bias = context.params["head"]["dense"]["bias"]
        still = jnp.square(bias - jax.lax.stop_gradient(bias)).sum()
        loud = jnp.where(late, jnp.nan, 0.0)
        # sqrt(0) has no finite derivative, and a fine value.
        quiet = jnp.sqrt(still + jnp.where(late, 0.0, 1.0))
        return jnp.where(self.hidden > 0, quiet, loud)


def exploding(digits, **changes):
    terms = {"task": tl.losses.CrossEntropy(), "bomb": Bomb(**changes)}
    return digits(terms=terms, steps=8, save_every=2, log_every=1)


def test_a_loss_that_is_not_finite_stops_and_names_step_and_term(digits, tmp_path):
    run = tl.setup(exploding(digits), tmp_path / "run")
    with pytest.raises(tl.UserError) as caught:
        tl.train(run)
    text = str(caught.value)
    assert "training stopped at step 4: the term bomb = nan is not finite" in text
    assert "The checkpoint of step 4 is kept." in text
    again = tl.resume(tmp_path / "run")
    assert again.steps_done == 4
    assert np.isfinite(again.params["head"]["dense"]["kernel"]).all()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_gradient_that_is_not_finite_stops_too(digits, tmp_path):
    run = tl.setup(exploding(digits, hidden=1.0), tmp_path / "run")
    with pytest.raises(tl.UserError, match="step 4: the gradient's norm is nan"):
        tl.train(run)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") == 4


def test_values_that_are_not_finite_are_never_saved(digits, tmp_path):
    run = tl.setup(digits(), tmp_path / "run")
    run.advance(2)
    loop.checkpointing.save(run)
    head = run.state.trainable["model"]["head"]["dense"]
    head["bias"] = head["bias"].at[0].set(jnp.inf)
    run.steps_done = 3
    with pytest.raises(tl.UserError, match="NaN or infinite after step 3"):
        loop.checkpointing.save(run)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") == 2


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing(digits, tmp_path, monkeypatch):
    exp = digits(steps=8, save_every=2, log_every=2)
    run = tl.setup(exp, tmp_path / "run")
    manager = orbax_module.orbax().CheckpointManager
    save = manager.save

    def filling(self, step, **settings):
        return full() if step == 6 else save(self, step, **settings)

    monkeypatch.setattr(manager, "save", filling)
    with pytest.raises(tl.UserError, match=r"no space left.*step 6.*step 4 is kept"):
        tl.train(run)
    monkeypatch.undo()
    again, whole = tl.resume(tmp_path / "run"), tl.setup(exp)
    assert again.steps_done == 4
    assert tl.train(again)["test"] == tl.train(whole)["test"]
    steps = [r["step"] for r in lines(tmp_path / "run", "train")]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_disk_that_is_full_for_the_log_is_told(digits, tmp_path, monkeypatch):
    run = tl.setup(digits(save_every=2), tmp_path / "run")
    monkeypatch.setattr(metrics_log.Log, "evaluation", full)
    with pytest.raises(
        tl.UserError, match=r"no space left on the disk for .*run after"
    ):
        tl.train(run)


def test_other_errors_of_the_disk_stay_what_they_are(digits, tmp_path, monkeypatch):
    def gone(*_):
        raise OSError(errno.EIO, "Input/output error")

    run = tl.setup(digits(), tmp_path / "run")
    monkeypatch.setattr(metrics_log.Log, "evaluation", gone)
    with pytest.raises(OSError, match="Input/output"):
        tl.train(run)
