"""Thresholds chosen on validation, from the choice to a prediction of an export."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as sk

import jaxtl as tl
from jaxtl.evaluation import evaluate, thresholds

SCORES = {
    "f1": lambda y, g, w: sk.f1_score(y, g, sample_weight=w, zero_division=0),
    "youden": lambda y, g, w: sk.balanced_accuracy_score(
        y, g, sample_weight=w, adjusted=True
    ),
    "accuracy": lambda y, g, w: sk.accuracy_score(y, g, sample_weight=w),
    "matthews": lambda y, g, w: sk.matthews_corrcoef(y, g, sample_weight=w),
}


@given(seed=st.integers(0, 10**6), criterion=st.sampled_from(list(SCORES)))
@settings(max_examples=12, deadline=None)
def test_no_other_threshold_is_better(seed, criterion):
    rng = np.random.default_rng(seed)
    y = (rng.random(25) < 0.3).astype(int)
    y[:2] = 0, 1
    logits = np.stack([np.zeros(25), (y + rng.normal(0, 1.5, 25)).round(1)], axis=1)
    w = rng.integers(0, 3, 25).astype(float)
    w[:2] = 1
    [chosen] = thresholds.choose("classification", logits, y, criterion, w)
    score, margins = SCORES[criterion], logits[:, 1]
    values = np.unique(margins)
    tried = [values[0] - 1, *(values[1:] + values[:-1]) / 2, values[-1] + 1]
    best = max(score(y, (margins > t).astype(int), w) for t in tried)
    ours = score(y, (margins > chosen).astype(int), w)
    assert ours == pytest.approx(best, abs=1e-12)
    decided = thresholds.shifted("classification", logits, np.array([chosen]))
    np.testing.assert_array_equal(decided.argmax(1), margins > chosen)


def test_the_middle_stays_where_it_is_best():
    logits = np.array([[0, -3.0], [0, 3.0]])
    np.testing.assert_array_equal(
        thresholds.choose("classification", logits, np.array([0, 1]), "f1"), [0.0]
    )
    # Labels that are all equal give no reason to move.
    assert thresholds.choose("classification", logits, np.array([1, 1]), "f1") == 0


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    y = (x[:, 0] + rng.normal(0, 1.0, 400) > 1.4).astype(int)
    out = tmp_path_factory.mktemp("threshold")
    np.savez(out / "rare.npz", x=x, y=y, class_names=["well", "sick"])
    exp = tl.Experiment(
        model=tl.models.MLP(widths=()),
        data=tl.data.Arrays(str(out / "rare.npz"), val=0.4, test=0.3),
        metrics={"f1": tl.metrics.FBeta(label="sick"), "auroc": tl.metrics.AUROC()},
        steps=40,
        threshold="f1",
    )
    return out, tl.train(tl.setup(exp, out / "run"))


def test_the_chosen_threshold_decides_everywhere(stored):
    out, result = stored
    model = tl.load_model(out / "run")
    logits, labels = evaluate.predict_split(model, "test")
    p = special.softmax(np.float64(logits), 1)[:, 1]
    threshold = result["thresholds"]["sick"]
    assert threshold != 0.5
    guess = (p > threshold).astype(int)
    values = tl.evaluate(model, "test")
    assert values == pytest.approx(result["test"])
    assert values["accuracy"] == sk.accuracy_score(labels, guess)
    assert values["f1"] == pytest.approx(sk.f1_score(labels, guess))
    assert values["auroc"] == pytest.approx(sk.roc_auc_score(labels, p))
    assert values["nll"] == pytest.approx(sk.log_loss(labels, p), rel=1e-5)
    counts = sk.confusion_matrix(labels, guess)
    np.testing.assert_array_equal(result["details"]["confusion"], counts)
    assert f"p(sick) > {threshold:.3g}" in result["terms"]["threshold"]
    # It is that of the best weights, which "last" is not.
    assert tl.load_model(out / "run", "last").thresholds is None


def test_exports_predict_by_the_threshold(stored):
    from jaxtl.export.predict import predict
    from jaxtl.export.write_bundle import export

    out, result = stored
    folder = export(out / "run", out / "export")
    x = np.load(out / "rare.npz")["x"][:50]
    np.save(out / "x.npy", x)
    predictions = predict(folder, out / "x.npy")
    sick = [row["label"] == "sick" for row in predictions]
    p = [
        row["probability"] if is_sick else 1 - row["probability"]
        for row, is_sick in zip(predictions, sick)
    ]
    assert sick == [value > result["thresholds"]["sick"] for value in p]
    assert any(is_sick != (value > 0.5) for is_sick, value in zip(sick, p))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": "youdan"}, "did you mean 'youden'"),
        ({"threshold": "f1"}, "the task is 10 classes"),
        (
            {"threshold": "f1", "data": tl.data.Digits(classes=("1", "2"), val=0)},
            "is chosen on val",
        ),
    ],
)
def test_errors_name_the_setting(digits, changes, message):
    with pytest.raises(tl.UserError, match=message):
        tl.setup(digits(monitor=None, **changes))


def test_of_equal_thresholds_the_nearest_to_zero_is_chosen():
    candidates = thresholds.gaps(np.array([-4.0, -2.0, 1.0]))
    np.testing.assert_array_equal(candidates, [-5, -3, -0.5, 2])
    quality = np.array([1.0, 1.0, 0.5, 1.0])
    assert thresholds.best_candidate(candidates, quality) == 2
    assert thresholds.best_candidate(candidates[:2], quality[:2]) == -3
