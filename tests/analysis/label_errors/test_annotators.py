"""Dawid–Skene: the paper's anesthetists, a plain loop, and simulated annotators."""

import numpy as np
import pytest

from jaxtl.analysis import label_errors
from jaxtl.analysis.label_errors.annotators import dawid_skene
from jaxtl.core.errors import UserError

# Table 1 of Dawid & Skene (1979): 45 patients; observer 1 judged thrice, 2 to 5 once.
ANESTHESIA = """
111 1 1 1 1|333 4 3 3 4|112 2 1 2 2|222 3 1 2 1|222 3 2 2 2|222 3 3 2 2|122 2 1 1 1|
333 3 4 3 3|222 2 2 2 3|232 2 2 2 3|444 4 4 4 4|222 3 3 4 3|111 1 1 1 1|222 3 2 1 2|
121 1 1 1 1|111 2 1 1 1|111 1 1 1 1|111 1 1 1 1|222 2 2 2 1|222 1 3 2 2|222 2 2 2 2|
222 2 2 2 1|222 3 2 2 2|221 2 2 2 2|111 1 1 1 1|111 1 1 1 1|232 2 2 2 2|111 1 1 1 1|
111 1 1 1 1|112 1 1 2 1|111 1 1 1 1|333 3 2 3 3|111 1 1 1 1|222 2 2 2 2|222 3 2 3 2|
433 4 3 4 3|221 2 2 3 2|232 3 2 3 3|333 3 4 3 2|111 1 1 1 1|111 1 1 1 1|121 2 1 1 1|
232 2 2 2 2|121 1 1 1 1|222 2 2 2 2
"""


def _counts():
    patients = ANESTHESIA.replace("\n", "").split("|")
    counts = np.zeros((45, 5, 4))
    for i, patient in enumerate(patients):
        for observer, said in enumerate(patient.split()):
            for grade in said:
                counts[i, observer, int(grade) - 1] += 1
    return counts


def _em_by_loops(counts, iterations):
    """The paper's equations, one product at a time."""
    items, observers, classes = counts.shape
    posterior = counts.sum(1) / counts.sum((1, 2))[:, None]
    for _ in range(iterations):
        prior = [sum(posterior[:, j]) / items for j in range(classes)]
        error = np.zeros((observers, classes, classes))
        for k in range(observers):
            for j in range(classes):
                for said in range(classes):
                    pairs = zip(posterior[:, j], counts[:, k, said])
                    error[k, j, said] = sum(t * n for t, n in pairs)
                error[k, j] /= error[k, j].sum()
        total = 0.0
        for i in range(items):
            joint = []
            for j in range(classes):
                likely = prior[j]
                for k in range(observers):
                    for said in range(classes):
                        likely *= error[k, j, said] ** counts[i, k, said]
                joint.append(likely)
            posterior[i] = np.asarray(joint) / sum(joint)
            total += np.log(sum(joint))
    return posterior, error, prior, total


def test_the_papers_anesthetists_are_reproduced():
    estimates = dawid_skene(_counts())
    # The classes' shares in the paper's table 2.
    np.testing.assert_allclose(estimates.prior.round(2), [0.40, 0.42, 0.11, 0.07])
    posterior, error, prior, likelihood = _em_by_loops(_counts(), 200)
    estimates = dawid_skene(_counts(), iterations=200, tolerance=-np.inf)
    np.testing.assert_allclose(estimates.posterior, posterior, atol=1e-9)
    np.testing.assert_allclose(estimates.confusion, error, atol=1e-9)
    np.testing.assert_allclose(estimates.prior, prior, atol=1e-9)
    assert estimates.log_likelihood == pytest.approx(likelihood)
    assert estimates.iterations == 200
    # Patients on whom all observers agree.
    agreed = [(0, 0), (10, 3), (12, 0), (20, 1), (33, 1), (44, 1)]
    assert [(i, estimates.labels[i]) for i, _ in agreed] == agreed


def test_the_likelihood_never_falls():
    counts = _counts()
    values = [
        dawid_skene(counts, iterations=i, tolerance=-np.inf).log_likelihood
        for i in range(1, 30)
    ]
    assert (np.diff(values) >= -1e-9).all()


def _simulated(rng, items=2000, classes=3):
    true = rng.integers(0, classes, items)
    skill = [0.9, 0.75, 0.6, 0.5, 0.2]  # the last one is worse than chance
    confusion = np.stack([np.full((3, 3), (1 - s) / 2) for s in skill])
    for a, s in enumerate(skill):
        np.fill_diagonal(confusion[a], s)
    said = np.stack(
        [
            [rng.choice(classes, p=confusion[a, t]) for t in true]
            for a in range(len(skill))
        ],
        axis=1,
    )
    said[rng.random(said.shape) < 0.2] = -1
    said[:, 0] = np.where((said < 0).all(1), true, said[:, 0])
    return true, confusion, said


def test_simulated_annotators_are_recovered_and_beat_the_vote():
    true, confusion, said = _simulated(np.random.default_rng(0))
    estimates = dawid_skene(said)
    np.testing.assert_allclose(estimates.confusion, confusion, atol=0.08)
    votes = (said[..., None] == np.arange(3)).sum(1).argmax(1)
    assert np.mean(estimates.labels == true) > np.mean(votes == true) + 0.02
    np.testing.assert_allclose(estimates.posterior.sum(1), 1)


def test_estimates_agree_with_crowd_kit():
    kit = pytest.importorskip(
        "crowdkit.aggregation", reason="an oracle, pip install crowd-kit"
    )
    import pandas

    _, _, said = _simulated(np.random.default_rng(1))
    task, worker = np.nonzero(said >= 0)
    frame = pandas.DataFrame(
        {"task": task, "worker": worker, "label": said[task, worker]}
    )
    reference = kit.DawidSkene(n_iter=50, tol=0).fit(frame)
    estimates = dawid_skene(said, iterations=50, tolerance=-np.inf)
    p = reference.probas_.sort_index()[[0, 1, 2]].to_numpy()
    np.testing.assert_allclose(estimates.posterior, p, atol=1e-3)


def test_single_annotators_and_long_products_give_finite_estimates():
    # One annotator, who names one class; nobody names the second one.
    estimates = dawid_skene(np.asarray([[0], [0], [0]]), classes=2)
    np.testing.assert_array_equal(estimates.labels, 0)
    np.testing.assert_allclose(estimates.confusion[0], [[1, 0], [0.5, 0.5]])
    assert np.isfinite(estimates.log_likelihood)
    counts = np.zeros((2, 2000, 2))
    counts[0, :, 0] = counts[1, :, 1] = 1  # their product underflows
    assert np.isfinite(dawid_skene(counts).posterior).all()


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (np.zeros(3, int), "whole numbers"),
        (np.zeros((3, 2)), "float64"),
        (np.asarray([[0, 1], [-1, -1]]), "nobody annotated item 1"),
        (np.asarray([[0, -2]]), "class -2"),
        (-np.ones((2, 2, 2)), "at least 0"),
    ],
)
def test_invalid_annotations_raise(annotations, message):
    with pytest.raises(UserError, match=message):
        dawid_skene(annotations)
    with pytest.raises(UserError, match="class 5"):
        dawid_skene(np.asarray([[0, 5]]), classes=3)
    assert label_errors.dawid_skene is dawid_skene
