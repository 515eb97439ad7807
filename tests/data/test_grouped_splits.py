"""Splits of whole groups, and weights of examples, from table to metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model, model_selection
from sklearn import metrics as sk

import jaxtl as tl
from jaxtl.analysis import linear_probe
from jaxtl.data import device_stream, grouped_splits


def _patients(seed, patients=60, classes=3):
    """Groups of 1 to 12 rows with a preferred class each, and their labels."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 13, patients)
    groups = np.repeat(np.arange(patients), sizes)
    preferred = rng.integers(0, classes, patients)[groups]
    other = rng.integers(0, classes, len(groups))
    return groups, np.where(rng.random(len(groups)) < 0.6, preferred, other)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_no_group_is_in_two_splits_and_shares_are_close(seed):
    groups, y = _patients(seed)
    y[:3] = range(3)
    names = np.array([f"patient {g}" for g in groups])
    x = np.arange(len(y), dtype=np.float32)[:, None]
    data = tl.data.Arrays(x=x, y=y, split_by=names, val=0.2, test=0.2, split_seed=seed)
    dataset = tl.data.prepare(data)
    rows = dataset.rows
    np.testing.assert_array_equal(
        np.sort(np.concatenate(list(rows.values()))), np.arange(len(y))
    )
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(groups[rows[first]]) & set(groups[rows[second]])
    overall = np.bincount(y, minlength=3) / len(y)
    for name, share in (("test", 0.2), ("val", 0.16)):
        assert len(rows[name]) / len(y) == pytest.approx(share, abs=0.02)
        counts = np.bincount(y[rows[name]], minlength=3) / len(rows[name])
        np.testing.assert_allclose(counts, overall, atol=0.05)
    again = tl.data.prepare(data).rows
    assert all(np.array_equal(rows[name], again[name]) for name in rows)
    assert "train, val and test share none" in dataset.notes[-1]


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_no_farther_than_sklearns(seed):
    groups, y = _patients(seed)
    folds = model_selection.StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    held_out = grouped_splits.held_out_groups(groups, y, 0.2, [seed])
    totals = np.bincount(y, minlength=3)

    def distance(rows):
        return np.square(np.bincount(y[rows], minlength=3) / totals - 0.2).sum()

    ours = distance(np.isin(groups, held_out))
    theirs = [distance(rows) for _, rows in folds.split(y, y, groups)]
    assert ours <= np.mean(theirs)


def test_groups_larger_than_the_share_still_split():
    chosen = grouped_splits.held_out_groups(
        np.repeat([0, 1], 50), np.zeros(100, int), 0.1, [0]
    )
    assert len(chosen) == 1


def _table(tmp_path, rows):
    path = tmp_path / "visits.csv"
    path.write_text("age,patient,w,sick\n" + "".join(f"{r}\n" for r in rows))
    return str(path)


def test_columns_of_a_table_are_no_inputs(tmp_path):
    rows = [f"{i},p{i // 3},{1 + i % 2},{'yes' if i % 2 else 'no'}" for i in range(60)]
    data = tl.data.CSV(
        _table(tmp_path, rows), target="sick", split_by="patient", sample_weight="w"
    )
    dataset = tl.data.prepare(data)
    assert dataset.feature_names == ("age",)
    np.testing.assert_array_equal(dataset.weights, 1 + np.arange(60) % 2)
    patients = np.arange(60) // 3
    parts = [set(patients[r]) for r in dataset.rows.values()]
    assert sum(map(len, parts)) == 20
    assert not any("not used" in note for note in dataset.notes)
    batch = device_stream.batch_at_step(device_stream.from_split(dataset), 0, 0, 8)
    np.testing.assert_array_equal(batch["weight"], dataset.weights[batch["row"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_by": "patiant"}, "no column 'patiant'; did you mean 'patient'"),
        ({"split_by": "sick"}, "'sick' is the target, too"),
        ({"sample_weight": "patient"}, "holds texts"),
        ({"features": ("age", "w"), "sample_weight": "w"}, "one of the features"),
    ],
)
def test_errors_name_the_column(tmp_path, options, message):
    rows = [f"{i},p{i // 3},1,{'yes' if i % 2 else 'no'}" for i in range(30)]
    with pytest.raises(tl.UserError, match=message):
        tl.data.prepare(tl.data.CSV(_table(tmp_path, rows), target="sick", **options))


def test_other_errors_are_sentences():
    x, y = np.zeros((6, 1), np.float32), np.arange(6) % 2
    for options, message in (
        ({"sample_weight": -np.ones(6)}, r"sample_weight: row 0 has -1.0"),
        ({"sample_weight": np.zeros(6)}, "is 0 in every row"),
        ({"split_by": np.zeros(5)}, r"has the shape \(5,\)"),
        ({"split_by": np.zeros(6)}, "only one group is left"),
        ({"split_by": "patient"}, "must be an array"),
        (
            {"split_by": np.array([1, 2, np.nan, 1, 2, 3])},
            "1 rows have no group, .*row 2",
        ),
        ({"split_by": np.array(["a", None, "b", "", "a", "b"], object)}, "2 rows have"),
    ):
        with pytest.raises(tl.UserError, match=message):
            tl.data.prepare(tl.data.Arrays(x=x, y=y, val=0.3, test=0.3, **options))
    with pytest.raises(tl.UserError, match="Digits has no columns beside"):
        tl.data.prepare(tl.data.Digits(split_by="patient"))


def test_groups_may_be_numbers_beside_texts():
    groups = np.array([1, 2, "a", "b"] * 6, object)
    x, y = np.zeros((24, 1), np.float32), np.arange(24) % 2
    rows = tl.data.prepare(tl.data.Arrays(x=x, y=y, split_by=groups, val=0.3)).rows
    parts = [set(groups[numbers].tolist()) for numbers in rows.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 4


def test_weights_in_loss_and_metrics_are_sklearns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=120) > 0).astype(int)
    w = rng.integers(0, 4, 120).astype(float)
    exp = tl.Experiment(
        model=tl.models.MLP(widths=()),
        data=tl.data.Arrays(x=x, y=y, sample_weight=w, val=0.2, test=0.2),
        metrics={"auroc": tl.metrics.AUROC()},
        terms={"task": tl.losses.CrossEntropy()},
        optim=tl.optim.AdamW(lr=0.2, weight_decay=0.0),
        steps=150,
        batch=77,
        monitor=None,
    )
    run = tl.setup(exp)
    data = run.datasets["target"]
    rows = data.rows["train"]
    result = tl.train(run)
    with pytest.raises(tl.UserError, match="a linear probe counts every example once"):
        linear_probe.probe(run)
    learner = linear_model.LogisticRegression(C=np.inf)
    learner.fit(x[rows], y[rows], sample_weight=w[rows])
    test = data.rows["test"]
    scores = learner.predict_proba(x[test])
    values = result["test"]
    assert values["nll"] == pytest.approx(
        sk.log_loss(y[test], scores, sample_weight=w[test]), abs=0.02
    )
    margin = learner.decision_function(x[test])
    assert values["auroc"] == pytest.approx(
        sk.roc_auc_score(y[test], margin, sample_weight=w[test]), abs=0.02
    )
