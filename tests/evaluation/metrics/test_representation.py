"""Metrics of features against scikit-learn, closed forms, and what they read."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

import jaxtl as tl
from jaxtl.evaluation import representation
from jaxtl.evaluation.metrics.representation import FeatureEvidence

RNG = np.random.default_rng(0)


def _evidence(**fields):
    blank = dict.fromkeys(FeatureEvidence._fields)
    return FeatureEvidence(**{**blank, **fields})


@pytest.mark.parametrize("k", [1, 7, 40])
def test_neighbors_are_scikit_learns(k):
    bank, queries = RNG.normal(size=(40, 5)), RNG.normal(size=(30, 5))
    labels = RNG.integers(0, 3, 40)
    reference = KNeighborsClassifier(
        min(k, 40),
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / 0.1),
    ).fit(bank, labels)
    ours = tl.metrics.knn_predictions(queries, bank, labels, k=k, temperature=0.1)
    np.testing.assert_array_equal(ours, reference.predict(queries))


def test_leaving_out_is_scikit_learns_leave_one_out():
    x, labels = RNG.normal(size=(25, 4)), RNG.integers(0, 3, 25)
    ours = tl.metrics.knn_predictions(x, x, labels, k=1, leave_out=True)
    others = [
        KNeighborsClassifier(1, metric="cosine")
        .fit(np.delete(x, i, 0), np.delete(labels, i))
        .predict(x[i : i + 1])[0]
        for i in range(25)
    ]
    assert ours.tolist() == others


@settings(max_examples=15)
@given(rank=st.integers(1, 6), scale=st.floats(0.1, 100))
def test_rankme_counts_equal_dimensions(rank, scale):
    # Orthogonal columns of equal length fill exactly `rank` dimensions.
    q, _ = np.linalg.qr(np.random.default_rng(rank).normal(size=(20, 6)))
    features = scale * np.pad(q[:, :rank], ((0, 0), (0, 6 - rank)))
    np.testing.assert_allclose(tl.metrics.rankme(features), rank, rtol=1e-4)


def test_rankme_is_exp_of_the_entropy_of_two_singular_values():
    p = np.array([3.0, 1.0]) / 4
    expected = np.exp(-np.sum(p * np.log(p)))
    np.testing.assert_allclose(
        tl.metrics.rankme(np.diag([3.0, 1.0])), expected, rtol=1e-5
    )


def test_lidar_passes_over_dimensions_in_which_views_differ():
    # Examples differ along axes 0 and 1 by the same amount, views along axis 2 alone.
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]).repeat(5, 0)
    features = np.zeros((20, 4, 3))
    features[..., :2] = corners[:, None]
    features[..., 2] = [-50, 50, -50, 50]
    np.testing.assert_allclose(tl.metrics.lidar(features), 2.0, rtol=1e-3)
    assert tl.metrics.rankme(features.reshape(-1, 3)) < 1.3


def test_a_probe_is_fitted_on_the_bank_or_on_folds():
    labels = np.arange(60) % 3
    features = np.eye(3)[labels] + 0.1 * RNG.normal(size=(60, 3))
    alone = _evidence(features=features, labels=labels)
    assert tl.metrics.LinearProbeAccuracy().measure_features(alone) == 1.0
    wrong = _evidence(
        features=features,
        labels=labels,
        bank=features,
        bank_labels=(labels + 1) % 3,
    )
    assert tl.metrics.LinearProbeAccuracy().measure_features(wrong) == 0.0
    assert tl.metrics.KNNAccuracy(k=3).measure_features(wrong) == 0.0


@pytest.mark.parametrize("equal", [False, True])
def test_weights_of_examples_that_do_not_count_are_noted(equal, monkeypatch):
    x, labels = RNG.normal(size=(6, 3)), np.arange(6) % 2
    fields = {"features": x, "bank": x, "sample": x}
    evidence = _evidence(labels=labels, bank_labels=labels, **fields)
    monkeypatch.setattr(representation, "_evidence", lambda *_: evidence)
    weights = np.ones(9) if equal else np.arange(9.0)
    data = types.SimpleNamespace(weights=weights, rows={"val": np.arange(6)})
    metrics = {"knn": tl.metrics.KNNAccuracy(k=1), "rank": tl.metrics.RankMe()}
    run = types.SimpleNamespace(metrics=metrics, notes={}, datasets={"target": data})
    representation.measure(run, {}, {}, "val")
    told = "every example counts once" in run.notes.get("knn on val", "")
    assert told is not equal
    assert "counts once" not in run.notes.get("rank on val", "")


@pytest.mark.parametrize("part", ["features", "bank", "sample"])
def test_features_that_are_not_finite_have_no_metric(part, monkeypatch):
    # Similarities of NaN would make the first of all neighbors the nearest.
    x, labels = RNG.normal(size=(6, 3)), np.zeros(6, int)
    spoiled = np.where(np.eye(6, 3) == 1, np.inf, x)
    fields = {"features": x, "bank": x, "sample": x, part: spoiled}
    evidence = _evidence(labels=labels, bank_labels=labels, **fields)
    monkeypatch.setattr(representation, "_evidence", lambda *_: evidence)
    metrics = {"knn": tl.metrics.KNNAccuracy(k=3), "rank": tl.metrics.RankMe()}
    data = types.SimpleNamespace(weights=None)
    run = types.SimpleNamespace(metrics=metrics, notes={}, datasets={"target": data})
    values = representation.measure(run, {}, {}, "val")
    assert np.isnan([values["knn"], values["rank"]]).all()
    assert "hold NaN or infinity" in run.notes["knn on val"]
    assert np.isnan(tl.metrics.rankme(spoiled))
    assert np.isnan(tl.metrics.lidar(spoiled.reshape(3, 2, 3)))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (tl.metrics.KNNAccuracy(k=0), "metrics.m.k=0: expected a whole number"),
        (tl.metrics.KNNAccuracy(temperature=0.0), "temperature=0.0"),
        (tl.metrics.LinearProbeAccuracy(strength=-1.0), "strength=-1.0"),
        (tl.metrics.LiDAR(), r"views=\(\): expected the operations"),
        (tl.metrics.LiDAR(views=(abs,), copies=1), "copies=1"),
    ],
)
def test_settings_that_are_wrong_are_told(metric, message):
    with pytest.raises(tl.UserError, match=message):
        metric.check("classification", ("a", "b"), "metrics.m")


def test_neighbors_are_no_metric_of_regression():
    with pytest.raises(
        tl.UserError, match="KNNAccuracy is a metric of a classification task"
    ):
        tl.metrics.KNNAccuracy().check("regression", (), "metrics['knn']")
