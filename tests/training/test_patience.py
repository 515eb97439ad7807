"""Early stopping: where it stops follows from the curve of a run without it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.training import loop

EVERY, PATIENCE = 2, 3


def _experiment(**changes):
    base = {
        "model": tl.models.MLP(widths=(8,)),
        "data": tl.data.Digits(labels_per_class=3, val=0.1),
        "optim": tl.optim.AdamW(lr=0.05),
        "steps": 60,
        "batch": 16,
        "evaluate_every": EVERY,
    }
    return tl.Experiment(**{**base, **changes})


def _stop_and_best(values, patience):
    """(Number of evaluations taken, index of the best), by the definition."""
    best = 0
    for index, value in enumerate(values):
        if value > values[best]:
            best = index
        if index - best >= patience:
            return index + 1, best
    return len(values), best


@pytest.fixture(scope="module")
def curve():
    """Accuracies on val of a run that takes all steps."""
    run = tl.setup(_experiment())
    tl.train(run)
    return [row["accuracy"] for row in run.curve["val"]]


def test_it_stops_where_the_whole_runs_curve_says(curve, tmp_path):
    count, best = _stop_and_best(curve, PATIENCE)
    assert count < len(curve), "the case must stop early"
    result = tl.train(tl.setup(_experiment(patience=PATIENCE), tmp_path / "run"))
    assert result["steps"] == EVERY * count
    assert result["chosen"] == EVERY * (best + 1)
    assert result["val"]["accuracy"] == curve[best]
    note = result["terms"]["patience"]
    assert note.startswith(f"stopped after step {EVERY * count} of 60: 3 evaluations")
    again = tl.train(tl.resume(tmp_path / "run"))
    assert again == json.loads((tmp_path / "run" / "result.json").read_text())


def test_a_resumed_run_stops_at_the_same_step(curve, tmp_path, monkeypatch):
    exp = _experiment(patience=PATIENCE, save_every=1)
    whole = tl.train(tl.setup(exp))
    run = tl.setup(exp, tmp_path / "run")
    real = run.advance

    def killed(count):
        if run.steps_done >= 2 * EVERY + 1:
            raise RuntimeError("killed")
        return real(count)

    monkeypatch.setattr(run, "advance", killed)
    with pytest.raises(RuntimeError, match="killed"):
        tl.train(run)
    resumed = tl.train(tl.resume(tmp_path / "run"))
    for name in ("steps", "chosen", "val", "test"):
        assert resumed[name] == whole[name]


def test_what_has_nothing_to_compare_is_refused():
    with pytest.raises(tl.UserError, match="patience=3: needs a metric on val"):
        tl.train(tl.setup(_experiment(patience=3, monitor=None)))
    with pytest.raises(tl.UserError, match="the first of several phases"):
        tl.train(tl.setup(_experiment(patience=3, phases=tl.optim.LPFT())))
    with pytest.raises(tl.UserError, match="patience=0: expected a whole number"):
        _experiment(patience=0)


class _Curve:
    """What `loop` reads of a run, with a best step that is set by hand."""

    def __init__(self, patience):
        self.exp = _experiment(patience=patience, steps=1000)
        self.best, self.steps_done = None, 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_for_any_curve_it_stops_by_the_definition(values, patience):
    run, taken = _Curve(patience), 0
    for value in values:
        if loop._is_done(run):
            break
        taken += 1
        run.steps_done += EVERY
        if run.best is None or value > run.best["value"]:
            run.best = {"step": run.steps_done, "value": value}
    assert taken == _stop_and_best(values, patience)[0]
