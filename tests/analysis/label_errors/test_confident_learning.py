"""Confident learning: against loops over the paper's definitions, and cleanlab's."""

import numpy as np
import pytest

from jaxtl.analysis.label_errors import confident_learning, find_label_errors
from jaxtl.core.errors import UserError


def _noisy(seed=0, n=300, classes=4, rate=0.25):
    """Returns (given labels, true labels, probabilities of a decent model)."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    given = true.copy()
    hit = rng.random(n) < rate
    given[hit] = (true[hit] + 1 + rng.integers(0, 2, hit.sum())) % classes
    logits = 4.0 * np.eye(classes)[true] + rng.normal(size=(n, classes))
    p = np.exp(logits)
    return given, true, p / p.sum(1, keepdims=True)


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


def test_the_confident_joint_is_the_papers():
    labels, _, p = _noisy()
    found = find_label_errors(labels, p)
    thresholds, counts = _joint_by_loops(labels, p)
    np.testing.assert_allclose(found.thresholds, thresholds, rtol=1e-12)
    np.testing.assert_array_equal(found.confident, counts)
    share = counts / counts.sum(1, keepdims=True)
    joint = share * np.bincount(labels)[:, None]
    np.testing.assert_allclose(found.joint, joint / joint.sum(), rtol=1e-12)
    # Its margin over true labels is the given labels' distribution, as eq. 3 wants.
    np.testing.assert_allclose(found.joint.sum(1), np.bincount(labels) / len(labels))
    by_true = found.joint / found.joint.sum(0)
    np.testing.assert_allclose(found.transition, by_true.T, rtol=1e-12)


@pytest.mark.parametrize("method", confident_learning.METHODS)
def test_the_list_is_ranked_and_by_definition(method):
    labels, true, p = _noisy(seed=1)
    found = find_label_errors(labels, p, method)
    wanted = set()
    if method == "confident_joint":
        thresholds, _ = _joint_by_loops(labels, p)
        for x, row in enumerate(p):
            above = [j for j in range(4) if row[j] >= thresholds[j]]
            if above and max(above, key=lambda j: row[j]) != labels[x]:
                wanted.add(x)
    else:
        for i in range(4):
            for j in set(range(4)) - {i}:
                mine = [x for x in range(len(p)) if labels[x] == i]
                mine.sort(key=lambda x: p[x, i] - p[x, j])
                wanted |= set(mine[: round(len(p) * found.joint[i, j])])
    wanted = {x for x in wanted if p[x].argmax() != labels[x]}
    assert set(found.rows.tolist()) == wanted
    assert (np.diff(found.score) >= 0).all()
    for x, given, suggested, score in zip(*found[:4]):
        assert given == labels[x]
        assert suggested == p[x].argmax() != given
        rest = max(p[x, j] for j in range(4) if j != given)
        assert score == pytest.approx(p[x, given] - rest)
    wrong = labels != true
    assert wrong[found.rows].mean() > 0.9 > 3 * wrong.mean()


def test_the_transition_is_that_of_the_noise():
    labels, true, p = _noisy(seed=2, n=6000)
    counts = np.zeros((4, 4))
    np.add.at(counts, (true, labels), 1)
    found = find_label_errors(labels, p).transition
    np.testing.assert_allclose(found, counts / counts.sum(1, keepdims=True), atol=0.03)


def test_it_is_cleanlabs():
    cleanlab = pytest.importorskip("cleanlab", reason="an oracle, pip install cleanlab")
    names = {
        "prune_by_noise_rate": "prune_by_noise_rate",
        "confident_joint": "confident_learning",
    }
    for seed in range(3):
        labels, _, p = _noisy(seed)
        for method, theirs in names.items():
            found = find_label_errors(labels, p, method)
            count = cleanlab.count.compute_confident_joint(labels, p, calibrate=False)
            # cleanlab keeps at least one count on the diagonal; ours has more there.
            np.testing.assert_array_equal(found.confident, count)
            issues = cleanlab.filter.find_label_issues(
                labels, p, filter_by=theirs, n_jobs=1
            )
            ours = np.zeros(len(labels), bool)
            ours[found.rows] = True
            # Their calibrated joint is rounded to whole examples.
            assert (ours != issues).sum() <= (0 if method == "confident_joint" else 6)
        score = cleanlab.rank.get_normalized_margin_for_each_label(labels, p)
        margins = confident_learning.margins(labels, p)
        np.testing.assert_allclose(score, (margins + 1) / 2, rtol=1e-6)


def test_edges():
    p = np.asarray([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    one = find_label_errors(np.asarray([0, 0, 0]), p)  # a class that nobody has
    assert np.isinf(one.thresholds[1])
    assert np.isfinite(one.joint).all()
    np.testing.assert_array_equal(one.transition.sum(1), 1)
    assert len(one.rows) == 0
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
def test_errors(labels, p, method, message):
    with pytest.raises(UserError, match=message):
        find_label_errors(np.asarray(labels), p, method or "confident_joint")
