"""Evaluation over episodes: intervals, and choices that read no test class."""

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.analysis import episodes
from jaxtl.core.errors import UserError
from jaxtl.results import statistics

LABELS = np.repeat(np.arange(6), 8)


def features(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(6, 5))[LABELS] + 2 * rng.normal(size=(48, 5))


SHAPE = tl.data.FixedShape(3, 2, 4)


def test_the_mean_is_that_of_the_episodes_and_its_interval_students():
    x = features()
    [result] = episodes.evaluate(x, LABELS, ["protonet"], SHAPE, episodes=40)
    sampler = tl.data.EpisodeSampler(LABELS, SHAPE)
    by_hand = []
    for episode in map(sampler, range(40)):
        means = x[episode.support].reshape(3, 2, 5).mean(axis=1)
        nearest = [np.argmin(((q - means) ** 2).sum(axis=1)) for q in x[episode.query]]
        by_hand.append(np.mean(np.array(nearest) == episode.query_labels))
    np.testing.assert_allclose(result.accuracies, by_hand)
    assert result.accuracy == statistics.t_interval(by_hand, bounds=(0, 1))
    content = result.to_json()
    assert (content["episodes"], content["ways"], content["shots"]) == (40, 3, 2)


def test_settings_and_centers_do_not_read_test_classes():
    x = features()
    other = np.where(LABELS[:, None] >= 3, features(1) * 100, x)
    methods = ["matchingnet", "simpleshot", "ridge", "laplacianshot"]
    settings = dict(classes=[3, 4, 5], val_classes=[0, 1, 2], episodes=3)
    kept = [
        [
            (r.method, r.val_accuracy)
            for r in episodes.evaluate(
                data, LABELS, methods, SHAPE, val_episodes=5, **settings
            )
        ]
        for data in (x, other)
    ]
    assert kept[0] == kept[1]
    shifted = episodes.evaluate(x + 7.0, LABELS, ["simpleshot"], SHAPE, **settings)
    plain = episodes.evaluate(x, LABELS, ["simpleshot"], SHAPE, **settings)
    np.testing.assert_array_equal(shifted[0].accuracies, plain[0].accuracies)


def test_without_validation_classes_the_first_candidate_is_tested():
    method = episodes.R2D2(strength=(0.3, 5.0))
    [result] = episodes.evaluate(features(), LABELS, {"r": method}, SHAPE, episodes=2)
    assert result.method == episodes.R2D2(strength=0.3)
    assert result.val_accuracy is None


def test_variable_episodes_are_evaluated():
    shape = tl.data.VariableShape(min_ways=2, max_ways=4)
    results = episodes.evaluate(
        features(), LABELS, ["protonet", "tim", "ptmap"], shape, episodes=6
    )
    assert all(0.25 < result.accuracy.mean <= 1 for result in results)
    assert results[0].to_json()["shots"] is None


def test_what_can_not_be_evaluated_is_refused():
    x = features()
    refused = [
        (dict(classes=[0, 1, 2], val_classes=[2, 3]), "val and test overlap in 1"),
        (dict(classes=[0, 1]), "ways=3: there are 2 classes"),
        (dict(episodes=1), "episodes=1"),
        (dict(methods=["tom"]), "there is no 'tom'"),
        (dict(shape=tl.data.FixedShape(3, 5, 4)), "class 0 has 8 examples"),
    ]
    for settings, words in refused:
        settings = {"shape": SHAPE, "methods": ["protonet"], **settings}
        with pytest.raises(UserError, match=words):
            episodes.evaluate(x, LABELS, **settings)
    with pytest.raises(UserError, match="for 48 labels"):
        episodes.evaluate(x[1:], LABELS)
