"""Confident learning against loops over the paper's definitions and cleanlab."""

import numpy as np
import pytest

from jaxtl.analysis.label_errors import confident_learning, find_label_errors
from jaxtl.core.errors import UserError


def _noisy(seed=0, n=300, classes=4, rate=0.25):
    """Given labels, true labels, and probabilities of a good model."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    labels = true.copy()
    hit = rng.random(n) < rate
    labels[hit] = (true[hit] + 1 + rng.integers(0, 2, hit.sum())) % classes
    logits = 4.0 * np.eye(classes)[true] + rng.normal(size=(n, classes))
    p = np.exp(logits)
    return labels, true, p / p.sum(1, keepdims=True)


def _joint_by_loops(labels, p):
    n, classes = p.shape
    thresholds = [
        sum(p[x, j] for x in range(n) if labels[x] == j)
        / sum(1 for x in range(n) if labels[x] == j)
        for j in range(classes)
    ]
    counts = np.zeros((classes, classes), int)
    for x in range(n):
        above = [j for j in range(classes) if p[x, j] >= thresholds[j]]
        if above:
            counts[labels[x], max(above, key=lambda j: p[x, j])] += 1
    return thresholds, counts


def test_the_joint_follows_the_papers_definition():
    labels, _, p = _noisy()
    errors = find_label_errors(labels, p)
    thresholds, counts = _joint_by_loops(labels, p)
    np.testing.assert_allclose(errors.thresholds, thresholds, rtol=1e-12)
    np.testing.assert_array_equal(errors.confident, counts)
    share = counts / counts.sum(1, keepdims=True)
    joint = share * np.bincount(labels)[:, None]
    np.testing.assert_allclose(errors.joint, joint / joint.sum(), rtol=1e-12)
    # Its sums over true labels are the given labels' distribution, as eq. 3 requires.
    np.testing.assert_allclose(errors.joint.sum(1), np.bincount(labels) / len(labels))
    by_true = errors.joint / errors.joint.sum(0)
    np.testing.assert_allclose(errors.transition, by_true.T, rtol=1e-12)


@pytest.mark.parametrize("method", confident_learning.METHODS)
def test_label_errors_are_ranked_and_follow_the_definition(method):
    labels, true, p = _noisy(seed=1)
    errors = find_label_errors(labels, p, method)
    expected = set()
    if method == "confident_joint":
        thresholds, _ = _joint_by_loops(labels, p)
        for x, row in enumerate(p):
            above = [j for j in range(4) if row[j] >= thresholds[j]]
            if above and max(above, key=lambda j: row[j]) != labels[x]:
                expected.add(x)
    else:
        for i in range(4):
            for j in set(range(4)) - {i}:
                rows = [x for x in range(len(p)) if labels[x] == i]
                rows.sort(key=lambda x: p[x, i] - p[x, j])
                expected |= set(rows[: round(len(p) * errors.joint[i, j])])
    expected = {x for x in expected if p[x].argmax() != labels[x]}
    assert set(errors.rows.tolist()) == expected
    assert (np.diff(errors.score) >= 0).all()
    for x, label, suggested, score in zip(*errors[:4]):
        assert label == labels[x]
        assert suggested == p[x].argmax() != label
        largest_other = max(p[x, j] for j in range(4) if j != label)
        assert score == pytest.approx(p[x, label] - largest_other)
    wrong = labels != true
    assert wrong[errors.rows].mean() > 0.9 > 3 * wrong.mean()


def test_the_transition_recovers_the_noise():
    labels, true, p = _noisy(seed=2, n=6000)
    counts = np.zeros((4, 4))
    np.add.at(counts, (true, labels), 1)
    transition = find_label_errors(labels, p).transition
    np.testing.assert_allclose(
        transition, counts / counts.sum(1, keepdims=True), atol=0.03
    )


def test_label_errors_agree_with_cleanlab():
    cleanlab = pytest.importorskip("cleanlab", reason="an oracle, pip install cleanlab")
    names = {
        "prune_by_noise_rate": "prune_by_noise_rate",
        "confident_joint": "confident_learning",
    }
    for seed in range(3):
        labels, _, p = _noisy(seed)
        for method, filter_name in names.items():
            errors = find_label_errors(labels, p, method)
            count = cleanlab.count.compute_confident_joint(labels, p, calibrate=False)
            # cleanlab has at least one count on the diagonal; here there are more.
            np.testing.assert_array_equal(errors.confident, count)
            issues = cleanlab.filter.find_label_issues(
                labels, p, filter_by=filter_name, n_jobs=1
            )
            wrong = np.zeros(len(labels), bool)
            wrong[errors.rows] = True
            # Their calibrated joint is rounded to whole examples.
            assert (wrong != issues).sum() <= (0 if method == "confident_joint" else 6)
        score = cleanlab.rank.get_normalized_margin_for_each_label(labels, p)
        margins = confident_learning.margins(labels, p)
        np.testing.assert_allclose(score, (margins + 1) / 2, rtol=1e-6)


def test_an_absent_class_and_perfect_predictions_give_no_errors():
    p = np.asarray([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    errors = find_label_errors(np.asarray([0, 0, 0]), p)  # a class that nobody has
    assert np.isinf(errors.thresholds[1])
    assert np.isfinite(errors.joint).all()
    np.testing.assert_array_equal(errors.transition.sum(1), 1)
    assert len(errors.rows) == 0
    perfect = find_label_errors(np.asarray([0, 0, 1]), np.eye(2)[[0, 0, 1]])
    assert len(perfect.rows) == 0
    np.testing.assert_array_equal(perfect.transition, np.eye(2))


@pytest.mark.parametrize(
    ("labels", "p", "method", "message"),
    [
        ([0, 1], np.full((3, 2), 0.5), None, "3 whole numbers"),
        ([0, 1, 2], np.full((3, 2), 0.5), None, "hold the class 2"),
        ([0, 1, 1], np.full((3, 2), 0.6), None, "row 0 sums to 1.2"),
        ([0, 1, 1], np.full((3, 1), 1.0), None, "at least two classes"),
        ([0, 1, 1], np.full((3, 2), 0.5), "confident_joit", "did you mean"),
    ],
)
def test_invalid_labels_probabilities_and_methods_raise(labels, p, method, message):
    with pytest.raises(UserError, match=message):
        find_label_errors(np.asarray(labels), p, method or "confident_joint")
