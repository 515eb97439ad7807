"""Ensembles of runs on disk: one program for alike members, chosen on val alone."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sk

import jaxtl as tl
from jaxtl.analysis.ensemble import combine, members
from jaxtl.analysis.ensemble.ensemble import ensemble
from jaxtl.cli import main
from jaxtl.cli.ensemble import tables
from jaxtl.core import compilation
from jaxtl.core.errors import UserError
from jaxtl.evaluation import evaluate, forward
from jaxtl.training.load_model import load_model

DATA = {"labels_per_class": 10, "split_seed": 0, "val": 150}


def _train(place, name, digits, *, widths=(8,), data=None, steps=60, **more):
    data = data or tl.data.Digits(**DATA)
    exp = digits(model=tl.models.MLP(widths=widths), data=data, steps=steps, **more)
    tl.train(tl.setup(exp, place / name), progress=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory, digits):
    """A folder of runs: `small` has three seeds, the others one each."""
    place = tmp_path_factory.mktemp("ensembles")
    for seed in range(3):
        _train(place, f"small/seed{seed}", digits, seed=seed)
    _train(place, "deep", digits, widths=(8, 8))
    one_step = {"steps": 1}
    other_split = {**DATA, "split_seed": 1}
    _train(place, "split", digits, data=tl.data.Digits(**other_split), **one_step)
    _train(
        place,
        "classes",
        digits,
        data=tl.data.Digits(**DATA, classes=(0, 1)),
        **one_step,
    )
    unseen = {**DATA, "val": 0}
    for i in range(2):
        name, data = f"unseen{i}", tl.data.Digits(**unseen)
        _train(place, name, digits, data=data, monitor=None, seed=i, **one_step)
    return place


@pytest.fixture(scope="module")
def result(place):
    return ensemble([place / "small", place / "deep"])


def predict_alone(path, split):
    """(logits, labels) of one run, by the evaluation of single runs."""
    return evaluate.predict_split(load_model(path), split)


PATHS = ("small/seed0", "small/seed1", "small/seed2", "deep")


def test_alike_members_are_one_program_and_equal_each_alone(place):
    compilation.clear()
    loaded = members.load_members([place / "small", place / "deep"])
    assert [m.name for m in loaded] == list(PATHS)
    outputs = members.predict_members(loaded, ("val", "test"))
    compiled = compilation.stored()
    assert len(compiled) == 2, "one for small, one for deep"
    assert [f._cache_size() for f in compiled] == [1, 1], "val and test: one program"
    for split in ("val", "test"):
        for i, name in enumerate(PATHS):
            logits, _ = predict_alone(place / name, split)
            np.testing.assert_allclose(outputs[split][i], logits, rtol=1e-5, atol=1e-5)
    assert np.abs(np.diff(outputs["test"], axis=0)).max() > 0.1, "they do differ"


def test_members_together_equal_members_in_turn(place):
    loaded = members.load_members([place / "small"])
    weights = jax.tree.map(
        lambda *x: np.stack(x), *((m.params, m.stats) for m in loaded)
    )
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    pair = [
        members.stacked_logits(
            loaded[0].model.network, weights, x, "classification", together=together
        )
        for together in (True, False)
    ]
    assert pair[0].shape == (3, 5, 10)
    np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-5)


def test_data_from_the_host_give_the_same(place):
    loaded = members.load_members([place / "small"])
    resident = members.predict_members(loaded, ("val",))["val"]
    host = [
        dataclasses.replace(
            m, model=dataclasses.replace(m.model, device_bytes=0, batch=64)
        )
        for m in loaded
    ]
    streamed = members.predict_members(host, ("val",))["val"]
    np.testing.assert_allclose(streamed, resident, rtol=1e-5, atol=1e-5)


def test_metrics_equal_those_of_scikit_learn(place, result):
    logits = np.stack(
        [predict_alone(place / name, "test")[0] for name in PATHS]
    ).astype(float)
    labels = predict_alone(place / "deep", "test")[1]
    for line, z in zip(result.members, logits):
        assert line.test["accuracy"] == sk.accuracy_score(labels, z.argmax(-1))
    p = special.softmax(logits, -1).mean(0)
    average = next(m for m in result.methods if m.name == "average_probabilities")
    assert average.test["accuracy"] == sk.accuracy_score(labels, p.argmax(-1))
    nll = sk.log_loss(labels, p, labels=range(10))
    assert average.test["nll"] == pytest.approx(nll, rel=1e-4)
    brier = np.square(p - np.eye(10)[labels]).sum(-1).mean()
    assert average.test["brier"] == pytest.approx(brier, rel=1e-4)
    # The temperature is fitted on val, the metric is of test.
    scaled = special.softmax(np.log(p) / average.temperature, -1)
    after = sk.log_loss(labels, scaled, labels=range(10))
    assert average.scaled["nll"] == pytest.approx(after, rel=1e-4)
    assert result.examples == {"val": 150, "test": len(labels)}


def test_everything_is_chosen_on_val(result):
    assert [m.name for m in result.methods] == list(
        combine.method_names("classification")
    )
    best = max(line.val["accuracy"] for line in result.methods)
    assert result.chosen.val["accuracy"] == best
    single = max(result.members, key=lambda line: line.val["accuracy"])
    chosen = next(m for m in result.members if m.name == result.best_member)
    assert chosen.val["accuracy"] == single.val["accuracy"]
    votes = next(m for m in result.methods if m.name == "hard_vote")
    assert "nll" not in votes.test
    assert votes.temperature is None


def test_test_labels_choose_nothing(place, result, monkeypatch):
    """With other test outputs the same method, weights and temperatures come out."""
    predict_splits = forward.predict_splits

    def broken(*args, **settings):
        outputs = predict_splits(*args, **settings)
        return {**outputs, "test": outputs["test"][..., ::-1]}

    monkeypatch.setattr(forward, "predict_splits", broken)
    ensemble_again = ensemble([place / "small", place / "deep"])
    assert ensemble_again.method == result.method
    assert ensemble_again.best_member == result.best_member
    assert ensemble_again.chosen.test["accuracy"] < 0.5
    for entry, expected in zip(
        ensemble_again.members + ensemble_again.methods, result.members + result.methods
    ):
        assert entry.val == expected.val
        assert entry.temperature == expected.temperature


def test_val_alone_leaves_test_unread(place, monkeypatch):
    requested = []
    predict_splits = forward.predict_splits

    def watched(model, weights, dataset, splits, *args, **settings):
        requested.extend(splits)
        return predict_splits(model, weights, dataset, splits, *args, **settings)

    monkeypatch.setattr(forward, "predict_splits", watched)
    result = ensemble([place / "small"], split="val", method="average_logits")
    assert set(requested) == {"val"}
    assert result.examples == {"val": 150}
    assert result.chosen.val == result.chosen.test


def test_any_estimator_stacks(place):
    from sklearn.linear_model import RidgeClassifier

    result = ensemble([place / "small"], method="stacking", estimator=RidgeClassifier())
    assert result.method == "stacking"
    assert result.chosen.test["accuracy"] > 0.5


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_tasks_are_averaged_and_runs_may_live_in_memory(digits, kind):
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    y = x @ np.float32([[1, 2], [0, 1], [-1, 0], [0, 0]])
    y = y if kind == "regression" else (y > 0).astype(np.int32)
    data = tl.data.Arrays(x=x, y=y, task=kind, split_seed=0, val=30, test=30)
    runs = [tl.setup(digits(data=data, steps=40, seed=seed)) for seed in (0, 1)]
    for run in runs:
        run.advance(40)
    result = ensemble(runs)
    assert [m.name for m in result.members] == ["run 1", "run 2"]
    assert [m.name for m in result.methods] == list(combine.method_names(kind))
    pair = [evaluate.predict_with_weights(run, *run.weights(), "test") for run in runs]
    z, y = np.stack([p[0] for p in pair]).astype(float), pair[0][1]
    mean = result.methods[0].test
    if kind == "regression":
        expected = sk.mean_squared_error(y, z.mean(0))
        assert mean["mse"] == pytest.approx(expected, rel=1e-4)
        assert result.methods[1].name == "stacking"
    else:
        p = special.expit(z).mean(0)
        assert mean["accuracy"] == pytest.approx(1 - sk.hamming_loss(y, p > 0.5))
    assert len(tables(result)) == 1
    with pytest.raises(UserError, match=r"at least two runs; got one\."):
        ensemble(runs[:1])


def test_the_command_prints_tables_and_writes_json(place, tmp_path, capsys):
    out = tmp_path / "found.json"
    arguments = ["ensemble", str(place / "small"), str(place / "deep")]
    assert main.main([*arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for name in (
        *PATHS,
        *combine.method_names("classification"),
        "best member",
        "chosen",
    ):
        assert name in text
    assert "calibration on test" in text
    stored = json.loads(out.read_text())
    assert [m["name"] for m in stored["members"]] == list(PATHS)
    assert stored["examples"]["val"] == 150
    chosen = next(m for m in stored["methods"] if m["name"] == stored["method"])
    assert f"{100 * chosen['test']['accuracy']:.1f}" in text


@pytest.mark.parametrize(
    ("names", "settings", "text"),
    [
        (["small/seed0"], {}, "needs at least two runs; got one, .*seed0"),
        (["deep", "small", "small/seed1"], {}, "seed1 is named twice"),
        (["nowhere"], {}, "nowhere is no directory of a run"),
        (
            ["deep", "split"],
            {},
            "deep and split have different val splits, .*split_seed=",
        ),
        (["deep", "classes"], {}, "deep and classes are runs of different classes"),
        (["unseen0", "unseen1"], {}, "have no val split to choose a method"),
        (["small"], {"method": "hard_votes"}, "did you mean 'hard_vote'"),
        (
            ["small"],
            {"method": "average_outputs"},
            "does not combine models of the task",
        ),
        (["small"], {"split": "train"}, "split='train'.*reports on 'test'"),
    ],
)
def test_invalid_arguments_raise(place, names, settings, text):
    with pytest.raises(UserError, match=text):
        ensemble([place / name for name in names], **settings)


def test_directories_without_runs_and_unwritable_files_raise(place, tmp_path, capsys):
    with pytest.raises(UserError, match="it holds no experiment"):
        ensemble([tmp_path])
    out = pathlib.Path("/nowhere/found.json")
    assert main.main(["ensemble", str(place / "small"), "--out", str(out)]) == 1
    assert (
        "--out: /nowhere/found.json can't be written: there is no directory"
        in capsys.readouterr().err
    )


def test_runs_of_another_task_or_of_other_data_raise(place, tmp_path):
    loaded = members.load_members([place / "small"])

    def changed(**fields):
        dataset = dataclasses.replace(loaded[1].dataset, **fields)
        return dataclasses.replace(loaded[1], name="other", dataset=dataset)

    with pytest.raises(UserError, match="seed0 and other are runs of different task"):
        members.check_agreement(loaded[0], changed(task="regression"))
    moved = dataclasses.replace(changed(fingerprint="0"), data=tl.data.Digits(size=4))
    members.check_agreement(loaded[0], moved)  # the same digits in another size
    moved = dataclasses.replace(moved, data=tl.data.Digits(classes=(3,)))
    with pytest.raises(UserError, match="runs of different data"):
        members.check_agreement(loaded[0], moved)
    wide = np.zeros((5, 11))
    with pytest.raises(UserError, match="different numbers of outputs, 11 and 10"):
        members.check_logits(loaded[:2], [wide, wide[:, :10]], "val")
    with pytest.raises(UserError, match="seed1 on val are not all finite"):
        members.check_logits(loaded[:2], [wide, wide + np.nan], "val")
