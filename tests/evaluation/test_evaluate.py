"""Evaluation counts every example once, resident and streamed, as scikit-learn does."""

import numpy as np
import pytest
from sklearn import metrics as sk

import jaxtl as tl
from jaxtl.evaluation import evaluate


@pytest.fixture(scope="module")
def run(digits):
    run = tl.setup(digits(evaluate_batch=100, data=tl.data.Digits(val=131, test=0.2)))
    run.advance(6)
    return run


def plain_logits(run, split):
    """The logits of a split from one forward pass, and its rows."""
    data = run.datasets["target"]
    x = data.x[data.rows[split]].astype(np.float32) / 16
    params, stats = run.weights()
    return np.asarray(run.network.apply(params, stats, x).logits), data.rows[split]


@pytest.mark.parametrize("split", ["val", "test", "train"])
def test_padded_batches_are_counted_exactly(run, split):
    logits, rows = plain_logits(run, split)
    assert len(rows) % 100, "the last batch is padded"
    labels = run.datasets["target"].y_clean[rows]
    values = tl.evaluate(run, split)
    guess = logits.argmax(-1)
    p = np.exp(np.float64(logits) - np.logaddexp.reduce(logits, -1, keepdims=True))
    assert values["accuracy"] == sk.accuracy_score(labels, guess)
    assert values["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels, guess)
    )
    assert values["macro_f1"] == pytest.approx(
        sk.f1_score(labels, guess, average="macro")
    )
    p /= p.sum(-1, keepdims=True)
    assert values["nll"] == pytest.approx(
        sk.log_loss(labels, p, labels=range(10)), rel=1e-5
    )


def test_logits_are_in_the_order_of_the_rows(run):
    params, stats = run.weights()
    logits, labels = evaluate.predict_with_weights(run, params, stats, "val")
    expected, rows = plain_logits(run, "val")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(labels, run.datasets["target"].y[rows])


@pytest.mark.parametrize("size", [1, 130, 131, 132, 10_000])
def test_the_batch_size_does_not_matter(run, digits, size, monkeypatch):
    import dataclasses

    before = tl.evaluate(run, "val")
    monkeypatch.setattr(run, "exp", dataclasses.replace(run.exp, evaluate_batch=size))
    assert tl.evaluate(run, "val") == pytest.approx(before, rel=1e-5)


def test_resident_and_streamed_runs_are_the_same(digits):
    pytest.importorskip("grain")
    resident, streamed = (
        tl.setup(digits(device_bytes=size, data=tl.data.Digits(labels_per_class=20)))
        for size in (2**30, 0)
    )
    assert streamed.parts.program.host_streams == ("target",)
    a, b = resident.advance(6), streamed.advance(6)
    for expected, actual in zip(a, b):
        assert {k: float(v) for k, v in expected.items()} == pytest.approx(
            {k: float(v) for k, v in actual.items()}, rel=1e-5
        )
    np.testing.assert_allclose(
        resident.params["head"]["dense"]["kernel"],
        streamed.params["head"]["dense"]["kernel"],
        rtol=1e-4,
        atol=1e-6,
    )
    for split in ("val", "test"):
        assert tl.evaluate(resident, split) == pytest.approx(
            tl.evaluate(streamed, split), rel=1e-4
        )


def test_noisy_labels_are_those_of_train_only(digits):
    run = tl.setup(digits(data=tl.data.Digits(label_noise=0.5), steps=0))
    data = run.datasets["target"]
    params, stats = run.weights()
    for split in ("train", "val", "test"):
        labels = evaluate.predict_with_weights(run, params, stats, split)[1]
        clean = data.y_clean[data.rows[split]]
        assert (labels == clean).mean() == pytest.approx(
            0.5 if split == "train" else 1.0, abs=0.01
        )


def test_the_best_weights_are_those_of_the_best_evaluation(digits):
    run = tl.setup(digits(monitor="nll", evaluate_every=2, steps=8))
    for index, value in ((0, 3.0), (1, 1.0), (2, 2.0), (3, float("nan"))):
        run.update_best({"nll": value})
        if index == 1:
            best = np.asarray(run.params["head"]["dense"]["kernel"])
        run.advance(2)
    assert run.best["value"] == 1.0
    kernel = run.weights("best")[0]["head"]["dense"]["kernel"]
    np.testing.assert_array_equal(kernel, best)
    assert not np.array_equal(run.params["head"]["dense"]["kernel"], best)


def test_any_value_replaces_a_nan(digits):
    run = tl.setup(digits(monitor="nll"))
    assert run.update_best({"nll": float("nan")})
    assert run.update_best({"nll": 7.0})
    assert not run.update_best({"nll": 7.0}), "the first of equals is kept"
    assert not run.update_best({"nll": float("nan")})


def test_unknown_splits_and_weights_raise(run):
    with pytest.raises(tl.UserError, match=r"no split 'tset'; did you mean 'test'"):
        tl.evaluate(run, "tset")
    with pytest.raises(tl.UserError, match="which='worst': expected 'current' or"):
        tl.evaluate(run, "val", which="worst")
