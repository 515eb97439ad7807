"""Sweeps from Python: their cells, their numbers, and their display in notebooks."""

import dataclasses
import html.parser
import re

import numpy as np
import pytest

import jaxtl as tl

AXES = {"optim.lr": [1e-3, 1e-2], "seed": range(2)}


@pytest.fixture(scope="module")
def exp():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=tl.data.Digits(labels_per_class=5, val=0.2, split_seed=0),
        terms={"task": tl.losses.CrossEntropy()},
        steps=5,
    )


@pytest.fixture(scope="module")
def results(exp):
    baselines = {"3-NN": tl.baselines.KNN(neighbors=3)}
    return tl.run_sweep(exp, AXES, baselines=baselines, title="a < b")


def test_cells_have_the_numbers_of_single_runs(exp, results):
    records = [r for r in results.collection.records if "optim.lr" in r.labels]
    assert len(records) == 4
    for record in records:
        optim = tl.optim.AdamW(lr=record.labels["optim.lr"])
        single = dataclasses.replace(exp, optim=optim, seed=record.labels["seed"])
        expected = tl.train(tl.setup(single))["test"]["accuracy"]
        assert record.value("test", "accuracy") == pytest.approx(expected, abs=1e-6)


def test_the_table_shows_means_over_seeds(results):
    records = [r for r in results.collection.records if r.labels["method"] != "network"]
    mean = np.mean([r.value("test", "accuracy") for r in records])
    assert f"{100 * mean:.1f} [" in results._repr_html_()
    assert f"{100 * mean:.1f} [" in repr(results)
    assert results.summary.tuned


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.rows, self.columns = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_html_is_well_formed_and_escaped(results):
    text = results._repr_html_()
    assert "a &lt; b" in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.rows) >= 3
    figures = re.findall(r"<td[^>]*>(?:<strong>)?[−+]?[\d.]+ ± [\d.]+", text)
    assert figures
    assert all("text-align:right;white-space:nowrap" in cell for cell in figures)
    assert min(tags.rows) >= 2


def test_a_sweep_in_a_folder_continues_and_is_read_back(exp, tmp_path):
    out = tmp_path / "sweep"
    first = tl.run_sweep(exp, {"seed": [0]}, out)
    longer = tl.run_sweep(exp, {"seed": [0, 1]}, out)
    assert len(longer.collection.records) == 2
    seconds = [r.collection.records[0].result["train_seconds"] for r in (first, longer)]
    assert seconds[0] == seconds[1], "the first cell did not run again"
    assert repr(tl.read_results(out)) == repr(longer)
    with pytest.raises(tl.UserError, match="other experiments"):
        tl.run_sweep(dataclasses.replace(exp, steps=6), {"seed": [0]}, out)
    written = longer.write(tmp_path / "report")
    assert {"report.md", "report.html"} <= {path.name for path in written}


def test_a_file_brings_its_own_axes(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(
        '"""A file."""\nimport jaxtl as tl\n'
        "def experiment():\n"
        "    return tl.Experiment(model=tl.models.MLP(widths=(4,)), "
        "data=tl.data.Digits(labels_per_class=2), steps=2)\n"
        'SWEEP = {"optim.lr": [1e-3, 1e-2, 1e-1]}\n'
        'BASELINES = {"1-NN": tl.baselines.KNN(neighbors=1)}\n'
    )
    plan = tl.plan_sweep(path)
    assert (plan.cells, plan.fits, plan.programs) == (3, 1, 1)
    assert "<table>" in plan._repr_html_()
    results = tl.run_sweep(path)
    assert results.summary.title == "A file."
    assert len(results.collection.records) == 4


def test_variants_start_from_each_other(exp):
    source = dataclasses.replace(exp, data=tl.data.RenderedDigits(per_class=10))
    tuned = dataclasses.replace(exp, init=tl.Variant("source"))
    variants = {"source": source, "tuned": tuned, "scratch": exp}
    results = tl.run_sweep(variants, {"seed": [0]})
    drift = {r.labels["variant"]: r.result["drift"] for r in results.collection.records}
    assert drift["tuned"] > 0
    assert drift["scratch"] is None
    assert "source" not in drift


def test_pictures_are_png_and_unknown_ones_are_named(results):
    assert results.plots["overview"]._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(tl.UserError, match="did you mean 'overview'"):
        results.plots["overveiw"]


@pytest.mark.parametrize(
    ("experiment", "axes", "message"),
    [
        ("exp", {}, "expected a mapping from fields"),
        ("exp", {"optim.lrr": [1]}, "lrr"),
        (3, {"seed": [0]}, "expected a tl.Experiment"),
        ({"a": 3}, {"seed": [0]}, "for 'a'"),
        ("missing.py", None, "no experiment file"),
    ],
)
def test_wrong_arguments_are_refused(exp, experiment, axes, message):
    with pytest.raises(tl.UserError, match=message):
        tl.run_sweep(exp if experiment == "exp" else experiment, axes)
