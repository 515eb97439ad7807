"""CBST: thresholds and labels against the paper's problem solved by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.optim import schedules
from jaxtl.terms.context import View
from jaxtl.terms.domain import CBST
from jaxtl.terms.domain.cbst import (
    UNREACHABLE,
    UNSEEN,
    balanced_labels,
    class_thresholds,
)


def _thresholds(confidence, predicted, portion, classes):
    """Algorithm 2 of the paper: sort each class's confidences, take the p·N-th."""
    thresholds = []
    for c in range(classes):
        confidences = np.sort(confidence[predicted == c])[::-1]
        rank = int(np.floor(np.float32(portion) * np.float32(len(confidences))))
        thresholds.append(confidences[rank - 1] if rank > 0 else UNREACHABLE)
    return np.asarray(thresholds, np.float32)


_thresholds_of = jax.jit(class_thresholds, static_argnums=3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), portion=st.floats(0, 1, width=32))
def test_thresholds_are_ranks_within_each_class(seed, portion):
    rng = np.random.default_rng(seed)
    confidence = rng.permutation(30).astype(np.float32) / 30
    predicted = rng.integers(-1, 3, 30)  # of four classes one is never predicted
    thresholds = _thresholds_of(confidence, predicted, portion, 4)
    np.testing.assert_array_equal(
        thresholds, _thresholds(confidence, predicted, portion, 4)
    )


def test_labels_solve_the_papers_problem():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4) * 0.4, 200).astype(np.float32)
    k = -np.log(rng.uniform(0.3, 0.9, 4))
    labels, selected = balanced_labels(p, np.exp(-k).astype(np.float32))
    options = [np.zeros(4), *np.eye(4)]
    for row, label, is_selected in zip(np.float64(p), labels, selected):
        # min over ŷ of −Σ_c ŷ_c log p_c − Σ_c k_c ŷ_c, ŷ nothing or one class (eq. 8)
        costs = [-(y * (np.log(np.maximum(row, 1e-300)) + k)).sum() for y in options]
        best = int(np.argmin(costs))
        assert is_selected == (best > 0)
        assert not is_selected or label == best - 1


def test_nothing_of_a_class_without_a_threshold_is_taken_and_others_are():
    p = jnp.asarray([[1.0, 0.0], [0.7, 0.3], [0.9, 0.1]])
    limits = jnp.asarray([UNREACHABLE, 0.2])
    labels, selected = balanced_labels(p, limits)
    np.testing.assert_array_equal(selected, [False, True, False])
    assert labels[1] == 1
    _, selected = balanced_labels(p, jnp.full(2, UNREACHABLE))
    assert not selected.any()


@pytest.mark.parametrize("balanced", [True, False])
def test_the_term_is_the_mean_over_the_batch(bench, balanced):
    harness = bench()
    term = CBST(portion=0.6, balanced=balanced, every=3)  # the harness is at step 3
    term.check(harness.setup)
    state = term.init_state(harness.setup)
    batch = harness.batches["unlabelled"]
    rows = np.asarray(batch["row"])
    # As if other examples had been seen before.
    other_rows = np.setdiff1d(np.arange(20), rows)[:6]
    assert (np.asarray(state["predicted"])[other_rows] == UNSEEN).all()
    state["predicted"] = state["predicted"].at[other_rows].set(np.arange(6) % 3)
    state["confidence"] = (
        state["confidence"].at[other_rows].set(0.5 + np.arange(6) / 20)
    )
    context = harness.context(state=state)
    value, extra = term(View(context, "term", 0))

    logits = harness.network.apply(harness.params, harness.stats, batch["x"]).logits
    p = np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64))
    confidence, predicted = (np.array(state[k]) for k in ("confidence", "predicted"))
    confidence[rows], predicted[rows] = p.max(1), p.argmax(1)
    if not balanced:
        limits = _thresholds(confidence, np.minimum(predicted, 0), 0.6, 1)
        limits = np.repeat(limits, 3)
    else:
        limits = _thresholds(confidence, predicted, 0.6, 3)
    ratio = p / limits
    selected = ratio.max(1) > 1 - 1e-6
    labels = ratio.argmax(1)
    assert 0 < selected.sum() < len(selected)
    expected = -np.sum(selected * np.log(p[np.arange(len(p)), labels])) / len(p)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(extra["mask"], selected.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        extra["confidence"], p.max(1)[selected].mean(), rtol=1e-5
    )
    np.testing.assert_array_equal(context.term_states["term"]["predicted"], predicted)
    np.testing.assert_allclose(
        context.term_states["term"]["confidence"], confidence, rtol=1e-5
    )


def test_between_two_looks_thresholds_stay(bench):
    harness = bench()
    term = CBST(portion=1.0, every=2)
    state = {**term.init_state(harness.setup), "thresholds": jnp.full(3, 0.2)}
    context = harness.context(state=state, step=3)
    _, extra = term(View(context, "term", 0))
    np.testing.assert_array_equal(
        context.term_states["term"]["thresholds"], jnp.full(3, 0.2)
    )
    assert extra["mask"] == 1  # one of three classes always has 0.2


def test_the_memory_begins_with_the_initial_models_predictions(bench):
    harness = bench()
    batch = harness.batches["unlabelled"]
    state = CBST().init_state(harness.setup)
    logits = harness.network.apply(harness.params, harness.stats, batch["x"]).logits
    p = jax.nn.softmax(logits)
    rows = batch["row"]
    np.testing.assert_allclose(state["confidence"][rows], p.max(1), rtol=1e-5)
    np.testing.assert_array_equal(state["predicted"][rows], p.argmax(1))
    assert (np.delete(state["predicted"], rows) == UNSEEN).all()


def test_the_papers_portion_rises_from_a_fifth_to_a_half():
    portion = CBST().portion
    ends = [
        float(schedules.value(portion, jnp.int32(s), jnp.int32(100))) for s in (0, 100)
    ]
    np.testing.assert_allclose(ends, [0.2, 0.5], rtol=1e-6)


def test_errors(bench):
    setup = bench().setup
    for fields, message in (
        ({"target": "unlabeled"}, "did you mean 'unlabelled'"),
        ({"every": 0}, "terms.term.every=0: expected a number at least 1"),
        ({"portion": 1.5}, r"terms.term.portion=1.5: expected a number in \[0, 1\]"),
    ):
        with pytest.raises(UserError, match=message):
            CBST(**fields).check(setup)
    with pytest.raises(UserError, match="CBST is a term for classification"):
        CBST().check(bench("regression").setup)
