"""Classical baselines against scikit-learn on the same rows; their dependencies."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from sklearn import (
    compose,
    ensemble,
    linear_model,
    metrics,
    multioutput,
    neighbors,
    pipeline,
    preprocessing,
    svm,
)
from sklearn.feature_extraction.text import TfidfVectorizer

import jaxtl as tl
from jaxtl.analysis import baselines, linear_probe
from jaxtl.analysis.baselines import inputs
from jaxtl.core import serialization
from jaxtl.core.errors import UserError
from jaxtl.data import preparation

DIGITS = tl.data.Digits(labels_per_class=12, split_seed=0, val=200)
NOISY = dataclasses.replace(DIGITS, label_noise=0.25)


def split_digits(data, seed=0):
    """Rows {split: (x, y)} of the digits; labels of train are the given ones."""
    dataset = preparation.prepare(data, seed)
    flat = dataset.x.reshape(len(dataset.x), -1) / 16.0
    y = {"train": dataset.y, "val": dataset.y_clean, "test": dataset.y_clean}
    return {n: (flat[dataset.rows[n]], y[n][dataset.rows[n]]) for n in y}


def log_loss(y, p):
    p = np.maximum(p, 1e-12)
    return metrics.log_loss(y, p / p.sum(1, keepdims=True))


@pytest.mark.parametrize("data", [DIGITS, NOISY], ids=["clean", "noisy"])
def test_the_choice_and_the_scores_agree_with_scikit_learn(digits, data):
    method = tl.baselines.KNN(neighbors=(1, 3, 7), weights=("uniform", "distance"))
    result = baselines.run(method, digits(data=data), seed=3)
    split = split_digits(data, seed=3)
    scores = {}
    for k, weights in itertools.product((1, 3, 7), ("uniform", "distance")):
        classifier = neighbors.KNeighborsClassifier(k, weights=weights).fit(
            *split["train"]
        )
        scores[k, weights] = classifier.score(*split["val"]), classifier
    best = max(scores, key=lambda s: scores[s][0])
    assert tuple(result["chosen_settings"].values()) == best
    tried = [row["accuracy"] for row in result["tried"]]
    assert tried == pytest.approx([score for score, _ in scores.values()])
    classifier, (x, y) = scores[best][1], split["test"]
    assert result["val"]["accuracy"] == pytest.approx(scores[best][0])
    assert result["test"]["accuracy"] == pytest.approx(classifier.score(x, y))
    nll = log_loss(y, classifier.predict_proba(x))
    assert result["test"]["nll"] == pytest.approx(nll, rel=1e-6)
    f1 = metrics.f1_score(y, classifier.predict(x), average="macro")
    assert result["test"]["macro_f1"] == pytest.approx(f1)
    counts = metrics.confusion_matrix(y, classifier.predict(x)).tolist()
    assert result["details"]["confusion"] == counts
    assert result["details"]["split"] == "test"
    assert result["details"]["classes"] == [str(i) for i in range(10)]
    assert result["seed"] == 3
    assert result["monitor"] == "accuracy"
    sizes = {n: len(y) for n, (_, y) in split.items()}
    assert {n: result["examples"][n] for n in sizes} == sizes
    assert sizes["train"] == 120
    json.dumps(result, allow_nan=False)


METHODS = [
    (tl.baselines.LogisticRegression(C=0.5), linear_model.LogisticRegression(C=0.5)),
    (tl.baselines.SVM(C=3, gamma="auto"), svm.SVC(C=3, gamma="auto")),
    (tl.baselines.SVM(C=0.1, kernel="linear"), svm.LinearSVC(C=0.1, random_state=5)),
    (
        tl.baselines.RandomForest(trees=20, leaf=2, depth=6),
        ensemble.RandomForestClassifier(
            20, min_samples_leaf=2, max_depth=6, random_state=5
        ),
    ),
    (
        tl.baselines.GradientBoosting(iterations=4, rate=0.3, leaves=5, leaf=3),
        ensemble.HistGradientBoostingClassifier(
            max_iter=4, learning_rate=0.3, max_leaf_nodes=5, min_samples_leaf=3
        ),
    ),
]


@pytest.mark.parametrize(
    ("method", "reference"), METHODS, ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("standardize", [False, True])
def test_every_method_agrees_with_scikit_learn(digits, method, reference, standardize):
    method = dataclasses.replace(method, standardize=standardize)
    result = baselines.run(method, digits(data=NOISY, seed=5))
    split = split_digits(NOISY, seed=5)
    reference = pipeline.make_pipeline(
        preprocessing.StandardScaler() if standardize else None, reference
    ).fit(*split["train"])
    for name in ("val", "test"):
        x, y = split[name]
        # Between float32 and float64 an example near a border may change sides.
        tolerance = 1.5 / len(y)
        assert result[name]["accuracy"] == pytest.approx(
            reference.score(x, y), abs=tolerance
        )
        if method.probabilities:
            nll = log_loss(y, reference.predict_proba(x))
            assert result[name]["nll"] == pytest.approx(nll, rel=2e-3)
        else:
            assert set(result[name]) == {"accuracy", "balanced_accuracy", "macro_f1"}
            assert "reliability" not in result["details"]


def test_labels_of_test_do_not_influence_the_choice(digits, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 4)), rng.integers(0, 3, 90)
    x[np.arange(90), y] += 1.5
    parts = {"x_train": x[:60], "y_train": y[:60], "x_test": x[60:]}
    data = {}
    for name, labels in (("true", y[60:]), ("poisoned", (y[60:] + 1) % 3)):
        np.savez(tmp_path / f"{name}.npz", **parts, y_test=labels)
        data[name] = tl.data.Arrays(str(tmp_path / f"{name}.npz"), val=20)
    for method in (baselines.KNN(), baselines.LogisticRegression()):
        true, poisoned = (baselines.run(method, digits(data=d)) for d in data.values())
        unseen = baselines.run(method, digits(data=data["poisoned"], test=False))
        for field in ("chosen_settings", "tried", "val"):
            assert true[field] == poisoned[field] == unseen[field]
        assert poisoned["test"]["accuracy"] < 0.4 < 0.5 < true["test"]["accuracy"]
        assert "test" not in unseen
        assert unseen["details"]["split"] == "val"


def test_the_monitor_chooses_and_an_svm_falls_back_to_accuracy(digits):
    exp = digits(data=DIGITS, monitor="nll")
    method = baselines.KNN(neighbors=(1, 9))
    assert baselines.run(method, exp)["chosen_settings"]["neighbors"] == 9
    unmonitored = baselines.run(method, digits(data=DIGITS, monitor=None))
    assert unmonitored["chosen_settings"]["neighbors"] == 1
    assert baselines.run(baselines.SVM(), exp)["monitor"] == "accuracy"
    with pytest.raises(
        UserError, match=r"monitor='acuracy' is not a metric.*'accuracy'"
    ):
        baselines.run(method, digits(data=DIGITS, monitor="acuracy"))


def test_refitting_on_val_does_not_change_its_score(digits):
    method = baselines.LogisticRegression(C=(0.1, 1.0), refit="train+val")
    refitted = baselines.run(method, digits(data=NOISY))
    plain = baselines.run(
        dataclasses.replace(method, refit="train"), digits(data=NOISY)
    )
    assert refitted["val"] == plain["val"]
    split = split_digits(NOISY)
    x, y = (np.concatenate(both) for both in zip(split["train"], split["val"]))
    C = refitted["chosen_settings"]["C"]
    reference = linear_model.LogisticRegression(C=C, max_iter=5000).fit(x, y)
    score = reference.score(*split["test"])
    assert refitted["test"]["accuracy"] == pytest.approx(score, abs=1.5 / 359)
    assert refitted["test"]["accuracy"] > plain["test"]["accuracy"]


def test_the_seed_determines_a_result(digits):
    method = baselines.RandomForest(trees=5, leaf=1)
    data = tl.data.Digits(split_seed=0)
    first, repeated, other_seed = (
        baselines.run(method, digits(data=data), seed, jobs=jobs)
        for seed, jobs in ((1, 1), (1, 2), (2, 1))
    )
    assert first["test"] == repeated["test"] != other_seed["test"]
    assert first["examples"] == other_seed["examples"]


def regression_data(tmp_path, targets):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(160, 5)).astype(np.float32)
    y = 1000 * np.tanh(x @ rng.normal(size=(5, targets))) + 5e3
    y = y.astype(np.float32) if targets > 1 else y[:, 0].astype(np.float32)
    np.savez(tmp_path / f"{targets}.npz", x=x, y=y)
    data = tl.data.Arrays(str(tmp_path / f"{targets}.npz"), split_seed=0, val=40)
    dataset = preparation.prepare(data, 0)
    assert dataset.task == "regression"
    return data, {n: (x[r], y[r]) for n, r in dataset.rows.items()}


def regressors(several):
    per_target = multioutput.MultiOutputRegressor if several else (lambda model: model)
    machine = compose.TransformedTargetRegressor(
        regressor=per_target(svm.SVR(C=10)), transformer=preprocessing.StandardScaler()
    )
    boosted = per_target(
        ensemble.HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5)
    )
    forest = ensemble.RandomForestRegressor(10, min_samples_leaf=2, random_state=0)
    return [
        (baselines.KNN(neighbors=4), neighbors.KNeighborsRegressor(4)),
        (baselines.Ridge(alpha=2.0), linear_model.Ridge(alpha=2.0)),
        (baselines.SVM(C=10), machine),
        (baselines.RandomForest(trees=10, leaf=2), forest),
        (baselines.GradientBoosting(iterations=20, leaf=5), boosted),
    ]


@pytest.mark.parametrize("targets", [1, 2])
def test_regression_agrees_with_scikit_learn(digits, tmp_path, targets):
    data, split = regression_data(tmp_path, targets)
    for method, reference in regressors(targets > 1):
        result = baselines.run(method, digits(data=data))
        reference.fit(*(np.float64(a) for a in split["train"]))
        for name in ("val", "test"):
            x, y = split[name]
            expected = metrics.mean_squared_error(y, reference.predict(x))
            assert result[name]["mse"] == pytest.approx(expected, rel=0.02)
        assert result["monitor"] == "mse"
        assert "details" not in result
        json.dumps(result, allow_nan=False)
    result = baselines.run(baselines.Ridge(alpha=(1e-3, 1e6)), digits(data=data))
    assert result["chosen_settings"] == {"alpha": 1e-3}, "the smaller error is chosen"


def mlp_features(exp, stage):
    """Features {split: array} of an MLP's stage, computed in numpy."""
    run = tl.setup(exp)
    data = run.parts.datasets["target"]
    h = data.x.reshape(len(data.x), -1) / np.float32(16)
    for name in run.network.stages:
        dense = run.params[name]["dense"]
        h = np.maximum(h @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 0)
        if name == stage:
            return {n: h[rows] for n, rows in data.rows.items()}


def test_a_stage_gives_the_features_that_a_probe_reads(digits, tmp_path):
    model = tl.models.MLP(widths=(12, 8), dropout=0.3)
    trained = tl.setup(digits(model=model, data=DIGITS, steps=60), tmp_path / "run")
    tl.train(trained, progress=False)
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    exp = digits(model=model, data=NOISY, init=init)
    data, splits = inputs.dataset(exp), ("train", "val", "test")
    features = inputs.matrices("layer2", exp, data, splits)
    assert features.keys() == set(splits)
    probed = linear_probe.features(tl.setup(exp), ("layer2",), splits)
    expected = mlp_features(exp, "layer2")
    for name in splits:
        np.testing.assert_array_equal(features[name], probed[name]["layer2"])
        np.testing.assert_allclose(features[name], expected[name], rtol=1e-4, atol=1e-5)
    cached = inputs.matrices("last", dataclasses.replace(exp, steps=9), data, splits)
    assert all(cached[name] is features[name] for name in splits), "computed once"
    changed = inputs.matrices(
        "layer2", dataclasses.replace(exp, init=None), data, splits
    )
    assert np.abs(changed["train"] - features["train"]).max() > 0.1
    result = baselines.run(baselines.LogisticRegression(features="last", C=1.0), exp)
    reference = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=5000)
    ).fit(expected["train"], data.y[data.rows["train"]])
    for name in ("val", "test"):
        y = data.y_clean[data.rows[name]]
        score = reference.score(expected[name], y)
        assert result[name]["accuracy"] == pytest.approx(score, abs=1.5 / len(y))
    changed = baselines.run(
        baselines.LogisticRegression(features="last", C=1.0, standardize=False), exp
    )
    assert changed["val"] != result["val"]


def test_settings_of_training_do_not_influence_a_baseline(digits):
    exp = digits(
        data=DIGITS,
        optim=tl.optim.AdamW(groups={"nothing_of_the_kind": 0.1}),
        batch=7,
        devices=99,
        peft=tl.peft.LoRA(rank=2),
        terms={"sp": tl.regularizers.L2SP()},
    )
    default = digits(data=DIGITS)
    method = baselines.KNN(features="layer1", neighbors=3)
    assert baselines.run(method, exp)["test"] == baselines.run(method, default)["test"]
    assert baselines.key(method, exp) == baselines.key(method, default)


def test_keys_differ_in_the_settings_that_a_baseline_depends_on(digits):
    exp = digits(data=DIGITS)
    changes = {
        "training": {"optim": tl.optim.SGD(lr=1.0), "steps": 9, "batch": 5},
        "model": {"model": tl.models.MLP(widths=(3,))},
        "init": {"init": tl.pretrained.FromRun("somewhere")},
        "data": {"data": NOISY},
        "seed": {"seed": 1},
        "test": {"test": False},
    }
    of_model = {"model", "init"}
    for features, irrelevant in (
        ("raw", of_model),
        ("tfidf", of_model),
        ("last", set()),
    ):
        method = baselines.KNN(features=features)
        key = baselines.key(method, exp)
        assert hash(key) == hash(baselines.key(method, digits(data=DIGITS)))
        for name, change in changes.items():
            changed_key = baselines.key(method, dataclasses.replace(exp, **change))
            assert (changed_key == key) == (name in irrelevant | {"training"}), (
                features,
                name,
            )
    assert baselines.key(baselines.SVM(), exp) != baselines.key(baselines.KNN(), exp)
    json.dumps(serialization.to_json(baselines.depends_on(baselines.SVM(), exp)))


@pytest.fixture
def reviews(tmp_path):
    """Data, texts and labels of three classes, whose words overlap."""
    pytest.importorskip("tokenizers")
    rng = np.random.default_rng(0)
    words = {"bad": "poor dull weak", "good": "fine bright strong", "so": "fine dull"}
    labels = rng.choice(list(words), 120).tolist()
    texts = [
        " ".join(rng.choice(f"{words[y]} film the plot {i}".split(), 6))
        for i, y in enumerate(labels)
    ]
    lines = "".join(f"{text}\t{label}\n" for text, label in zip(texts, labels))
    (tmp_path / "train.tsv").write_text(lines)
    (tmp_path / "test.tsv").write_text("fine film\tgood\nnothing seen\tbad\n")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nfine\n")
    data = tl.data.Text(
        str(tmp_path / "train.tsv"),
        test_path=str(tmp_path / "test.tsv"),
        tokenizer=str(tmp_path / "vocab.txt"),
        labels_per_class=12,
    )
    return data, [*texts, "fine film", "nothing seen"], [*labels, "good", "bad"]


@pytest.mark.parametrize("classes", [None, ("so", "bad")])
def test_tf_idf_is_fitted_on_labelled_train_texts_alone(digits, reviews, classes):
    data, texts, labels = reviews
    data = dataclasses.replace(data, classes=classes)
    if classes:
        pairs = [(t, y) for t, y in zip(texts, labels) if y in classes]
        texts, labels = map(list, zip(*pairs))
    dataset = preparation.prepare(data, 0)
    assert [dataset.class_names[y] for y in dataset.y_clean] == labels
    assert inputs.texts(data).tolist() == texts
    splits = ("train", "val", "test")
    vectors = inputs.matrices("tfidf", digits(data=data), dataset, splits)
    split_texts = {n: [texts[row] for row in dataset.rows[n]] for n in splits}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(split_texts["train"])
    for name in splits:
        expected = vectorizer.transform(split_texts[name])
        assert np.abs(vectors[name] - expected).max() == 0
    result = baselines.run(
        baselines.SVM(features="tfidf", kernel="linear", C=1.0, refit="train+val"),
        digits(data=data),
    )
    y = {n: dataset.y[dataset.rows[n]] for n in splits}
    reference = svm.LinearSVC(random_state=0).fit(vectors["train"], y["train"])
    score = reference.score(vectors["val"], y["val"])
    assert result["val"]["accuracy"] == pytest.approx(score)
    assert "test" in result


def test_a_second_text_follows_the_first(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "pairs.csv").write_text("y,a,b\n1,x y,z\n0,v,\n")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nfine\n")
    data = tl.data.Text(
        str(tmp_path / "pairs.csv"),
        text="a",
        pair="b",
        label="y",
        tokenizer=str(tmp_path / "vocab.txt"),
    )
    assert inputs.texts(data).tolist() == ["x y\nz", "v"]


def test_a_class_absent_from_train_has_the_least_probability(digits, tmp_path):
    x, y = np.eye(4, dtype=np.float32)[[0, 1, 0, 1, 2, 0]], [0, 1, 0, 1, 2, 0]
    np.savez(
        tmp_path / "a.npz", x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:]
    )
    data = tl.data.Arrays(str(tmp_path / "a.npz"), val=0, class_names=tuple("abc"))
    result = baselines.run(baselines.KNN(neighbors=1), digits(data=data, monitor=None))
    assert result["test"]["accuracy"] == 0.5
    assert result["test"]["nll"] == pytest.approx(-np.log(1e-12) / 2, rel=1e-3)
    assert "val" not in result
    assert [sum(row) for row in result["details"]["confusion"]] == [1, 0, 1]


def test_more_neighbors_than_examples_are_left_out(digits):
    data = tl.data.Digits(labels=10, val=50)
    result = baselines.run(baselines.KNN(neighbors=(3, 50)), digits(data=data))
    assert [row["neighbors"] for row in result["tried"]] == [3]


def test_baselines_without_names_are_named_by_method_and_features():
    knn, linear = baselines.KNN(), baselines.SVM(kernel="linear", features="tfidf")
    assert baselines.named({"a": knn, "b": linear}) == {"a": knn, "b": linear}
    assert baselines.named(None) == {}
    assert list(baselines.named((knn, linear))) == [
        "k-NN on raw inputs",
        "SVM on tf-idf",
    ]
    deep = [baselines.RandomForest(features="last"), baselines.KNN(features="stage3")]
    assert list(baselines.named(deep)) == [
        "random forest on the model's features",
        "k-NN on stage3",
    ]
    assert list(baselines.named(knn)) == ["k-NN on raw inputs"]
    with pytest.raises(UserError, match="both be called 'k-NN on raw inputs'"):
        baselines.named((knn, baselines.KNN(weights="distance")))
    for wrong in ({"k-NN": "KNN"}, {1: knn}, ("KNN",), 3, [baselines.KNN]):
        with pytest.raises(UserError, match="BASELINES: expected baselines by their"):
            baselines.named(wrong)


def test_settings_become_python_numbers_and_tuples_of_candidates():
    baseline = baselines.SVM(C=np.logspace(-1, 1, 3), gamma=[0.1, "auto"], kernel="rbf")
    assert baseline.C == (0.1, 1.0, 10.0)
    assert len(baseline.candidates()) == 6
    assert baseline.candidates()[1].settings() == {
        "C": 0.1,
        "kernel": "rbf",
        "gamma": "auto",
    }
    assert baselines.KNN(neighbors=range(1, 4)).neighbors == (1, 2, 3)
    assert serialization.from_json(serialization.to_json(baseline)) == baseline


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: baselines.KNN(neighbors=0), "KNN.neighbors=0: expected a whole"),
        (lambda: baselines.KNN(neighbors=(1, 2.5)), "neighbors=2.5: expected a who"),
        (lambda: baselines.KNN(neighbors=()), r"neighbors=\(\): expected at least"),
        (lambda: baselines.KNN(weights="uniforn"), "did you mean 'uniform'"),
        (lambda: baselines.SVM(C=-1.0), "SVM.C=-1.0: expected a number above 0"),
        (lambda: baselines.SVM(C="1"), "SVM.C='1': expected a number above 0"),
        (lambda: baselines.SVM(gamma=None), "expected 'scale' or 'auto' or a number"),
        (lambda: baselines.SVM(kernel=3), "kernel=3: expected 'rbf' or 'linear'"),
        (lambda: baselines.RandomForest(depth=0), "depth=0: expected None or a whole"),
        (lambda: baselines.KNN(refit="val+train"), "refit='val.train'; did you mean"),
        (lambda: baselines.KNN(features=None), "features=None: expected 'raw'"),
        (lambda: baselines.KNN(standardize="yes"), "standardize='yes': expected True"),
        (lambda: baselines.GradientBoosting(features="tfidf"), "no sparse features"),
        (lambda: baselines.KNN(features="tfidf", standardize=True), "has unit length"),
    ],
)
def test_an_invalid_setting_raises(make, text):
    with pytest.raises(UserError, match=text):
        make()


def test_baselines_that_do_not_fit_the_data_raise(digits, tmp_path):
    def assert_raises(text, method, **changes):
        with pytest.raises(UserError, match=text):
            baselines.run(method, digits(**{"data": DIGITS, **changes}))

    knn = baselines.KNN
    assert_raises("no such stage; did you mean 'layer1'", knn(features="layer7"))
    assert_raises("known: raw, tfidf, last, layer1, head", knn(features="stage"))
    assert_raises(
        "needs texts, tl.data.Text, and the data are Digits", knn(features="tfidf")
    )
    assert_raises("would take .* more than cache_bytes=10", knn(), cache_bytes=10)
    no_val = tl.data.Digits(val=0)
    assert_raises(
        "5 candidates to choose from on val, and there is no", knn(), data=no_val
    )
    few = tl.data.Digits(labels=10, val=50)
    assert_raises(r"fitted on 10 train examples \(neigh", knn(neighbors=11), data=few)
    single = tl.data.Digits(labels=1, val=50)
    assert_raises("SVM can't be fitted on 1 examples", baselines.SVM(), data=single)
    assert_raises("Ridge is for regression.*take Logistic", baselines.Ridge())
    data, _ = regression_data(tmp_path, 1)
    assert_raises(
        "is for classification.*Ridge", baselines.LogisticRegression(), data=data
    )
    x, y = np.zeros((20, 3)), np.tile([[0, 1], [1, 1]], (10, 1))
    assert_raises(
        "task of these data is 'multilabel'", knn(), data=tl.data.Arrays(x=x, y=y)
    )


def test_raw_token_ids_raise(digits, reviews):
    with pytest.raises(UserError, match=r"ids of tokens.*features='tfidf'"):
        baselines.run(baselines.KNN(), digits(data=reviews[0]))


def test_tf_idf_and_an_svm_reach_the_usual_accuracy_on_trec(
    digits, data_dir, monkeypatch
):
    pytest.importorskip("tokenizers")
    monkeypatch.setenv("JAXTL_DATA_DIR", str(data_dir))
    data = tl.data.Text(
        "text/trec/train_5500.label",
        test_path="text/trec/TREC_10.label",
        tokenizer="tokenizers/bert_base_uncased_vocab.txt",
        split_seed=0,
    )
    method = baselines.SVM(
        features="tfidf", kernel="linear", C=(1.0, 3.0), refit="train+val"
    )
    result = baselines.run(method, digits(data=data))
    assert result["test"]["accuracy"] == pytest.approx(0.906, abs=0.01)
