"""Runs and sweeps of unlabelled targets choose without reading target labels."""

import dataclasses
import json
import types

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.data import Arrays, Data, Table
from jaxtl.evaluation import metrics, model_selection, validators
from jaxtl.evaluation.selection_cost import cost_of_criteria
from jaxtl.results import settings
from jaxtl.results.selection_cost import describe
from jaxtl.training import setup

CRITERIA = ("source_accuracy", "iwv", "dev", "entropy", "snd", "bnm")
STEPS = 12


def points(seed, shift=0.0, count=90, classes=3):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = rng.normal(size=(count, 4)) + 2 * np.eye(4)[y] + shift * np.eye(4)[3]
    return x.astype(np.float32), y


def arrays(seed=0, shift=0.0, **options):
    x, y = points(seed, shift)
    return Arrays(x=x, y=y, **{"test": 0.2, "val": 0.2, "split_seed": 0, **options})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftedTarget(Data):
    """A target with fixed splits, whose labels can be scrambled."""

    scrambled: tuple[str, ...] = ()

    def read(self) -> Table:
        x, y = points(1, 2.0)
        rows = {"train": range(0, 50), "val": range(50, 70), "test": range(70, 90)}
        rows = {
            name: np.array(split_rows, np.int32) for name, split_rows in rows.items()
        }
        for name in self.scrambled:
            y[rows[name]] = (y[rows[name]] + 1) % 3
        return Table(x=x, y=y, class_names=("a", "b", "c"), splits=rows)


def adaptation(**changes):
    fields = {
        "model": tl.models.MLP(widths=(8,)),
        "data": ShiftedTarget(labels=0),
        "streams": {"source": arrays(class_names=("a", "b", "c"))},
        "terms": {
            "task": tl.losses.CrossEntropy(stream="source"),
            "coral": tl.domain.DeepCORAL(),
        },
        "optim": tl.optim.AdamW(lr=0.01),
        "steps": STEPS,
        "evaluate_every": 3,
        "batch": 16,
    }
    return tl.Experiment(**{**fields, **changes})


@pytest.fixture(scope="module")
def trained():
    """A function: changes -> (run, result), each trained once."""
    cache = {}

    def train(**changes):
        key = repr(sorted(changes.items()))
        if key not in cache:
            run = tl.setup(adaptation(**changes))
            cache[key] = run, tl.train(run, progress=False)
        return cache[key]

    return train


def plain_criteria(run):
    """The criteria, from plain forward passes of whole splits."""
    params, stats = run.weights()

    def outputs(name, *splits):
        data = run.datasets[name]
        rows = np.sort(np.concatenate([data.rows[s] for s in splits]))
        out = run.network.apply(params, stats, data.x[rows])
        return np.asarray(out.logits), np.asarray(out.features["layer1"]), rows

    logits, features, rows = outputs("source", "val")
    evidence = validators.Evidence(
        logits,
        run.datasets["source"].y[rows],
        features,
        outputs("source", "train")[1],
        *outputs("target", "unlabelled", "val")[:2],
    )
    return validators.measure("classification", evidence)


def test_evaluation_on_val_has_the_criteria(trained):
    run, result = trained()
    values = tl.evaluate(run, "val")
    assert set(values) == {*metrics.METRICS["classification"], *CRITERIA}
    expected = plain_criteria(run)
    assert {n: values[n] for n in CRITERIA} == pytest.approx(expected, rel=1e-4)
    assert not set(tl.evaluate(run, "test")) & set(CRITERIA)
    assert set(result["val"]) == set(values)
    assert not set(result["test"]) & set(CRITERIA)


def test_source_accuracy_weighs_the_source_as_its_metrics_do():
    x, y = points(0, 0.0)
    weights = np.where(y == 0, 5.0, 1.0)
    source = Arrays(
        x=x,
        y=y,
        test=0.2,
        val=0.2,
        split_seed=0,
        class_names=("a", "b", "c"),
        sample_weight=weights,
    )
    run = tl.setup(adaptation(streams={"source": source}))
    rows = run.datasets["source"].rows["val"]
    logits = np.asarray(run.network.apply(*run.weights(), x[rows]).logits)
    expected = metrics.compute("classification", logits, y[rows], weights[rows])
    plain = metrics.compute("classification", logits, y[rows])["accuracy"]
    assert abs(plain - expected["accuracy"]) > 0.01
    values = tl.evaluate(run, "val")
    assert values["source_accuracy"] == pytest.approx(expected["accuracy"])
    unweighted = tl.setup(adaptation())
    for name in ("iwv", "dev"):  # they estimate the target's loss
        assert values[name] == tl.evaluate(unweighted, "val")[name]


def test_weights_of_a_source_that_are_all_0_give_no_accuracy():
    z, y = np.eye(4), np.arange(4)
    evidence = validators.Evidence(z, y, z, None, z, z, np.zeros(4))
    assert np.isnan(validators.measure("classification", evidence)["source_accuracy"])


@pytest.mark.parametrize("tags", [("O", "B-X", "I-X"), ("N", "V", "A")])
def test_taggers_without_target_labels_have_no_criteria_and_are_told(tags, tmp_path):
    pytest.importorskip("tokenizers")
    lines = "\n\n".join(
        "\n".join(f"w{i} {t}" for i, t in enumerate(tags)) for _ in "a" * 16
    )
    (tmp_path / "t.conll").write_text(lines)
    data = tl.data.CoNLL(str(tmp_path / "t.conll"), val=4, test=4)
    run = tl.setup(
        adaptation(
            model=tl.models.Bert(
                vocab=32,
                width=8,
                layers=1,
                heads=2,
                hidden=8,
                context=16,
                predict="token",
            ),
            data=dataclasses.replace(data, labels=0),
            streams={"source": data},
            terms={"task": tl.losses.CrossEntropy(stream="source")},
            batch=4,
            steps=2,
        )
    )
    values = tl.train(run, progress=False)["val"]
    assert not set(values) & set(metrics.CRITERIA)
    assert run.notes["monitor"].startswith(f"ORACLE: {run.monitor} on val")


def test_a_labelled_target_has_no_criteria(trained):
    run = tl.setup(adaptation(data=arrays(1), terms={}, streams={}))
    assert not model_selection.is_label_free(run.datasets)
    assert run.monitor == "accuracy"
    assert not set(tl.evaluate(run, "val")) & set(CRITERIA)
    assert "monitor" not in run.notes


@pytest.mark.parametrize("evaluate_batch", [7, 64])
def test_criteria_do_not_depend_on_batches_and_placement(trained, evaluate_batch):
    run, _ = trained()
    streamed = tl.setup(adaptation(evaluate_batch=evaluate_batch, device_bytes=0))
    criteria = model_selection.measure_criteria(streamed, *run.weights())
    expected = model_selection.measure_criteria(run, *run.weights())
    assert criteria == pytest.approx(expected, rel=1e-4)


def test_criteria_read_at_most_two_thousand_rows_always_the_same():
    def target_rows(unlabelled):
        rows = {"train": np.arange(0), "unlabelled": unlabelled}
        target = types.SimpleNamespace(rows=rows, task="classification")
        return model_selection.criteria_rows({"target": target}).target

    rows = target_rows(np.arange(7000)[::-1])
    assert len(np.unique(rows)) == 2000
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, target_rows(np.arange(7000)))
    np.testing.assert_array_equal(target_rows(np.arange(9)), np.arange(9))


def test_the_source_chooses_by_default(trained):
    run, result = trained()
    assert run.monitor == result["monitor"] == "source_accuracy"
    assert result["terms"]["monitor"].startswith("source_accuracy chooses, without")
    values = [row["source_accuracy"] for row in run.curve["val"]]
    # The last of equal ones: accuracy on few rows is at its maximum for long.
    best = len(values) - 1 - int(np.argmax(values[::-1]))
    assert result["chosen"] == run.curve["val"][best]["step"]


@pytest.mark.parametrize("name", ["snd", "entropy", "bnm", "iwv", "dev"])
def test_any_criterion_can_choose(trained, name):
    run, result = trained(monitor=name)
    values = [row[name] for row in run.curve["val"]]
    pick = np.argmax if metrics.higher_is_better(name) else np.argmin
    assert result["chosen"] == run.curve["val"][int(pick(values))]["step"]
    assert result["choosing"]["criteria"][name]["step"] == result["chosen"]


def test_an_oracle_is_marked_as_one(trained):
    _, result = trained(monitor="accuracy")
    assert result["terms"]["monitor"].startswith("ORACLE: accuracy on val reads labels")
    assert describe([result]).startswith("ORACLE: accuracy on val")


@pytest.mark.parametrize("name", ["auto", "iwv", "dev", "snd", "bnm", "entropy"])
def test_no_label_of_the_target_changes_a_choice(trained, name):
    """Neither of test (never read) nor of val (read afterwards)."""
    run, result = trained(monitor=name)
    for splits in (("test",), ("train", "val", "test")):
        scrambled_run, scrambled_result = trained(
            monitor=name, data=ShiftedTarget(labels=0, scrambled=splits)
        )
        assert scrambled_result["chosen"] == result["chosen"]
        for ours, theirs in zip(
            run.curve["val"], scrambled_run.curve["val"], strict=True
        ):
            assert {n: ours[n] for n in CRITERIA} == {n: theirs[n] for n in CRITERIA}
        for criterion, costs in scrambled_result["choosing"]["criteria"].items():
            assert costs["step"] == result["choosing"]["criteria"][criterion]["step"]
        same = scrambled_result["choosing"] == result["choosing"]
        assert same == (splits == ("test",))


def test_scrambled_test_labels_do_not_change_even_the_oracle(trained):
    data = ShiftedTarget(labels=0, scrambled=("test",))
    ours, theirs = trained(monitor="accuracy"), trained(monitor="accuracy", data=data)
    assert ours[1]["chosen"] == theirs[1]["chosen"]
    assert ours[1]["test"] != theirs[1]["test"]


def test_costs_are_relative_to_the_best_checkpoint(trained):
    run, result = trained()
    choosing, curve = result["choosing"], run.curve["val"]
    best = max(row["accuracy"] for row in curve)
    assert choosing["oracle"]["value"] == best
    assert choosing["metric"] == "accuracy"
    assert set(choosing["criteria"]) == set(CRITERIA)
    for costs in choosing["criteria"].values():
        [row] = [row for row in curve if row["step"] == costs["step"]]
        assert costs["value"] == row["accuracy"]
        assert costs["cost"] == best - row["accuracy"]
    text = describe([result, result])
    assert text.startswith("source_accuracy chose without target labels, means of 2")
    assert f"{100 * best:.1f} %" in text
    without_source = {**choosing, "monitor": "bnm"}
    without_source["criteria"] = {
        n: choosing["criteria"][n] for n in ("entropy", "snd", "bnm")
    }
    assert describe([result, result, {"choosing": without_source}]) == text
    assert settings.main_metric([result]) == "accuracy"


def test_costs_of_curves_with_ties_and_nans():
    nan = float("nan")
    rows = [(1, 0.5, 1.0, nan), (2, 0.7, 1.0, 3.0), (3, 0.6, 0.9, nan)]
    names = ("step", "accuracy", "source_accuracy", "entropy")
    curve = [dict(zip(names, row)) for row in rows]
    costs = cost_of_criteria(curve, "source_accuracy", "classification")
    assert costs["criteria"]["source_accuracy"]["step"] == 2  # the last of equals
    assert costs["criteria"]["source_accuracy"]["cost"] == 0.0
    assert costs["criteria"]["entropy"]["step"] == 2
    assert costs["oracle"] == {"step": 2, "value": 0.7}
    assert cost_of_criteria([{"step": 1, "accuracy": 1.0}], "accuracy", "x") == {}
    assert describe([{"val": {}}]) == ""


def test_a_stored_run_reads_the_curve_of_all_its_sessions(tmp_path, trained):
    trained()
    stored = tl.setup(adaptation(save_every=6), tmp_path / "run")
    stored.advance(6)
    tl.train(stored, progress=False)
    text = json.loads((tmp_path / "run/result.json").read_text())
    assert set(text["choosing"]["criteria"]) == set(CRITERIA)
    lines = (tmp_path / "run/metrics.jsonl").read_text()
    assert '"snd"' in lines


def test_criteria_of_averaged_weights_and_of_no_steps(trained):
    run = tl.setup(adaptation(average=tl.optim.EMA(decay=0.5), steps=6))
    tl.train(run, progress=False)
    assert tl.evaluate(run, "val")["snd"] == pytest.approx(
        plain_criteria(run)["snd"], 1e-4
    )
    untouched = tl.train(tl.setup(adaptation(steps=0)), progress=False)
    assert untouched["choosing"]["criteria"]["bnm"]["cost"] == 0.0


SHOT = {
    "streams": {},
    "terms": {"entropy": tl.domain.EntropyMinimization()},
}


def test_without_a_source_predictions_choose():
    run = tl.setup(adaptation(**SHOT))
    assert run.monitor == "bnm"
    assert model_selection.available_criteria(run.datasets) == ("entropy", "snd", "bnm")


WITHOUT_VAL = arrays(val=0, class_names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**SHOT, "monitor": "dev"}, "monitor='dev' reads a labelled source, but"),
        (
            {"streams": {"source": WITHOUT_VAL}, "monitor": "source_accuracy"},
            r"needs validation rows of the source, .* raise the val of streams\['so",
        ),
        (
            {"data": arrays(), "terms": {}, "monitor": "snd"},
            "monitor='snd' chooses without labels, but this target has some; expected",
        ),
        (
            {"monitor": "sdn"},
            "monitor='sdn' is not a metric of this task; did you mean 's",
        ),
        (
            {"monitor": "source_mse"},
            "'source_mse' is not a criterion of a classification",
        ),
        (
            {"data": arrays(val=0), "terms": {}, "monitor": "accuracy"},
            "monitor='accuracy' needs a val split, but the data's is empty",
        ),
    ],
)
def test_invalid_monitors_raise(changes, message):
    with pytest.raises(UserError, match=message):
        tl.setup(adaptation(**changes))


def test_criteria_start_from_cached_features():
    optim = tl.optim.AdamW(lr=0.01, groups={"head": 1.0, ".*": tl.FROZEN})
    terms = {"task": tl.losses.CrossEntropy(stream="source")}
    run = tl.setup(adaptation(optim=optim, cache="memory", terms=terms))
    run.advance(3)
    assert run.cached is not None
    assert model_selection.measure_criteria(run, *run.weights()) == pytest.approx(
        plain_criteria(run), rel=1e-4
    )


def test_a_stored_model_is_evaluated_without_its_source(tmp_path):
    data = tl.data.Digits(labels=0, val=60, test=60, limit=200)
    exp = adaptation(
        data=data, streams={"source": tl.data.Digits(split_seed=3, limit=200)}, steps=2
    )
    run = tl.setup(exp, tmp_path / "run")
    result = tl.train(run, progress=False)
    model = tl.load_model(tmp_path / "run")
    assert tl.evaluate(model, "test") == pytest.approx(result["test"], rel=1e-4)
    values = tl.evaluate(model, "val")
    assert values["snd"] == pytest.approx(result["val"]["snd"], rel=1e-4)
    assert "dev" not in values
    assert setup.reopen(tmp_path / "run").monitor == "bnm"
    resumed = setup.resume(tmp_path / "run")
    assert resumed.monitor == "source_accuracy"
