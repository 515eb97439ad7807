"""Metrics of experiments against scikit-learn and scipy, with their edge cases."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as sk

import jaxtl as tl

tlm = tl.metrics


def _draw(seed, classes=4, rows=40):
    """Logits with ties, labels of all classes, and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (rows, classes))[rng.integers(0, rows, rows)]
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, rows)])[:rows]
    weights = rng.integers(0, 3, rows).astype(float)
    weights[:classes] = 1
    return logits, labels, weights


def _pairs(logits, labels, w):
    """(metric, scikit-learn's value) of three or more classes."""
    p, guess, k = special.softmax(logits, 1), logits.argmax(1), logits.shape[1]
    args, names = {"sample_weight": w}, tuple(map(str, range(k)))
    ranks = {"multi_class": "ovr", **args}
    yield tlm.Accuracy(), sk.accuracy_score(labels, guess, **args)
    yield tlm.TopKAccuracy(k=2), sk.top_k_accuracy_score(labels, logits, k=2, **args)
    for adjusted in (False, True):
        yield (
            tlm.BalancedAccuracy(adjusted=adjusted),
            sk.balanced_accuracy_score(labels, guess, adjusted=adjusted, **args),
        )
    yield tlm.MatthewsCorrelation(), sk.matthews_corrcoef(labels, guess, **args)
    for weights in (None, "linear", "quadratic"):
        yield (
            tlm.CohenKappa(weights=weights),
            sk.cohen_kappa_score(labels, guess, weights=weights, labels=range(k),
                                 **args),
        )  # fmt: skip
    for average in ("macro", "micro", "weighted"):
        yield (
            tlm.AUROC(average=average),
            sk.roc_auc_score(labels, p, average=average, **ranks),
        )
        yield (
            tlm.AveragePrecision(average=average),
            sk.average_precision_score(labels, p, average=average, **args),
        )
        options = {"average": average, "zero_division": 0, **args}
        yield (
            tlm.FBeta(beta=0.5, average=average),
            sk.fbeta_score(labels, guess, beta=0.5, **options),
        )
        yield (
            tlm.Precision(average=average),
            sk.precision_score(labels, guess, **options),
        )
        yield tlm.Recall(average=average), sk.recall_score(labels, guess, **options)
    per_class = sk.f1_score(labels, guess, average=None, labels=range(k),
                            zero_division=0, **args)  # fmt: skip
    for label in range(k):
        yield tlm.FBeta(label=names[label]), per_class[label]
    yield tlm.BrierScore(), np.average(((p - np.eye(k)[labels]) ** 2).sum(1), weights=w)
    yield tlm.LogLoss(), sk.log_loss(labels, p, labels=range(k), **args)
    yield (
        tlm.Function(f=sk.hamming_loss, reads="predictions"),
        sk.hamming_loss(labels, guess, **args),
    )


@pytest.mark.filterwarnings("ignore")
@given(seed=st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_classes_are_sklearns(seed):
    logits, labels, weights = _draw(seed)
    for w in (np.ones(len(labels)), weights):
        counted = w > 0
        padded = (
            np.where(counted[:, None], logits, np.nan),
            np.where(counted, labels, -1),
        )
        for metric, expected in _pairs(logits[counted], labels[counted], w[counted]):
            value = metric(*padded, w)
            np.testing.assert_allclose(
                value, expected, 1e-9, 1e-14, err_msg=f"{metric}"
            )
    p = special.softmax(logits, 1)
    for average in ("macro", "weighted"):
        np.testing.assert_allclose(
            tlm.AUROC(multi_class="ovo", average=average)(logits, labels),
            sk.roc_auc_score(labels, p, multi_class="ovo", average=average),
            rtol=1e-12,
        )


@given(seed=st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_two_classes_are_sklearns(seed):
    logits, labels, w = _draw(seed, classes=2)
    margin, p = logits[:, 1] - logits[:, 0], special.softmax(logits, 1)[:, 1]
    args = {"sample_weight": w}
    guess = logits.argmax(1)
    for metric, expected in (
        (tlm.AUROC(), sk.roc_auc_score(labels, p, **args)),
        (tlm.AUROC(label="0"), sk.roc_auc_score(labels == 0, -margin, **args)),
        (tlm.AveragePrecision(), sk.average_precision_score(labels, p, **args)),
        (tlm.BrierScore(), sk.brier_score_loss(labels, p, **args)),
        (tlm.FBeta(label=1), sk.f1_score(labels, guess, zero_division=0, **args)),
    ):
        np.testing.assert_allclose(metric(logits, labels, w), expected, rtol=1e-9)
    # A single logit is that of the second class.
    value = tlm.AUROC()(margin, labels, w)
    assert value == pytest.approx(sk.roc_auc_score(labels, margin, **args), rel=1e-12)


@pytest.mark.filterwarnings("ignore")
@given(seed=st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_labels_are_sklearns(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(30, 3)).round(1)
    labels = (rng.random((30, 3)) < [0.5, 0.3, 0.2]).astype(int)
    labels[:2] = [[1, 1, 1], [0, 0, 0]]
    w = rng.integers(1, 3, 30).astype(float)
    p, guess, args = (
        special.expit(logits),
        (logits > 0).astype(int),
        {"sample_weight": w},
    )
    for average in ("macro", "micro", "weighted", "samples"):
        options = {"average": average, "zero_division": 0, **args}
        assert tlm.FBeta(average=average)(logits, labels, w) == pytest.approx(
            sk.f1_score(labels, guess, **options)
        )
        if average != "samples":
            options.pop("zero_division")
            assert tlm.AUROC(average=average)(logits, labels, w) == pytest.approx(
                sk.roc_auc_score(labels, p, **options)
            )
            assert tlm.AveragePrecision(average=average)(
                logits, labels, w
            ) == pytest.approx(sk.average_precision_score(labels, p, **options))
    np.testing.assert_array_equal(
        tlm.label_confusion(logits, labels, w),
        sk.multilabel_confusion_matrix(labels, guess, **args),
    )


@given(seed=st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_regression_is_scipys(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(20, 2)).round(1) * 10.0 ** rng.integers(-200, 200)
    out = y + rng.normal(size=(20, 2)).round(1)
    out[:2] += 1
    pearson = np.mean([stats.pearsonr(out[:, i], y[:, i])[0] for i in (0, 1)])
    assert tlm.PearsonCorrelation()(out, y) == pytest.approx(pearson, rel=1e-9)
    spearman = np.mean([stats.spearmanr(out[:, i], y[:, i])[0] for i in (0, 1)])
    assert tlm.SpearmanCorrelation()(out, y) == pytest.approx(spearman, rel=1e-9)
    w = rng.integers(1, 4, 20)
    twice = np.repeat(np.arange(20), w)  # a weight of 2 is the row twice
    weighted = tlm.PearsonCorrelation()(out, y, w)
    assert weighted == pytest.approx(tlm.PearsonCorrelation()(out[twice], y[twice]))
    root = sk.root_mean_squared_error(y, out, sample_weight=w)
    assert tlm.MeanSquaredError(root=True)(out, y, w) == pytest.approx(root)


def _value(metric, *arguments):
    """(value, warnings) of a metric."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = metric(*arguments)
    return value, " ".join(str(w.message) for w in caught)


EYE = np.eye(3)
CASES = (  # metric, logits, labels, value (sklearn's), what is told
    (tlm.AUROC(), EYE[[0, 1, 0]], [1, 1, 1], np.nan, "'0' has no label"),
    (tlm.AUROC(), [0.1, 0.2], [1, 1], np.nan, "all labels are '1'"),
    (tlm.AUROC(), [0.5, 0.5, 0.5], [0, 1, 1], 0.5, ""),
    (tlm.AUROC(multi_class="ovo"), EYE, [0, 1, 1], 0.875, "without 2"),
    (tlm.AveragePrecision(), [0.1, 0.2], [0, 0], 0.0, "'1' has no label"),
    (tlm.MatthewsCorrelation(), EYE[[0, 0]], [0, 1], 0.0, "all predictions are '0'"),
    (tlm.CohenKappa(), EYE[[0, 0]], [0, 0], np.nan, "all labels are '0'"),
    (tlm.Precision(), EYE[[0, 0]], [0, 1], 0.25, "is never predicted: 1"),
    (tlm.Recall(), EYE[[0, 2]], [0, 1], 1 / 3, "has no label: 2"),
    (tlm.FBeta(label=2), EYE[[0, 0]], [0, 1], 0.0, "neither labelled nor predicted"),
    (tlm.PearsonCorrelation(), [1.0, 2.0], [3.0, 3.0], np.nan, "targets are equal"),
    (tlm.SpearmanCorrelation(), [1.0, 1.0], [3.0, 4.0], np.nan, "outputs are equal"),
    (tlm.R2(), [1.0], [2.0], np.nan, "two examples"),
)


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "expected", "told"),
    CASES,
    ids=[f"{type(case[0]).__name__}-{i}" for i, case in enumerate(CASES)],
)
def test_what_is_not_defined_is_told(metric, outputs, labels, expected, told):
    value, text = _value(metric, np.array(outputs), np.array(labels))
    np.testing.assert_allclose(value, expected)
    assert told in text
    assert bool(told) == bool(text)


def test_scores_that_round_to_one_keep_their_order():
    logits = np.array([[0, 50.0], [0, 60.0], [0, 70.0], [0, 80.0]])
    assert tlm.AUROC()(logits, [0, 0, 1, 1]) == 1.0
    wide = np.array([[0, 50.0, 0], [0, 60.0, 0], [0, 70.0, 0]])
    assert tlm.AUROC(label=1)(wide, [0, 1, 1]) == 1.0


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        (tlm.AUROC(), ([[0.0, np.nan]], [0]), "NaN or infinity"),
        (tlm.AUROC(), (np.zeros((0, 2)), np.zeros(0)), "at least one example"),
        (tlm.AUROC(), (np.zeros((2, 2)), [0, 1], [0, 0]), "at least one example"),
        (tlm.AUROC(), (np.zeros((2, 2)), [0, 1], [-1, 1]), "at least 0"),
        (tlm.AUROC(), (np.zeros((2, 2)), [0]), r"\(1,\), which does not fit"),
        (tlm.TopKAccuracy(k=2), (np.zeros((2, 2)), [0, 1]), "1 ≤ k < 2"),
        (tlm.AUROC(multi_class="ovx"), (EYE, [0, 1, 2]), "did you mean 'ovr'"),
        (tlm.FBeta(average="makro"), (EYE, [0, 1, 2]), "did you mean 'macro'"),
        (tlm.FBeta(average="samples"), (EYE, [0, 1, 2]), "several labels"),
        (tlm.FBeta(label="cat"), (EYE, [0, 1, 2]), "no class 'cat'"),
        (tlm.Function(f=lambda a, b: a), (EYE, [0, 1, 2]), "expected one number"),
        (tlm.Function(f=lambda a: 1.0), (EYE, [0, 1, 2]), r"takes \(a\)"),
        (
            tlm.Function(f=sk.f1_score),
            (np.zeros((3, 3)), [0, 1, 2]),
            r"f1_score failed.*labels \(3,\)",
        ),
        (tlm.SpearmanCorrelation(), ([1.0, 2], [1.0, 2], [1, 2]), "no weights"),
    ],
)
def test_errors_are_sentences(metric, arguments, message):
    with pytest.raises(tl.UserError, match=message):
        metric(*arguments)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_are_scipys(method):
    logits, labels, _ = _draw(3, rows=25)
    ours = tlm.bootstrap_intervals(
        "classification", logits, labels, metrics={"kappa": tlm.CohenKappa()},
        resamples=60, confidence=0.9, method=method, seed=5,
    )  # fmt: skip
    for name, function in (
        ("accuracy", sk.accuracy_score),
        ("kappa", sk.cohen_kappa_score),
    ):
        expected = stats.bootstrap(
            (labels, logits.argmax(1)), function, paired=True, vectorized=False,
            n_resamples=60, confidence_level=0.9, random_state=np.random.default_rng(5),
            method={"bca": "BCa"}.get(method, method),
        ).confidence_interval  # fmt: skip
        np.testing.assert_allclose(ours[name][:2], expected, rtol=1e-12)


def test_intervals_count_the_resamples_without_a_value():
    rng = np.random.default_rng(0)
    labels = np.array([1] + [0] * 11)
    interval = tlm.bootstrap_intervals(
        "classification", rng.normal(size=(12, 2)), labels,
        metrics={"auroc": tlm.AUROC()}, resamples=50,
    )["auroc"]  # fmt: skip
    assert 0 < interval.undefined < 50
    assert 0 <= interval.low <= interval.high <= 1
