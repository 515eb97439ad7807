"""Summaries of records, against scipy and numbers that are known by hand."""

import pathlib

import numpy as np
import pytest
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.results import records, statistics
from jaxtl.results.build_summary import summarize
from jaxtl.results.database import Database, Outcome
from jaxtl.results.records import Record

SHIFTS = (0.0, 0.01, -0.01, 0.005, -0.005)  # of a seed, the same for all settings
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.002, (50, 5))


def cell(labels, val=None, test=None, status="done", **facts):
    result = {"monitor": "accuracy", "examples": {"test": 100}, **facts}
    for split, value in (("val", val), ("test", test)):
        if value is not None:
            result[split] = {"accuracy": value, "nll": 1 - value}
    if status != "done":
        result = {}
    error = "the loss is not finite" if status == "failed" else ""
    return Record(labels=labels, status=status, result=result, error=error)


def collect(*cells):
    return records.collect(cells, {"doc": "A sweep."})


def seeds(mean, n=5, noise=0, **labels):
    """Makes cells of one setting: val around a mean, test 0.1 below."""
    shifts = SHIFTS[:n] + NOISE[noise, :n]
    return [
        cell({**labels, "seed": seed}, mean + shift, mean - 0.1 + shift)
        for seed, shift in enumerate(shifts)
    ]


def study(**means):
    """Makes a collection of five seeds per method."""
    return collect(
        *(
            record
            for i, (method, mean) in enumerate(means.items())
            for record in seeds(mean, 5, i, method=method)
        )
    )


def rows_by_name(summary):
    return {row.name: row for row in summary.rows}


def test_a_row_per_method_is_paired_with_the_method_called_full():
    collection = study(scratch=0.6, full=0.8, near=0.82, same=0.8)
    summary = summarize(collection)
    assert summary.metric == "accuracy"
    assert summary.split == "test"
    assert summary.baseline == {"method": "full"}
    rows = rows_by_name(summary)
    assert list(rows) == ["scratch", "full", "near", "same"]
    assert rows["full"].comparison is None
    verdicts = {
        name: row.comparison.verdict for name, row in rows.items() if name != "full"
    }
    assert verdicts == {"scratch": "worse", "near": "better", "same": "tie"}
    values = {
        name: [
            record.value("test", "accuracy")
            for record in collection.records
            if record.labels["method"] == name
        ]
        for name in rows
    }
    compared = ("scratch", "near", "same")
    p_values = [stats.ttest_rel(values[n], values["full"]).pvalue for n in compared]
    adjusted = [rows[name].comparison.adjusted for name in compared]
    assert adjusted == pytest.approx(statistics.holm(p_values))
    expected = stats.t.interval(
        0.95, 4, np.mean(values["near"]), stats.sem(values["near"])
    )
    assert rows["near"].test[1:3] == pytest.approx(expected)
    assert [row.name for row in summary.rows if row.top] == ["near"]


def test_a_smaller_loss_is_better():
    rows = rows_by_name(summarize(study(full=0.8, near=0.9), metric="nll"))
    assert rows["near"].comparison.verdict == "better"
    assert rows["near"].comparison.difference.mean < 0
    assert rows["near"].top
    assert not rows["full"].top


def rates(method="full", val=(0.7, 0.8, 0.75), test=(0.9, 0.6, 0.7), n=3):
    """Makes cells of three rates; the best one on val is the worst one on test."""
    return [
        cell({"method": method, "optim.lr": lr, "seed": s}, v + 0.01 * s, t + 0.01 * s)
        for lr, v, t in zip((1e-3, 1e-2, 1e-1), val, test)
        for s in range(n)
    ]


def test_hyperparameters_are_chosen_on_val_and_only_those_are_tested():
    collection = collect(*rates(), *rates("other", val=(0.9, 0.8, 0.7)))
    summary = summarize(collection)
    assert summary.roles.compared == ("method",)
    assert summary.roles.tuned == ("optim.lr",)
    rows = rows_by_name(summary)
    assert rows["full"].tuned == {"optim.lr": 1e-2}
    assert rows["full"].test.mean == pytest.approx(0.61)
    assert rows["other"].tuned == {"optim.lr": 1e-3}
    assert rows["full"].candidates == 3
    assert len(summary.settings) == 6
    unselected = [setting for setting in summary.settings if not setting.selected]
    assert len(unselected) == 4
    assert all(s.test is None and not s.values["test"] for s in unselected)


def test_the_smallest_loss_on_val_is_chosen():
    summary = summarize(collect(*rates()), metric="nll")
    assert summary.rows[0].tuned == {"optim.lr": 1e-2}


def test_settings_with_fewer_seeds_are_no_candidates():
    cells = rates()
    cells[5] = cell(dict(cells[5].labels), status="failed")  # of the best rate
    summary = summarize(collect(*cells))
    [row] = summary.rows
    assert row.tuned == {"optim.lr": 1e-1}
    assert row.partial == 1
    assert row.rival == "lr=0.01 (2 seeds)"
    failed = next(setting for setting in summary.settings if setting.failed)
    assert failed.seeds == (0, 1)
    assert failed.missing == (2,)
    assert failed.reasons == ("the loss is not finite",)
    assert summary.counts == {"done": 8, "failed": 1}


def test_nothing_is_tuned_without_val():
    cells = [cell({"optim.lr": lr, "seed": 0}, test=lr) for lr in (0.1, 0.2)]
    summary = summarize(collect(*cells))
    assert not summary.tuned
    assert [row.name for row in summary.rows] == ["lr=0.1", "lr=0.2"]


def test_columns_have_their_own_baseline_and_best():
    cells = []
    for i, (method, count, mean) in enumerate(
        [("full", 5, 0.6), ("full", 50, 0.8), ("near", 5, 0.7), ("near", 50, 0.7)]
    ):
        labels = {"method": method, "data.labels_per_class": count}
        cells += seeds(mean, 5, i, **labels)
    rows = rows_by_name(summarize(collect(*cells)))
    five, fifty = (rows[f"near, labels_per_class={n}"] for n in (5, 50))
    assert five.comparison.against == "full, labels_per_class=5"
    assert fifty.comparison.against == "full, labels_per_class=50"
    assert (five.comparison.verdict, fifty.comparison.verdict) == ("better", "worse")
    assert [name for name, row in rows.items() if row.top] == [
        "full, labels_per_class=50",
        "near, labels_per_class=5",
    ]


def test_any_setting_may_be_the_baseline():
    summary = summarize(study(a=0.6, b=0.8), baseline=["b"])
    assert rows_by_name(summary)["a"].comparison.against == "b"
    summary = summarize(study(a=0.6, b=0.8))  # the first, where none is called full
    assert summary.baseline == {"method": "a"}
    with pytest.raises(UserError, match=r"method has no value 'c'.*values: a, b"):
        summarize(study(a=0.6, b=0.8), baseline=["method=c"])
    with pytest.raises(UserError, match=r"no axis 'metod'; did you mean 'method'"):
        summarize(study(a=0.6, b=0.8), baseline=["metod=a"])
    with pytest.raises(UserError, match=r"tuned on val; .*--compare method optim.lr"):
        summarize(collect(*rates(), *rates("b")), baseline=["lr=0.01"])


def test_negative_transfer_raises_an_alarm():
    rows = rows_by_name(summarize(study(scratch=0.7, full=0.8, lost=0.6, near=0.6999)))
    [alarm] = rows["lost"].alarms
    assert alarm.text == "loses to from-scratch"
    assert alarm.comparison.difference.mean == pytest.approx(-0.1, abs=0.005)
    assert not rows["full"].alarms
    assert not rows["scratch"].alarms
    for alarm in rows["near"].alarms:
        assert alarm.text == "below from-scratch, not significant"


def test_one_seed_below_scratch_is_not_significant():
    collection = collect(
        *seeds(0.7, 1, method="scratch"), *seeds(0.5, 1, 1, method="x")
    )
    row = summarize(collection).rows[1]
    assert [a.text for a in row.alarms] == ["below from-scratch, not significant"]
    assert row.test.half is None
    assert row.comparison.verdict == ""


def test_a_run_without_steps_is_the_untouched_source():
    untouched = [
        cell(
            dict(record.labels),
            record.value("val", "accuracy"),
            record.value("test", "accuracy"),
            steps=0,
        )
        for record in seeds(0.8, 5, 0, method="as it was")
    ]
    baseline = seeds(0.4, 5, 2, method="baseline: k-NN on pixels")
    tuned = seeds(0.7, 5, 1, method="tuned")
    summary = summarize(collect(*untouched, *tuned, *baseline))
    assert summary.references == ("the untouched source",)
    rows = rows_by_name(summary)
    assert [a.text for a in rows["tuned"].alarms] == ["loses to the untouched source"]
    assert not rows["baseline: k-NN on pixels"].alarms  # it transfers nothing


def test_the_from_scratch_runs_can_be_named():
    collection = study(zero=0.7, lost=0.5)
    assert not summarize(collection).references
    rows = rows_by_name(summarize(collection, scratch=["method=zero"]))
    assert rows["lost"].alarms[0].significant


def test_runs_on_other_data_are_compared_with_nothing():
    source = cell({"run": "source", "seed": 0}, 0.99, 0.99)
    source = Record(labels=source.labels, result=source.result, data="Arrays usps.npz")
    targets = [
        Record(labels={"run": m, "seed": s}, result=r.result, data="Arrays mnist.npz")
        for m in ("full", "near")
        for s, r in enumerate(seeds(0.8, 3, method=m))
    ]
    rows = rows_by_name(summarize(collect(source, *targets)))
    assert rows["source"].comparison is None
    assert not rows["source"].top
    assert rows["full"].top


def write_sweep(folder: pathlib.Path, cells, **meta):
    folder.mkdir(parents=True)
    with Database(folder, create=True) as database:
        database.set_meta(doc="A sweep.\n\nMore.", **meta)
        database.add((str(i), c.labels) for i, c in enumerate(cells))
        database.finish(
            Outcome(str(i), c.status, c.result, {}, c.error)
            for i, c in enumerate(cells)
        )
    return folder


def test_folders_of_other_data_are_refused(tmp_path):
    def experiments(path):
        data = {"type": "jaxtl.data.sources.arrays:Arrays", "path": path}
        return {"": {"data": data}}

    a = write_sweep(tmp_path / "a", seeds(0.8), experiments=experiments("usps.npz"))
    b = write_sweep(
        tmp_path / "b", seeds(0.8, method="x"), experiments=experiments("mnist.npz")
    )
    with pytest.raises(UserError) as error:
        summarize(records.read([a, b]))
    start = f"{a} and {b} can't stand in one table: their data are Arrays usps.npz and"
    assert str(error.value).startswith(start)


def test_folders_of_other_metrics_or_test_sets_are_refused():
    a = Record(labels={"run": "a"}, folder="a", result={"test": {"accuracy": 1.0}})
    b = Record(labels={"run": "b"}, folder="b", result={"test": {"mse": 1.0}})
    with pytest.raises(UserError, match="their metrics are accuracy and mse"):
        summarize(collect(a, b))
    sizes = [
        Record(
            labels={"run": name},
            folder=name,
            result={"test": {"accuracy": 1.0}, "examples": {"test": size}},
        )
        for name, size in (("a", 100), ("b", 2000))
    ]
    with pytest.raises(UserError, match="they were tested on 100 and 2,000 examples"):
        summarize(collect(*sizes))


def test_a_missing_value_counts_its_seed_and_not_its_metric(tmp_path):
    cells = seeds(0.8, 2, method="full")
    cells[0].result["test"]["accuracy"] = float("nan")
    path = write_sweep(tmp_path / "a", cells)
    [row] = summarize(records.read([path])).rows
    assert row.test.n == 1
    assert row.seeds == (0, 1)


def test_a_damaged_row_is_left_out(tmp_path):
    path = write_sweep(tmp_path / "a", seeds(0.8, 3, method="full"))
    with Database(path) as database:
        database.connection.execute("UPDATE cells SET result = '{' WHERE key = '1'")
    summary = summarize(records.read([path]))
    assert summary.counts == {"done": 2, "damaged": 1}
    assert summary.rows[0].seeds == (0, 2)
    assert summary.title == "A sweep."


def test_bad_input_is_refused():
    collection = study(full=0.8)
    with pytest.raises(UserError, match=r"no run has the metric 'acuracy'; did you"):
        summarize(collection, metric="acuracy")
    with pytest.raises(UserError, match=r"no cell of the sweep is done yet.*2 waiting"):
        summarize(collect(*[cell({"seed": s}, status="waiting") for s in range(2)]))
    failed = [cell({"run": "a", "seed": s}, status="failed") for s in range(2)]
    with pytest.raises(UserError, match=r"no run of the study is done yet.*2 failed"):
        summarize(collect(*failed))
    with pytest.raises(UserError, match=r"no axis 'optim.lr'"):
        summarize(collection, compare=["optim.lr"])
    untested = collect(cell({"seed": 0}, 0.5))
    assert summarize(untested).split == "val"
    with pytest.raises(
        UserError, match="no finished run has a finite accuracy on test"
    ):
        summarize(untested, split="test")
