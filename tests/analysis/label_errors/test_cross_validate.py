"""`jaxtl labels`: out-of-sample predictions, the ranked labels, the noise."""

import csv

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.analysis.label_errors import cross_validate
from jaxtl.cli import main
from jaxtl.core.errors import UserError
from jaxtl.training import loop, setup


@pytest.fixture(scope="module")
def noisy_run(tmp_path_factory):
    """A run on digits with a fifth of wrong labels; its train rows, which are wrong."""
    folder = tmp_path_factory.mktemp("labels") / "run"
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(16,)),
        data=tl.data.Digits(label_noise=0.2, split_seed=0),
        optim=tl.optim.AdamW(lr=1e-2),
        steps=150,
        batch=64,
        evaluate_every=150,
    )
    run = setup.setup(exp, folder)
    loop.train(run, progress=False)
    data = run.parts.datasets["target"]
    rows = data.rows["train"]
    return folder, rows, data.y[rows] != data.y_clean[rows]


def test_folds_are_disjoint_and_stratified():
    labels = np.random.default_rng(0).integers(0, 3, 50)
    parts = cross_validate.split_in_folds(labels, 4, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(50))
    assert {len(part) for part in parts} <= {12, 13}
    for label in range(3):
        counts = [(labels[part] == label).sum() for part in parts]
        assert max(counts) - min(counts) <= 1


def test_the_list_holds_the_wrong_labels(noisy_run, capsys):
    folder, rows, wrong = noisy_run
    assert main.main(["labels", str(folder), "--folds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "3-fold predictions, out of sample" in printed
    with open(folder / "labels" / "errors.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    listed = np.isin(rows, [int(line["row"]) for line in lines])
    assert len(lines) == listed.sum()
    assert wrong[listed].mean() > 0.8 > 3 * wrong.mean()
    assert listed[wrong].mean() > 0.7
    scores = [float(line["score"]) for line in lines]
    assert scores == sorted(scores)
    first = next(line for line in lines if line["given"] != line["suggested"])
    assert first is lines[0]
    for name in ("transition", "transition_anchors"):
        matrix = np.load(folder / "labels" / f"{name}.npy")
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    transition = np.load(folder / "labels" / "transition.npy")
    np.testing.assert_allclose(np.diag(transition).mean(), 0.8, atol=0.1)


def test_predictions_without_folds_are_reported_as_in_sample(
    noisy_run, capsys, tmp_path
):
    folder, rows, _ = noisy_run
    arguments = ["labels", str(folder), "--folds", "0", "--out", str(tmp_path / "own")]
    assert main.main(arguments) == 0
    assert "in-sample predictions" in capsys.readouterr().out
    assert (tmp_path / "own" / "errors.csv").exists()
    predictions = cross_validate.predictions(folder, 0)
    np.testing.assert_array_equal(predictions.rows, rows)
    expected = tl.evaluate(setup.reopen(folder), "train")["accuracy"]
    accuracy = (predictions.probabilities.argmax(1) == predictions.labels).mean()
    assert accuracy == pytest.approx(expected)


def test_folds_predict_rows_that_they_did_not_train_on(noisy_run, monkeypatch):
    folder, rows, _ = noisy_run
    splits = []

    def train(run, progress=None):
        data = run.parts.datasets["target"]
        splits.append((data.rows["train"], data.rows["test"], data.rows["val"]))

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(
        cross_validate.evaluate,
        "predict_split",
        lambda run, split, which: (
            np.zeros((len(run.parts.datasets["target"].rows[split]), 10)),
            None,
        ),
    )
    cross_validate.predictions(folder, 2)
    val = setup.reopen(folder).parts.datasets["target"].rows["val"]
    for train_rows, left_out, val_rows in splits:
        assert not set(train_rows) & set(left_out)
        np.testing.assert_array_equal(np.sort([*train_rows, *left_out]), rows)
        np.testing.assert_array_equal(val_rows, val)
    np.testing.assert_array_equal(np.sort(np.concatenate([s[1] for s in splits])), rows)


@pytest.fixture
def run_of_groups(tmp_path):
    """A run with weights, balanced batches and groups; the groups of its rows."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(15), 8)
    columns = np.stack([rng.normal(size=120), rng.uniform(1, 2, 120), groups], axis=1)
    rows = [
        f"{x:.3f},{weight:.3f},p{group:.0f},{'abbb'[i % 4]}"
        for i, (x, weight, group) in enumerate(columns)
    ]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["x,w,patient,label", *rows]) + "\n")
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.CSV(
            path,
            target="label",
            split_by="patient",
            sample_weight="w",
            sampling="balanced",
        ),
        optim=tl.optim.AdamW(lr=1e-2),
        steps=2,
        batch=16,
    )
    run = setup.setup(exp, tmp_path / "run")
    loop.train(run, progress=False)
    return tmp_path / "run", run.parts.datasets["target"], groups


def test_folds_train_as_the_run_did_and_hold_out_whole_groups(
    run_of_groups, monkeypatch
):
    folder, target, groups = run_of_groups
    held_out = []

    def train(fold, progress=None):
        data = fold.parts.datasets["target"]
        np.testing.assert_array_equal(data.weights, target.weights)
        assert data.sampling == "balanced"
        kept = groups[data.rows["train"]], groups[data.rows["test"]]
        assert not np.intersect1d(*kept).size
        held_out.append(data.rows["test"])

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(
        cross_validate.evaluate,
        "predict_split",
        lambda fold, split, which: (
            np.zeros((len(fold.parts.datasets["target"].rows[split]), 2)),
            None,
        ),
    )
    cross_validate.predictions(folder, 3)
    rows = target.rows["train"]
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.sort(rows))
    with pytest.raises(UserError, match=r"are of 1[01] groups .* which stay whole"):
        cross_validate.predictions(folder, 12)


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [50, 1, 1, 1], [4] * 9])
def test_folds_of_groups_are_disjoint_and_none_is_empty(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.arange(len(groups)) % 2
    parts = cross_validate.split_groups_in_folds(groups, labels, 4, seed=0)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(parts)), np.arange(len(groups))
    )
    assert all(len(part) for part in parts)
    owners = [set(groups[part]) for part in parts]
    assert sum(map(len, owners)) == len(sizes)


def test_invalid_folds_directories_and_methods_raise(noisy_run, tmp_path, capsys):
    folder, _, _ = noisy_run
    for folds, message in ((1, "at least 2"), (-1, "at least 2"), (10**6, "there are")):
        with pytest.raises(UserError, match=message):
            cross_validate.predictions(folder, folds)
    assert main.main(["labels", str(tmp_path)]) != 0
    assert "no directory of a run" in capsys.readouterr().err
    assert main.main(["labels", str(folder), "--method", "prune_by_noise"]) != 0
    assert "did you mean 'prune_by_noise_rate'" in capsys.readouterr().err
