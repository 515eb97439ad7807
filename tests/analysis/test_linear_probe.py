"""Linear probes of a model's stages, held against numpy and scikit-learn."""

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

pytestmark = pytest.mark.usefixtures("quick_compilation")

FILE = """
import jaxtl as tl

def experiment():
    model = tl.models.MLP(widths=(12, 8), dropout=0.5)
    data = tl.data.Digits(labels_per_class=10, split_seed=0, val=150)
    one = tl.Experiment(
        model=model, data=data, steps=60, batch=32, optim=tl.optim.AdamW(lr=1e-2),
        augment=(tl.data.Crop(pad=1),),
    )
    return {"one": one, "two": one} if VARIANTS else one
"""
STAGES = ("layer1", "layer2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder with a finished run in `run`, its file and one of variants."""
    place = tmp_path_factory.mktemp("probe")
    for name, variants in (("one.py", "False"), ("two.py", "True")):
        (place / name).write_text(f"VARIANTS = {variants}\n{FILE}")
    arguments = ["run", str(place / "one.py"), "--out", str(place / "run")]
    assert main.main(arguments) == 0
    return place


@pytest.fixture(scope="module")
def run(place):
    return linear_probe.opened(place / "run")


def by_hand(run, split):
    """Returns {stage: features} of the split, in float64, and its labels."""
    data = run.parts.datasets["target"]
    rows = data.rows[split]
    params, _ = run.weights("best")
    h, found = data.x[rows].reshape(len(rows), -1) / 16.0, {}
    for stage in STAGES:
        dense = {k: np.float64(v) for k, v in params[stage]["dense"].items()}
        h = found[stage] = np.maximum(h @ dense["kernel"] + dense["bias"], 0)
    return found, data.y[rows]


def test_features_are_the_stages_in_evaluation_mode(run):
    splits = ("train", "val", "test")
    found = linear_probe.features(run, STAGES, splits, batch=64)
    assert len(run.parts.datasets["target"].rows["val"]) % 64, "the last one is padded"
    for split in splits:
        expected, _ = by_hand(run, split)
        for stage in STAGES:
            np.testing.assert_allclose(
                found[split][stage], expected[stage], rtol=1e-4, atol=1e-5
            )


def test_one_pass_serves_all_splits_and_stages(run):
    compilation.clear()
    linear_probe.features(run, STAGES, ("train", "val", "test"))
    [compiled] = compilation.stored()
    assert compiled._cache_size() == 1


def test_what_streams_from_the_host_gives_the_same(run, monkeypatch):
    resident = linear_probe.features(run, ("layer2",), ("val",))
    exp = dataclasses.replace(run.exp, device_bytes=0)
    monkeypatch.setattr(run, "exp", exp)
    streamed = linear_probe.features(run, ("layer2",), ("val",), batch=64)
    np.testing.assert_allclose(
        streamed["val"]["layer2"], resident["val"]["layer2"], rtol=1e-5, atol=1e-6
    )


def test_a_probe_is_scikit_learns(run):
    found = linear_probe.probe(run, "layer1", (0.03,))
    (train, y), (test, truth) = by_hand(run, "train"), by_hand(run, "test")
    scaler = preprocessing.StandardScaler().fit(train["layer1"])
    theirs = linear_model.LogisticRegression(
        C=1 / (100 * 0.03), tol=1e-9, max_iter=10_000
    ).fit(scaler.transform(train["layer1"]), y)
    coefficients = found.weights.T * scaler.scale_
    np.testing.assert_allclose(coefficients, theirs.coef_, atol=1e-3)
    score = theirs.score(scaler.transform(test["layer1"]), truth)
    assert found.test["accuracy"] == pytest.approx(score, abs=1.5 / len(truth))
    assert found.examples == {"train": 100, "val": 150, "test": len(truth)}
    assert found.stage == "layer1"
    assert found.width == 12


def test_the_default_stage_is_the_last_before_the_head(run):
    found = linear_probe.probe(run, strengths=(1e-2, 1e-1), test=False)
    assert found.stage == "layer2"
    assert found.test == {}
    assert set(found.examples) == {"train", "val"}
    assert list(linear_probe.probes(run, "all", (1.0,))) == list(STAGES)
    assert list(linear_probe.probes(run, ("head", "layer1"), (1.0,))) == [
        "layer1",
        "head",
    ]


def test_an_experiment_is_probed_where_it_starts(place, run):
    start = linear_probe.probe(str(place / "one.py"), "layer2", (0.01,))
    again = linear_probe.probe(tl.load(place / "one.py"), "layer2", (0.01,))
    assert start.test == again.test
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
    found = forward.stage_vectors(
        network, (params, stats), x, "language", stages=stages
    )
    seen = network.apply(params, stats, x).features
    for stage in stages:
        states = np.asarray(seen[stage].states, np.float64)
        expected = [row[m > 0].mean(0) for row, m in zip(states, mask)]
        np.testing.assert_allclose(found[stage], expected, rtol=1e-4, atol=1e-5)


def test_the_command_prints_a_table_per_strength(place, tmp_path, capsys):
    out, plot = tmp_path / "found.json", tmp_path / "curve.png"
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
        (["run", "--plot", "/nowhere/x.png"], "--plot /nowhere/x.png: expected a file"),
        (["."], "there is no experiment.json"),
    ],
)
def test_bad_input_is_told_in_one_sentence(place, arguments, text, capsys):
    target, *rest = arguments
    assert main.main(["probe", str(place / target), *rest]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert len(error.strip().splitlines()) == 1


def test_a_language_model_has_no_classes_to_probe(run, monkeypatch):
    target = dataclasses.replace(run.parts.datasets["target"], task="language")
    parts = dataclasses.replace(run.parts, datasets={"target": target})
    monkeypatch.setattr(run, "parts", parts)
    with pytest.raises(UserError, match="task='language': linear probes are for"):
        linear_probe.probe(run)
