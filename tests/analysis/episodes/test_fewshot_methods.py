"""Few-shot classifiers: laws that all obey, and values of scikit-learn."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model, neighbors

from jaxtl import data
from jaxtl.analysis import episodes, geometry
from jaxtl.analysis.episodes import fine_tuning, methods
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output
from jaxtl.data.episodes import Episode

LABELS = np.array([2, 0, 1, 1, 0, 2])


def episode(width, seed=0, spread=3.0):
    """Three clusters of nonnegative features: 6 support examples, 12 queries."""
    rng = np.random.default_rng(seed)
    centers = spread * rng.random((3, width))
    query_labels = np.arange(12) % 3
    support, query = (
        centers[labels] + rng.random((len(labels), width))
        for labels in (LABELS, query_labels)
    )
    return support, query, query_labels


@pytest.mark.parametrize("name", methods.ON_FEATURES)
@pytest.mark.parametrize("width", [4, 40])
def test_methods_classify_clusters_and_do_not_read_the_order_of_anything(name, width):
    method = methods.ON_FEATURES[name].candidates()[0]
    support, query, truth = episode(width)
    origin = support.mean(axis=0) if method.centered else 0.0
    support, query = support - origin, query - origin
    scores = method(support, LABELS, query)
    assert scores.shape == (12, 3)
    assert (scores.argmax(axis=1) == truth).all()
    places, order = np.array([1, 2, 0]), np.random.default_rng(1).permutation(12)
    renamed = method(support[::-1], places[LABELS][::-1], query[order])
    tolerance = 1e-3 * np.abs(scores).max()  # of liblinear and of L-BFGS
    np.testing.assert_allclose(renamed[:, places], scores[order], atol=tolerance)
    alone = method(support, LABELS, query[:6])
    is_same = np.allclose(alone, scores[:6], atol=1e-9)
    assert is_same != method.transductive


def test_nearest_neighbors_and_logistic_regression_are_those_of_scikit_learn():
    support, query, _ = episode(40, spread=0.3)
    nearest = neighbors.KNeighborsClassifier(1).fit(support, LABELS)
    scores = episodes.NearestNeighbor(distance="euclidean")(support, LABELS, query)
    np.testing.assert_array_equal(scores.argmax(axis=1), nearest.predict(query))
    first, second = geometry.unit(support), geometry.unit(query)
    whole = linear_model.LogisticRegression(C=10, tol=1e-10, max_iter=5000)
    expected = whole.fit(first, LABELS).predict_log_proba(second)
    scores = episodes.LogisticHead(slack=10.0)(support, LABELS, query)
    np.testing.assert_allclose(scores, expected, atol=2e-3)


def test_transport_has_the_marginals_of_balanced_classes():
    costs = np.random.default_rng(0).random((12, 3))
    plan = episodes.pt_map.transport(costs, 10.0)
    np.testing.assert_allclose(plan.sum(axis=0), 4.0, rtol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=1), 1.0, atol=1e-4)


@pytest.mark.parametrize(
    ("support", "labels", "query", "words"),
    [
        (np.ones((4, 3)), [0, 0, 1, 1], np.ones((2, 4)), "query features of shape"),
        (np.ones((4, 3)), [0, 0, 1], np.ones((2, 3)), "labels of shape"),
        (np.ones((4, 3)), [0, 0, 2, 2], np.ones((2, 3)), "no example of class 1"),
        (np.ones((4, 3)), [0, 0, 0, 0], np.ones((2, 3)), "at least two"),
        (np.ones((4, 3)), [0.5, 0, 1, 1], np.ones((2, 3)), "whole numbers from 0"),
        (np.full((4, 3), np.nan), [0, 0, 1, 1], np.ones((2, 3)), "support features"),
        (np.ones((4, 3)), [0, 0, 1, 1], np.ones((0, 3)), "expected"),
    ],
)
def test_episodes_that_are_none_are_refused(support, labels, query, words):
    with pytest.raises(UserError, match=words):
        episodes.NearestMean()(support, labels, query)


def test_settings_and_names_that_are_none_are_refused():
    with pytest.raises(UserError, match=r"episodes\.TIM\.scale=-1"):
        episodes.TIM(scale=-1)
    with pytest.raises(UserError, match="did you mean 'euclidean'"):
        episodes.NearestNeighbor(distance="euclid")
    with pytest.raises(UserError, match="no 'protonets'; did you mean 'protonet'"):
        methods.by_name("protonets")
    with pytest.raises(UserError, match="trains a network"):
        episodes.FineTuning()(np.eye(3), [0, 1, 1], np.eye(3))


def test_fine_tuning_passes_by_examples_whose_features_are_0():
    def apply(params, stats, x, *, stop):
        feature = jnp.maximum(x @ params["body"], 0)
        return Output(feature, {stop: feature}, stats)

    network = Network(("body", "head"), None, apply)
    model = types.SimpleNamespace(
        network=network, dtype="float32", preprocess=data.Preprocess()
    )
    x = np.array([[0, 0], [1, 0], [0, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    labels, weights = np.array([0, 0, 1, 1], np.int32), ({"body": jnp.eye(2)}, {})
    scores = fine_tuning.episode_scores(
        model, weights, types.SimpleNamespace(x=x), "body"
    )
    task = Episode(np.arange(2), np.arange(4), labels, np.array([4, 5]), labels[1:3])
    values = scores(episodes.FineTuning(steps=2), task)
    np.testing.assert_array_equal(values.argmax(axis=1), [0, 1])
    assert np.isfinite(values).all()
