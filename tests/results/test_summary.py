"""What a summary says of records, against scipy and numbers that are known by hand."""

import pathlib

import numpy as np
import pytest
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.results import records, settings, statistics
from jaxtl.results.build_summary import summarise
from jaxtl.results.database import Database, Outcome
from jaxtl.results.records import Collection, Record

SHIFT = (0.0, 0.01, -0.01, 0.005, -0.005)  # of a seed, the same for all settings
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


def gather(*cells):
    return Collection(records=cells, axes=records.axes(cells), title="A sweep.")


def seeds(mean, n=5, place=0, **labels):
    """Returns cells of one setting: val around a mean, test 0.1 below."""
    return [
        cell(
            {**labels, "seed": s},
            mean + SHIFT[s] + NOISE[place, s],
            mean - 0.1 + SHIFT[s] + NOISE[place, s],
        )
        for s in range(n)
    ]


def study(**means):
    return gather(
        *(c for i, (m, v) in enumerate(means.items()) for c in seeds(v, 5, i, method=m))
    )


def by_name(summary):
    return {line.name: line for line in summary.lines}


def test_a_line_per_method_paired_with_the_one_called_full():
    made = study(scratch=0.6, full=0.8, near=0.82, same=0.8)
    found = summarise(made)
    assert found.metric == "accuracy"
    assert found.split == "test"
    assert found.baseline == {"method": "full"}
    lines = by_name(found)
    assert list(lines) == ["scratch", "full", "near", "same"]
    verdicts = {n: x.comparison and x.comparison.verdict for n, x in lines.items()}
    assert verdicts == {
        "scratch": "worse",
        "full": None,
        "near": "better",
        "same": "tie",
    }
    values = {
        name: [made.records[5 * i + s].result["test"]["accuracy"] for s in range(5)]
        for i, name in enumerate(lines)
    }
    p = [
        stats.ttest_rel(values[n], values["full"]).pvalue
        for n in ("scratch", "near", "same")
    ]
    adjusted = statistics.holm(p)
    assert [
        lines[n].comparison.adjusted for n in ("scratch", "near", "same")
    ] == pytest.approx(adjusted)
    known = stats.t.interval(
        0.95, 4, np.mean(values["near"]), stats.sem(values["near"])
    )
    assert lines["near"].test[1:3] == pytest.approx(known)
    assert [x.name for x in found.lines if x.top] == ["near"]


def test_lower_is_better_of_a_loss():
    found = by_name(summarise(study(full=0.8, near=0.9), metric="nll"))
    assert found["near"].comparison.verdict == "better"
    assert found["near"].comparison.difference.mean < 0
    assert found["near"].top
    assert not found["full"].top


def sweep(method="full", val=(0.7, 0.8, 0.75), test=(0.9, 0.6, 0.7), n=3):
    """Returns cells of three rates, the best on val being the worst on test."""
    return [
        cell({"method": method, "optim.lr": lr, "seed": s}, v + 0.01 * s, t + 0.01 * s)
        for lr, v, t in zip((1e-3, 1e-2, 1e-1), val, test)
        for s in range(n)
    ]


def test_hyperparameters_are_chosen_on_val_and_only_those_are_tested():
    made = gather(*sweep(), *sweep("other", val=(0.9, 0.8, 0.7)))
    found = summarise(made)
    assert found.division.compared == ("method",)
    assert found.division.tuned == ("optim.lr",)
    lines = by_name(found)
    assert lines["full"].tuned == {"optim.lr": 1e-2}
    assert lines["full"].test.mean == pytest.approx(0.61)
    assert lines["other"].tuned == {"optim.lr": 1e-3}
    assert lines["full"].candidates == 3
    assert len(found.settings) == 6
    rest = [line for line in found.settings if not line.chosen]
    assert len(rest) == 4
    assert all(line.test is None and not line.values["test"] for line in rest)


def test_the_smallest_loss_on_val_is_chosen():
    found = summarise(gather(*sweep()), metric="nll")
    assert found.lines[0].tuned == {"optim.lr": 1e-2}


def test_settings_with_fewer_seeds_are_no_candidates():
    cells = sweep()
    cells[5] = cell(dict(cells[5].labels), status="failed")  # of the best rate
    found = summarise(gather(*cells))
    [line] = found.lines
    assert line.tuned == {"optim.lr": 1e-1}
    assert line.partial == 1
    assert line.rival == "lr=0.01 (2 seeds)"
    failed = next(x for x in found.settings if x.failed)
    assert failed.seeds == (0, 1)
    assert failed.missing == (2,)
    assert failed.reasons == ("the loss is not finite",)
    assert found.counts == {"done": 8, "failed": 1}


def test_without_val_nothing_is_tuned():
    cells = [cell({"optim.lr": lr, "seed": 0}, test=lr) for lr in (0.1, 0.2)]
    found = summarise(gather(*cells))
    assert not found.tuned
    assert [line.name for line in found.lines] == ["lr=0.1", "lr=0.2"]


@pytest.mark.parametrize(
    ("compare", "compared", "tuned"),
    [
        (None, ("method", "data.labels_per_class"), ("optim.lr", "terms.l2.weight")),
        (
            ["method"],
            ("method",),
            ("data.labels_per_class", "optim.lr", "terms.l2.weight"),
        ),
        (["lr", "weight"], ("optim.lr", "terms.l2.weight"), None),
    ],
)
def test_axes_are_divided(compare, compared, tuned):
    axes = {
        "method": ("a", "b"),
        "data.labels_per_class": (5, 10),
        "optim.lr": (0.1, 1),
        "terms.l2.weight": (0.0, None),
        "optim.b1": (0.9,),
        "seed": (0, 1),
    }
    found = settings.divide(axes, compare)
    assert found.compared == compared
    assert tuned is None or found.tuned == tuned
    assert found.fixed == {"optim.b1": 0.9}


def test_columns_have_their_own_baseline_and_best():
    cells = []
    for i, (method, n, mean) in enumerate(
        [("full", 5, 0.6), ("full", 50, 0.8), ("near", 5, 0.7), ("near", 50, 0.7)]
    ):
        cells += seeds(mean, 5, i, method=method, **{"data.labels_per_class": n})
    found = by_name(summarise(gather(*cells)))
    few, many = (found[f"near, labels_per_class={n}"] for n in (5, 50))
    assert few.comparison.against == "full, labels_per_class=5"
    assert many.comparison.against == "full, labels_per_class=50"
    assert (few.comparison.verdict, many.comparison.verdict) == ("better", "worse")
    assert [name for name, x in found.items() if x.top] == [
        "full, labels_per_class=50",
        "near, labels_per_class=5",
    ]


def test_any_setting_may_be_the_baseline():
    found = summarise(study(a=0.6, b=0.8), baseline=["b"])
    assert by_name(found)["a"].comparison.against == "b"
    found = summarise(study(a=0.6, b=0.8))  # the first, where none is called full
    assert found.baseline == {"method": "a"}
    with pytest.raises(UserError, match=r"method has no value 'c'.*values: a, b"):
        summarise(study(a=0.6, b=0.8), baseline=["method=c"])
    with pytest.raises(UserError, match=r"no axis 'metod'; did you mean 'method'"):
        summarise(study(a=0.6, b=0.8), baseline=["metod=a"])
    with pytest.raises(UserError, match=r"tuned on val; .*--compare method optim.lr"):
        summarise(gather(*sweep(), *sweep("b")), baseline=["lr=0.01"])


def test_negative_transfer_raises_an_alarm():
    found = by_name(summarise(study(scratch=0.7, full=0.8, lost=0.6, near=0.6999)))
    [alarm] = found["lost"].alarms
    assert alarm.text == "loses to from-scratch"
    assert alarm.comparison.difference.mean == pytest.approx(-0.1, abs=0.005)
    assert not found["full"].alarms
    assert not found["scratch"].alarms
    for alarm in found["near"].alarms:
        assert alarm.text == "below from-scratch, not significant"


def test_one_seed_below_scratch_can_only_be_told_as_below():
    made = gather(*seeds(0.7, 1, method="scratch"), *seeds(0.5, 1, 1, method="x"))
    line = summarise(made).lines[1]
    assert [a.text for a in line.alarms] == ["below from-scratch, not significant"]
    assert line.test.half is None
    assert line.comparison.verdict == ""


def test_a_run_without_steps_is_the_untouched_source():
    cells = seeds(0.8, 5, 0, method="as it was")
    still = [
        cell(
            dict(c.labels), *(c.value(s, "accuracy") for s in ("val", "test")), steps=0
        )
        for c in cells
    ]
    knn = seeds(0.4, 5, 2, method="baseline: k-NN on pixels")
    found = summarise(gather(*still, *seeds(0.7, 5, 1, method="tuned"), *knn))
    assert found.references == ("the untouched source",)
    lines = by_name(found)
    assert [a.text for a in lines["tuned"].alarms] == ["loses to the untouched source"]
    assert not lines["baseline: k-NN on pixels"].alarms  # it transfers nothing


def test_scratch_by_another_name():
    made = study(zero=0.7, lost=0.5)
    assert not summarise(made).references
    found = by_name(summarise(made, scratch=["method=zero"]))
    assert found["lost"].alarms[0].significant


def test_other_data_are_compared_with_nothing():
    source = cell({"run": "source", "seed": 0}, 0.99, 0.99)
    source = Record(labels=source.labels, result=source.result, data="Arrays usps.npz")
    rest = [
        Record(labels={"run": m, "seed": s}, result=r.result, data="Arrays mnist.npz")
        for m in ("full", "near")
        for s, r in enumerate(seeds(0.8, 3, method=m))
    ]
    lines = by_name(summarise(gather(source, *rest)))
    assert lines["source"].comparison is None
    assert not lines["source"].top
    assert lines["full"].top


def write_sweep(folder: pathlib.Path, cells, **facts):
    folder.mkdir(parents=True)
    with Database(folder, create=True) as database:
        database.set_meta(doc="A sweep.\n\nMore.", **facts)
        database.add((str(i), c.labels) for i, c in enumerate(cells))
        database.finish(
            Outcome(str(i), c.status, c.result, {}, c.error)
            for i, c in enumerate(cells)
        )
    return folder


def test_folders_of_other_data_are_refused(tmp_path):
    def of(path):
        return {
            "": {"data": {"type": "jaxtl.data.sources.arrays:Arrays", "path": path}}
        }

    a = write_sweep(tmp_path / "a", seeds(0.8), experiments=of("usps.npz"))
    b = write_sweep(tmp_path / "b", seeds(0.8, method="x"), experiments=of("mnist.npz"))
    with pytest.raises(UserError) as error:
        summarise(records.read([a, b]))
    told = f"{a} and {b} can't stand in one table: their data are Arrays usps.npz and"
    assert str(error.value).startswith(told)


def test_folders_of_other_metrics_or_test_sets_are_refused():
    a = Record(labels={"run": "a"}, folder="a", result={"test": {"accuracy": 1.0}})
    b = Record(labels={"run": "b"}, folder="b", result={"test": {"mse": 1.0}})
    with pytest.raises(UserError, match="their metrics are accuracy and mse"):
        summarise(gather(a, b))
    sized = [
        Record(
            labels={"run": n},
            folder=n,
            result={"test": {"accuracy": 1.0}, "examples": {"test": size}},
        )
        for n, size in (("a", 100), ("b", 2000))
    ]
    with pytest.raises(UserError, match="they were tested on 100 and 2,000 examples"):
        summarise(gather(*sized))


def test_the_same_labels_of_two_folders_are_told_apart(tmp_path):
    paths = [
        write_sweep(tmp_path / n, seeds(0.8, method="full"))
        for n in ("first", "second")
    ]
    found = records.read([*paths, paths[0]])
    assert len(found.records) == 10
    assert found.axes["folder"] == ("first", "second")


def test_runs_named_by_setting_become_two_axes():
    cells = [
        Record(labels={"run": name, "seed": 0})
        for name in ("src", "mnist/full", "mnist/near", "cifar/full")
    ]
    found = records.axes(records._runs_by_setting(cells))
    assert found["setting"] == ("mnist", "cifar")
    assert found["run"] == ("src", "full", "near")
    alone = records._runs_by_setting(cells[:3])
    assert records.axes(alone)["run"] == ("src", "mnist/full", "mnist/near")


def test_nan_is_stored_as_nothing_and_is_no_damage(tmp_path):
    cells = seeds(0.8, 2, method="full")
    cells[0].result["test"]["accuracy"] = float("nan")
    path = write_sweep(tmp_path / "a", cells)
    with Database(path) as database:
        assert set(database.statuses().values()) == {"done"}
    [line] = summarise(records.read([path])).lines
    assert line.test.n == 1
    assert line.seeds == (0, 1)


def test_a_damaged_row_is_left_out(tmp_path):
    path = write_sweep(tmp_path / "a", seeds(0.8, 3, method="full"))
    with Database(path) as database:
        database.connection.execute("UPDATE cells SET result = '{' WHERE key = '1'")
    found = summarise(records.read([path]))
    assert found.counts == {"done": 2, "damaged": 1}
    assert found.lines[0].seeds == (0, 2)
    assert found.title == "A sweep."


def test_bad_input():
    made = study(full=0.8)
    with pytest.raises(UserError, match=r"no run has the metric 'acuracy'; did you"):
        summarise(made, metric="acuracy")
    with pytest.raises(UserError, match=r"no cell of the sweep is done yet.*2 waiting"):
        summarise(gather(*[cell({"seed": s}, status="waiting") for s in range(2)]))
    with pytest.raises(UserError, match=r"no axis 'optim.lr'"):
        summarise(made, compare=["optim.lr"])
    untested = gather(cell({"seed": 0}, 0.5))
    assert summarise(untested).split == "val"
    with pytest.raises(
        UserError, match="no finished run has a finite accuracy on test"
    ):
        summarise(untested, split="test")
