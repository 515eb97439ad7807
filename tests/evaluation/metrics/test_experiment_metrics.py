"""Metrics that an experiment adds: checked, monitored, stored, compared, told."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

import jaxtl as tl
from jaxtl.analysis import baselines
from jaxtl.cli.main import main
from jaxtl.core import serialization
from jaxtl.evaluation import evaluate
from jaxtl.results import build_summary, records
from jaxtl.results.plots import sweep_view


def share_of_even(outputs, labels, weights):
    """Weighted share of even predictions; smaller is better."""
    assert outputs.dtype == np.float64
    return np.average(outputs.argmax(1) % 2 == 0, weights=weights)


share_of_even.higher_is_better = False
METRICS = {
    "kappa": tl.metrics.CohenKappa(weights="quadratic"),
    "even": share_of_even,
    "f2": tl.metrics.FBeta(beta=2.0, per_class=True),
}


@pytest.fixture(scope="module")
def stored(digits, tmp_path_factory):
    """A trained run's directory, and what training returned."""
    out = tmp_path_factory.mktemp("metrics") / "run"
    exp = digits(metrics=METRICS, monitor="even", evaluate_batch=100)
    return out, tl.train(tl.setup(exp, out))


def test_values_are_of_the_whole_split(stored):
    out, result = stored
    model = tl.load_model(out)
    logits, labels = evaluate.predict_split(model, "test")
    guess = logits.argmax(1)
    values = tl.evaluate(model, "test")
    assert values["kappa"] == pytest.approx(
        sk.cohen_kappa_score(labels, guess, weights="quadratic", labels=range(10))
    )
    assert values["even"] == np.mean(guess % 2 == 0)
    per_class = sk.fbeta_score(labels, guess, beta=2, average=None, labels=range(10),
                               zero_division=0)  # fmt: skip
    ours = [values[f"f2[{name}]"] for name in range(10)]
    np.testing.assert_allclose(ours, per_class)
    assert result["test"] == pytest.approx(values, rel=1e-6)


def test_the_monitored_metric_chooses_in_its_direction(stored):
    out, result = stored
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    shares = [x["even"] for x in lines if x["kind"] == "val"]
    assert result["val"]["even"] == pytest.approx(min(shares))
    assert result["higher_is_better"] == {"kappa": True, "even": False, "f2": True}


def test_tables_know_the_direction(stored):
    out, _ = stored
    collection = records.read([out])
    for metric, higher in (("even", False), ("f2[3]", True), ("accuracy", True)):
        summary = build_summary.summarize(collection, metric=metric)
        assert summary.higher is higher
        view = sweep_view.build_view(collection, summary)
        assert view.higher is higher
        assert len(view.best_setting(view.records)) == 1
    assert build_summary.summarize(collection).metric == "even"  # what chose


def test_eval_prints_intervals_and_notes(stored, capsys):
    out, _ = stored
    assert main(["eval", str(out), "--intervals", "20", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    model = tl.load_model(out)
    low, high = evaluate.bootstrap(model, "test", 20, seed=3)["kappa"][:2]
    assert f"[{low:.4f}, {high:.4f}]" in text
    assert "percentile, 20 resamples, seed 3" in text


def test_a_metric_that_no_other_program_has_is_left_out_and_told(stored):
    out, _ = stored
    marked = json.loads((out / "experiment.json").read_text())
    entries = marked["experiment"]["metrics"]["items"]
    [entry] = [entry for entry in entries if entry[0] == "even"]
    before, entry[1] = entry[1], {"type": "object", "name": "__main__:<lambda>"}
    (out / "experiment.json").write_text(json.dumps(marked))
    model = tl.load_model(out)
    assert set(model.metrics) == {"kappa", "f2"}
    assert "not measured" in model.notes["even"]
    assert "even" not in tl.evaluate(model, "val")
    entry[1] = before
    (out / "experiment.json").write_text(json.dumps(marked))


def test_metrics_are_stored_as_settings(digits):
    exp = digits(metrics=METRICS)
    stored = json.loads(json.dumps(serialization.to_json(exp)))
    assert serialization.from_json(stored).metrics == METRICS
    # An experiment without them has the JSON, and the hash, of earlier versions.
    assert "metrics" not in serialization.to_json(digits())


def test_an_undefined_metric_is_told_with_the_result(digits):
    exp = digits(
        data=tl.data.Digits(classes=("3", "8"), val=1),
        metrics={"auroc": tl.metrics.AUROC()},
        monitor="auroc",
        steps=0,
    )
    result = tl.train(tl.setup(exp))
    assert np.isnan(result["val"]["auroc"])
    assert "NaN, as" in result["terms"]["auroc on val"]
    assert 0 <= result["test"]["auroc"] <= 1
    assert "auroc on test" not in result["terms"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"mcc": tl.metrics.MatthewsCorrelation}}, "expected a metric"),
        ({"metrics": {"a/b": tl.metrics.AUROC()}}, "without '/'"),
        ({"metrics": {"loss": tl.metrics.AUROC()}}, "a meaning of its own"),
        ({"metrics": [tl.metrics.AUROC()]}, "expected a mapping"),
        ({"metrics": {"accuracy": tl.metrics.Accuracy()}}, "measures accuracy anyway"),
        ({"metrics": {"r": tl.metrics.R2()}}, r"metrics\['r'\]: R2 .* regression task"),
        (
            {"metrics": {"auroc": tl.metrics.AUROC()}, "monitor": "aurok"},
            "did you mean 'auroc'",
        ),
        ({"metrics": {"f": tl.metrics.FBeta(label="10")}}, "no class '10'"),
    ],
)
def test_errors_name_the_metric(digits, changes, message):
    with pytest.raises(tl.UserError, match=message):
        tl.setup(digits(**changes))


def test_baselines_measure_what_their_predictions_allow(digits):
    metrics = {"auroc": tl.metrics.AUROC(), "kappa": tl.metrics.CohenKappa()}
    exp = digits(metrics=metrics, monitor="auroc", data=tl.data.Digits(limit=200))
    neighbors = baselines.run(tl.baselines.KNN(neighbors=(1, 5)), exp)
    assert neighbors["monitor"] == "auroc"
    assert 0.5 < neighbors["test"]["auroc"] <= 1
    machine = baselines.run(tl.baselines.SVM(), exp)  # which has no probabilities
    assert machine["monitor"] == "accuracy"
    assert set(metrics) & set(machine["test"]) == {"kappa"}
