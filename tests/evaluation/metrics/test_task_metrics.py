"""Metrics against scikit-learn in float64; calibration error by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics

sk = pytest.importorskip("sklearn.metrics", reason="metrics are held against sklearn")


def _classes(seed, rows=40, classes=5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, classes))
    # The last class never occurs as a label and rarely as a prediction.
    logits[:, -1] -= 6
    return logits, rng.integers(0, classes - 1, rows), rng.integers(0, 3, rows)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_classification_is_sklearns(seed):
    logits, labels, weights = _classes(seed)
    guess, p = logits.argmax(1), special.softmax(logits, 1)
    for w in (None, weights):
        keep = slice(None) if w is None else w > 0
        # sklearn warns of predictions whose class has no label left: drop rows itself.
        args = {"sample_weight": None if w is None else w[keep]}
        t, g = labels[keep], guess[keep]
        expected = {
            "accuracy": sk.accuracy_score(t, g, **args),
            "balanced_accuracy": sk.recall_score(
                t, g, labels=np.unique(t), average="macro", **args
            ),
            "macro_f1": sk.f1_score(t, g, average="macro", **args),
            "nll": sk.log_loss(t, p[keep], labels=range(5), **args),
        }
        ours = metrics.compute("classification", logits, labels, w)
        for name, value in expected.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-10, err_msg=name)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_multilabel_is_sklearns(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(30, 4))
    labels = (rng.random((30, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(int)
    weights = rng.integers(0, 3, 30)
    p = special.expit(logits)
    for w in (None, weights):
        args = {"sample_weight": w}
        guess = (logits > 0).astype(int)
        label_losses = [sk.log_loss(labels[:, i], p[:, i], labels=[0, 1], **args)
                for i in range(4)]  # fmt: skip
        expected = {
            "accuracy": 1 - sk.hamming_loss(labels, guess, **args),
            "exact_match": sk.accuracy_score(labels, guess, **args),
            "macro_f1": sk.f1_score(
                labels, guess, average="macro", zero_division=0, **args
            ),
            "nll": np.mean(label_losses),
        }
        ours = metrics.compute("multilabel", logits, labels, w)
        for name, value in expected.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-10, err_msg=name)


@given(seed=st.integers(0, 10**6), outputs=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_regression_is_sklearns(seed, outputs):
    rng = np.random.default_rng(seed)
    y, t = rng.normal(size=(2, 20, outputs))
    if seed % 2:
        t[:, 0] = seed % 5  # a constant output
    weights = rng.integers(0, 3, 20)
    weights[:2] = 1
    for w in (None, weights):
        expected = {
            "mse": sk.mean_squared_error(t, y, sample_weight=w),
            "mae": sk.mean_absolute_error(t, y, sample_weight=w),
            "r2": sk.r2_score(t, y, sample_weight=w),
        }
        ours = metrics.compute("regression", y, t, w)
        for name, value in expected.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-9, atol=1e-12)


def test_r2_of_a_constant_target():
    flat = np.full((20, 1), 0.1)  # whose mean is not 0.1 in floating point
    assert metrics.r2(flat + 1.0, flat) == 0.0
    assert metrics.r2(flat, flat) == 1.0


def test_calibration_error_by_hand():
    # Confidences 0.95, 0.91 (same bin of 15: (14/15, 1] holds .95; (13/15, 14/15] .91).
    p = np.array([[0.95, 0.05], [0.91, 0.09], [0.92, 0.08]])
    labels = np.array([0, 0, 1])
    expected = 1 / 3 * abs(1 - 0.95) + 2 / 3 * abs(1 / 2 - (0.91 + 0.92) / 2)
    np.testing.assert_allclose(metrics.ece(np.log(p), labels), expected)
    # A weight of 2 is the row twice.
    twice = metrics.ece(np.log(p[[0, 0, 1, 2]]), labels[[0, 0, 1, 2]])
    np.testing.assert_allclose(metrics.ece(np.log(p), labels, [2, 1, 1]), twice)


def test_calibrated_predictions_have_no_calibration_error():
    # 8 of 10 rows right at confidence 0.8.
    logits = np.tile(np.log([0.8, 0.2]), (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    np.testing.assert_allclose(metrics.ece(logits, labels), 0, atol=1e-12)
    sure = np.tile([100.0, 0.0], (10, 1))
    np.testing.assert_allclose(metrics.ece(sure, labels), 0.2, atol=1e-12)


@pytest.mark.parametrize("task", metrics.METRICS)
def test_padded_rows_do_not_change_metrics(task):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 3))
    labels = {
        "classification": rng.integers(0, 3, 6),
        "multilabel": rng.integers(0, 2, (6, 3)),
        "regression": rng.normal(size=(6, 3)),
        "language": np.zeros(6),
        "question_answering": rng.integers(0, 2, 6),
        "contrastive": rng.integers(0, 4, 6),
    }.get(task, rng.integers(-1, 3, (6, 4)))
    if task == "question_answering":
        logits = np.abs(rng.normal(size=(6, 7)))
    if task in ("entities", "tags"):
        logits = rng.normal(size=(6, 4, 3))
    if task == "contrastive":
        logits = rng.normal(size=(6, 4))
    logits = np.abs(logits) if task == "language" else logits  # sums and counts
    names = {"class_names": ("O", "B-X", "I-X")}
    clean = metrics.compute(task, logits, labels, **names)
    padding = np.full((2, *logits.shape[1:]), np.nan)
    padding_labels = np.full((2, *labels.shape[1:]), -1)
    padded = metrics.compute(
        task,
        np.concatenate([logits, padding]),
        np.concatenate([labels, padding_labels]),
        [1] * 6 + [0] * 2,
        **names,
    )
    assert padded == clean


def test_metrics_of_a_diverged_model_are_nan():
    logits = np.array([[np.nan, 0.0], [1.0, 0.0]])
    values = metrics.compute("classification", logits, np.array([0, 0]))
    assert np.isnan(values["ece"])
    assert np.isnan(values["nll"])


def test_every_metric_has_a_direction():
    for names in metrics.METRICS.values():
        for name in names:
            assert isinstance(metrics.higher_is_better(f"val/{name}"), bool)
    assert metrics.higher_is_better("accuracy")
    assert not metrics.higher_is_better("nll")


@pytest.mark.parametrize(
    ("name", "task", "meant"),
    [
        ("acc", "classification", "accuracy"),
        ("Accuracy", "classification", "accuracy"),
        ("f1", "classification", "macro_f1"),
        ("ce", "classification", "nll"),
        ("log-loss", "classification", "nll"),
        ("loss", "regression", "mse"),
        ("rmse", "regression", "mse"),
        ("R^2", "regression", "r2"),
        ("ppl", "language", "perplexity"),
        ("perp", "language", "perplexity"),
        ("balanced", "classification", "balanced_accuracy"),
    ],
)
def test_a_metrics_common_names_lead_to_ours(name, task, meant):
    hint = metrics.nearest_metric(name, metrics.METRICS[task])
    assert hint == f"; did you mean {meant!r}?"


def test_errors_name_the_nearest_spelling():
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        metrics.higher_is_better("val/acuracy")
    with pytest.raises(UserError, match="did you mean 'regression'"):
        metrics.compute("regresion", np.zeros((1, 1)), np.zeros(1))
    with pytest.raises(UserError, match="at least one example"):
        metrics.compute("regression", np.zeros((1, 1)), np.zeros(1), [0])
    with pytest.raises(UserError, match=r"\(2, 3\)"):
        metrics.compute("multilabel", np.zeros((2, 3)), np.zeros((2, 2)))


def test_values_that_replace_the_best_so_far():
    nan = float("nan")
    for name, better, worse in (("accuracy", 0.9, 0.8), ("nll", 0.8, 0.9)):
        assert metrics.beats(name, better, worse)
        assert not metrics.beats(name, worse, better)
        assert not metrics.beats(name, better, better)  # the first stays
        assert not metrics.beats(name, nan, worse)
        assert metrics.beats(name, worse, nan)
        assert metrics.beats(name, worse, None)
    assert metrics.beats("source_accuracy", 1.0, 1.0)  # the last
    assert not metrics.beats("source_accuracy", 0.9, 1.0)
    assert not metrics.beats("entropy", nan, 0.1)
