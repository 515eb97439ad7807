"""Linear probes of a model's stages against numpy and scikit-learn."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import linear_model, preprocessing

import jaxtl as tl
from jaxtl.analysis import linear_probe
from jaxtl.cli import main
from jaxtl.core import compilation
from jaxtl.core.errors import UserError
from jaxtl.evaluation import forward

FILE = """
import jaxtl as tl

def experiment():
    model = tl.models.MLP(widths=(12, 8), dropout=0.5)
    data = tl.data.Digits(labels_per_class=10, split_seed=0, val=150)
    exp = tl.Experiment(
        model=model, data=data, steps=60, batch=32, optim=tl.optim.AdamW(lr=1e-2),
        augment=(tl.data.Crop(pad=1),),
    )
    return {"one": exp, "two": exp} if VARIANTS else exp
"""
STAGES = ("layer1", "layer2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run in `run`, its file, and a file of variants."""
    place = tmp_path_factory.mktemp("probe")
    for name, variants in (("one.py", "False"), ("two.py", "True")):
        (place / name).write_text(f"VARIANTS = {variants}\n{FILE}")
    arguments = ["run", str(place / "one.py"), "--out", str(place / "run")]
    assert main.main(arguments) == 0
    return place


@pytest.fixture(scope="module")
def run(place):
    return linear_probe.open_run(place / "run")


def mlp_features(run, split):
    """Features {stage: array} of a split, computed in float64, and its labels."""
    data = run.datasets["target"]
    rows = data.rows[split]
    params, _ = run.weights("best")
    h, features = data.x[rows].reshape(len(rows), -1) / 16.0, {}
    for stage in STAGES:
        dense = {k: np.float64(v) for k, v in params[stage]["dense"].items()}
        h = features[stage] = np.maximum(h @ dense["kernel"] + dense["bias"], 0)
    return features, data.y[rows]


def test_features_are_outputs_of_stages_in_evaluation_mode(run):
    splits = ("train", "val", "test")
    features = linear_probe.features(run, STAGES, splits, batch=64)
    assert len(run.datasets["target"].rows["val"]) % 64, "the last one is padded"
    for split in splits:
        expected, _ = mlp_features(run, split)
        for stage in STAGES:
            np.testing.assert_allclose(
                features[split][stage], expected[stage], rtol=1e-4, atol=1e-5
            )


def test_one_pass_serves_all_splits_and_stages(run):
    compilation.clear()
    linear_probe.features(run, STAGES, ("train", "val", "test"))
    [compiled] = compilation.stored()
    assert compiled._cache_size() == 1


def test_features_of_streamed_data_are_equal(run):
    resident = linear_probe.features(run, ("layer2",), ("val",))
    host = dataclasses.replace(run, device_bytes=0)
    streamed = linear_probe.features(host, ("layer2",), ("val",), batch=64)
    np.testing.assert_allclose(
        streamed["val"]["layer2"], resident["val"]["layer2"], rtol=1e-5, atol=1e-6
    )


def test_a_probe_agrees_with_scikit_learn(run):
    probe = linear_probe.probe(run, "layer1", (0.03,))
    (train, y), (test, truth) = mlp_features(run, "train"), mlp_features(run, "test")
    scaler = preprocessing.StandardScaler().fit(train["layer1"])
    reference = linear_model.LogisticRegression(
        C=1 / (100 * 0.03), tol=1e-9, max_iter=10_000
    ).fit(scaler.transform(train["layer1"]), y)
    coefficients = probe.weights.T * scaler.scale_
    np.testing.assert_allclose(coefficients, reference.coef_, atol=1e-3)
    score = reference.score(scaler.transform(test["layer1"]), truth)
    assert probe.test["accuracy"] == pytest.approx(score, abs=1.5 / len(truth))
    assert probe.examples == {"train": 100, "val": 150, "test": len(truth)}
    assert probe.stage == "layer1"
    assert probe.width == 12


def test_the_default_stage_is_the_last_before_the_head(run):
    probe = linear_probe.probe(run, strengths=(1e-2, 1e-1), test=False)
    assert probe.stage == "layer2"
    assert probe.test == {}
    assert set(probe.examples) == {"train", "val"}
    assert list(linear_probe.probes(run, "all", (1.0,))) == list(STAGES)
    assert list(linear_probe.probes(run, ("head", "layer1"), (1.0,))) == [
        "layer1",
        "head",
    ]


def test_an_experiment_is_probed_at_its_initial_weights(place, run):
    start = linear_probe.probe(str(place / "one.py"), "layer2", (0.01,))
    of_experiment = linear_probe.probe(tl.load(place / "one.py"), "layer2", (0.01,))
    assert start.test == of_experiment.test
    stored = linear_probe.probe(place / "run", "layer2", (0.01,))
    assert stored.test == linear_probe.probe(run, "layer2", (0.01,)).test
    assert stored.test != start.test


def test_sequences_are_averaged_over_real_tokens():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 6, (60, 1))
    mask = (np.arange(5) < lengths).astype(np.int32)
    x = {"input_ids": rng.integers(1, 11, (60, 5), np.int32), "attention_mask": mask}
    model = tl.models.Llama(vocab=11, width=8, layers=1, heads=2, hidden=8, context=16)
    network = model.pure()
    params, stats = network.init(jax.random.key(0), x)
    stages = network.stages[:-1]
    vectors = forward.stage_vectors(
        network, (params, stats), x, "language", stages=stages
    )
    features = network.apply(params, stats, x).features
    for stage in stages:
        states = np.asarray(features[stage].states, np.float64)
        expected = [row[m > 0].mean(0) for row, m in zip(states, mask)]
        np.testing.assert_allclose(vectors[stage], expected, rtol=1e-4, atol=1e-5)


def test_the_command_prints_a_table_per_strength(place, tmp_path, capsys):
    out, plot = tmp_path / "probes.json", tmp_path / "curve.png"
    arguments = ["probe", str(place / "run"), "--stage", "all"]
    arguments += ["--strengths", "0.01", "0.1", "1", "--out", str(out)]
    assert main.main([*arguments, "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    for word in (
        *STAGES,
        "0.01",
        "0.1",
        "chosen",
        "val accuracy %",
        "linear probe per",
    ):
        assert word in text
    stored = json.loads(out.read_text())
    assert list(stored) == list(STAGES)
    assert stored["layer1"]["strengths"] == [0.01, 0.1, 1.0]
    best = stored["layer1"]["best"]
    assert stored["layer1"]["strength"] == stored["layer1"]["strengths"][best]
    assert Image.open(plot).size[0] > 600


def test_the_command_takes_files_overrides_and_ridge(place, tmp_path, capsys):
    plot = tmp_path / "curve.png"
    arguments = ["probe", str(place / "two.py"), "data.labels_per_class=5"]
    arguments += [
        "--variant",
        "two",
        "--solver",
        "ridge",
        "--metric",
        "loo",
        "--no-test",
    ]
    assert main.main([*arguments, "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert "layer2: 8 features, ridge; 50 train, 150 val" in text
    assert "train loo_accuracy %" in text
    assert "chosen on test" not in text
    assert Image.open(plot).size[0] > 600


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "--stage", "layer9"], "stage='layer9': the model has no such stage"),
        (["run", "--strengths", "0.1", "-1"], "all above 0; -1 is not"),
        (["run", "--solver", "lasso"], "solver='lasso' is none for classification"),
        (["two.py"], "two.py gives the experiments one, two; choose one"),
        (["two.py", "--variant", "tow"], "choose one; did you mean 'two'"),
        (["one.py", "data.val=0", "monitor=None"], "on a val split, and there is none"),
        (
            ["run", "--plot", "/nowhere/x.png"],
            "--plot: /nowhere/x.png can't be written: there is no directory",
        ),
        (["."], "it holds no experiment.json"),
    ],
)
def test_invalid_input_is_reported_in_one_sentence(place, arguments, text, capsys):
    target, *options = arguments
    assert main.main(["probe", str(place / target), *options]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert len(error.strip().splitlines()) == 1


def test_a_language_model_has_no_classes_to_probe(run):
    target = dataclasses.replace(run.datasets["target"], task="language")
    run = dataclasses.replace(run, dataset=target)
    with pytest.raises(UserError, match="task='language': linear probes are for"):
        linear_probe.probe(run)
