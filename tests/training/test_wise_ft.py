"""Runs that end at a point of the line from θ₀ to their trained weights."""

import dataclasses

import numpy as np
import pytest

import jaxtl as tl


def test_a_run_can_end_at_the_point_of_the_line_that_val_chooses(digits, tmp_path):
    source = digits(steps=30)
    tl.train(tl.setup(source, tmp_path / "source"), progress=False)
    init = tl.pretrained.FromRun(str(tmp_path / "source"))
    alphas = (0.0, 0.25, 0.5, 0.75, 1.0)
    exp = digits(init=init, steps=40, data=tl.data.Digits(labels_per_class=3))
    plain = tl.setup(exp)
    tl.train(plain, progress=False)
    tuned = plain.weights("best")[0]
    run = tl.setup(dataclasses.replace(exp, wise_ft=alphas))
    result = tl.train(run, progress=False)
    # Every point by numpy on the two ends' weights, the best by accuracy.
    ends = [
        {k: np.float64(v) for k, v in tl.tree.flatten(tree).items()}
        for tree in (plain.source.params, tuned)
    ]
    dataset = plain.parts.datasets["target"]
    rows = dataset.rows["val"]
    x = np.float64(tl.data.preprocess.apply(plain.preprocess, dataset.x[rows]))
    scores = []
    for alpha in alphas:
        w = {k: (1 - alpha) * ends[0][k] + alpha * ends[1][k] for k in ends[0]}
        h = x.reshape(len(x), -1) @ w["layer1/dense/kernel"] + w["layer1/dense/bias"]
        z = np.maximum(h, 0) @ w["head/dense/kernel"] + w["head/dense/bias"]
        scores.append(np.mean(z.argmax(1) == dataset.y_clean[rows]))
    best = max(zip(scores, alphas))
    assert result["val"]["accuracy"] == pytest.approx(best[0])
    assert result["terms"]["wise_ft"] == f"α = {best[1]:g} chosen on val"
    assert result["drift"] == pytest.approx(best[1] * _distance(*ends), rel=1e-4)


def _distance(a, b):
    return np.sqrt(sum(np.sum((a[k] - b[k]) ** 2) for k in a))


@pytest.mark.parametrize("wrong", [(1.5,), (-0.1, 0.5)])
def test_alphas_outside_zero_and_one_raise(digits, wrong):
    with pytest.raises(tl.UserError, match=r"wise_ft=.*\[0, 1\]"):
        digits(wise_ft=wrong)


def test_wise_ft_of_a_run_from_scratch_raises(digits):
    with pytest.raises(tl.UserError, match="starts from scratch"):
        tl.setup(digits(wise_ft=(0.5,)))
