"""Scores of classes and losses of examples, against scikit-learn."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from jaxtl.evaluation import class_report

RANDOM = np.random.default_rng(0)


def test_classes_have_the_scores_of_scikit_learn():
    labels, predicted = RANDOM.integers(0, 4, (2, 200))
    predicted[predicted == 3] = 2  # class "d" is never predicted
    confusion = metrics.confusion_matrix(labels, predicted, labels=range(4))
    scores = class_report.class_scores(("a", "b", "c", "d"), confusion)
    expected = metrics.precision_recall_fscore_support(
        labels, predicted, zero_division=np.nan
    )
    for i, score in enumerate(scores):
        values = (score.precision, score.recall, score.f1, score.examples)
        np.testing.assert_allclose(values, [part[i] for part in expected])
    assert scores[3].predicted == 0
    assert [score.name for score in scores] == list("abcd")


def test_labels_have_the_scores_of_scikit_learn():
    labels, predicted = RANDOM.integers(0, 2, (2, 100, 3))
    scores = class_report.label_scores(("x", "y", "z"), predicted, labels)
    expected = metrics.precision_recall_fscore_support(labels, predicted)
    for i, score in enumerate(scores):
        values = (score.precision, score.recall, score.f1, score.examples)
        np.testing.assert_allclose(values, [part[i] for part in expected])


def test_losses_add_up_to_those_of_scikit_learn():
    logits, labels = RANDOM.normal(size=(50, 4)) * 5, RANDOM.integers(0, 4, 50)
    losses = class_report.example_losses("classification", logits, labels)
    expected = metrics.log_loss(labels, special.softmax(logits, -1))
    assert losses.mean() == pytest.approx(expected)
    several = RANDOM.integers(0, 2, (50, 4))
    losses = class_report.example_losses("multilabel", logits, several)
    expected = [
        metrics.log_loss(several[:, i], special.expit(logits[:, i])) for i in range(4)
    ]
    assert losses.mean() == pytest.approx(np.sum(expected))
    targets = RANDOM.normal(size=50)
    losses = class_report.example_losses("regression", logits[:, :1], targets)
    expected = metrics.mean_squared_error(targets, logits[:, 0])
    assert losses.mean() == pytest.approx(expected)
    assert class_report.example_losses("language", logits, labels) is None
