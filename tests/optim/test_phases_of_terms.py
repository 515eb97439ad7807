"""Phases that minimize some of the terms: who moves, when schedules begin, resuming."""

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.optim.phases import Phase

LR = 1e-2
WARM_UP = (Phase(until=0.5, terms=("task",)), Phase())


def _adaptation(digits, **changes):
    """A source, a target, and DANN between them; 8 steps."""
    terms = {
        "task": tl.losses.CrossEntropy(stream="source"),
        "domain": tl.domain.DANN(widths=(5,), reversal=1.0),
    }
    settings = {
        "model": tl.models.MLP(widths=(12,)),
        "data": tl.data.Digits(labels=0),
        "streams": {"source": tl.data.Digits()},
        "terms": terms,
        "optim": tl.optim.AdamW(lr=LR, weight_decay=0.1),
        "steps": 8,
        "batch": 16,
        "monitor": None,
        "phases": WARM_UP,
    }
    return digits(**{**settings, **changes})


def _leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_term_left_out_moves_nothing_and_begins_with_adams_first_step(digits):
    optim = tl.optim.AdamW(lr=LR, weight_decay=0.0)
    run = tl.setup(_adaptation(digits, optim=optim))
    start = _leaves(run.state.trainable["terms"])
    rows = run.advance(4)
    for a, b in zip(start, _leaves(run.state.trainable["terms"])):
        np.testing.assert_array_equal(a, b)
    rows += run.advance(1)
    # Adam's first step is lr · g / (|g| + ε): a count of the four idle steps would
    # make it 0.1/(1 − 0.9⁵) / sqrt(0.001/(1 − 0.999⁵)) = 1.7 times as long.
    moved = np.concatenate(
        [
            np.abs(b - a).ravel()
            for a, b in zip(start, _leaves(run.state.trainable["terms"]))
        ]
    )
    np.testing.assert_allclose(moved.max(), LR, rtol=1e-3)
    assert [("domain" in row, "domain/accuracy" in row) for row in rows] == (
        [(False, False)] * 4 + [(True, True)]
    )
    assert all(row["loss"] == row["task"] for row in rows[:4])


def test_the_task_alone_is_what_a_reversal_of_zero_gives(digits):
    without = _adaptation(
        digits,
        terms={
            "task": tl.losses.CrossEntropy(stream="source"),
            "domain": tl.domain.DANN(widths=(5,), reversal=0.0),
        },
        phases=(),
    )
    runs = [tl.setup(exp) for exp in (_adaptation(digits), without)]
    for run in runs:
        run.advance(4)
    for a, b in zip(*(_leaves(run.params) for run in runs)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_schedules_of_a_term_run_from_the_phase_in_which_it_begins(digits):
    ramp = tl.optim.LinearRamp(final=1.0)  # step / steps
    run = tl.setup(
        _adaptation(
            digits,
            terms={
                "task": tl.losses.CrossEntropy(stream="source", weight=ramp),
                "penalty": tl.domain.EntropyMinimization(weight=ramp),
            },
            phases=(
                Phase(until=0.5, terms=("task",)),
                Phase(until=0.75),
                Phase(terms=("penalty",)),
            ),
        )
    )
    rows = run.advance(8)
    for t, row in enumerate(rows):
        expected = 0.0
        if t < 6:
            expected += t / 8 * row["task"]
        if t >= 4:
            expected += (t - 4) / 4 * row["penalty"]
        np.testing.assert_allclose(row["loss"], expected, rtol=1e-5)


def test_all_terms_in_every_phase_is_the_run_without_phases(digits):
    runs = [
        tl.setup(_adaptation(digits, phases=phases))
        for phases in ((), (Phase(until=0.5, terms=("task", "domain")), Phase()))
    ]
    for run in runs:
        run.advance(8)
    for a, b in zip(*(_leaves(run.state.trainable) for run in runs)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_run_resumed_around_the_border_ends_bit_for_bit_the_same(
    digits, assert_resumes, stop
):
    assert_resumes(_adaptation(digits), stop)


def test_a_run_of_such_phases_trains_is_logged_and_opened_again(digits, tmp_path):
    exp = _adaptation(digits, evaluate_every=4, monitor="accuracy")
    result = tl.train(tl.setup(exp, tmp_path / "run"), progress=False)
    model = tl.load_model(tmp_path / "run")
    # Weights and test accuracy are those of the best of both phases' evaluations.
    assert result["chosen"] in (4, 8)
    assert trees.flatten(model.params).keys() == {
        f"{stage}/dense/{leaf}"
        for stage in ("layer1", "head")
        for leaf in ("kernel", "bias")
    }


def test_accumulated_steps_of_a_phase_without_some_terms(digits):
    whole, parts = (tl.setup(_adaptation(digits, accumulate=count)) for count in (1, 2))
    start = _leaves(whole.state.trainable["terms"])
    for run in (whole, parts):
        run.advance(3)
        # Weight decay does not move them either.
        for a, b in zip(start, _leaves(run.state.trainable["terms"])):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(_leaves(whole.params), _leaves(parts.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        (("tsak",), r"no term 'tsak'.*did you mean 'task'.*known: task, domain"),
        ((), r"terms=\(\): expected a tuple of names"),
        ("task", r"terms='task': expected texts in brackets"),
    ],
)
def test_wrong_names_are_told(digits, terms, match):
    with pytest.raises(tl.UserError, match=match):
        tl.setup(_adaptation(digits, phases=(Phase(until=0.5, terms=terms), Phase())))
