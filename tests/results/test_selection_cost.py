"""Sweeps over unlabelled targets: replicas and settings are chosen by criteria."""

import dataclasses

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.data import Arrays
from jaxtl.evaluation import selection_cost
from jaxtl.results import findings, records, tables
from jaxtl.results.build_summary import summarize
from jaxtl.results.records import Record
from jaxtl.sweep import vectorized_loop, vectorized_runs
from jaxtl.training.run import Run

CRITERIA = ("source_accuracy", "iwv", "dev", "entropy", "snd", "bnm")


def points(seed, shift=0.0, **options):
    rng = np.random.default_rng(seed)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 4)) + 2 * np.eye(4)[y] + shift
    return Arrays(x=x.astype(np.float32), y=y, test=0.2, val=0.2, **options)


# Module constants: replicas share arrays that are the same objects.
DATA, SOURCE = points(1, 1.0, labels=0), points(0)


def adaptation(**changes):
    fields = {
        "model": tl.models.MLP(widths=(8, 6)),
        "data": DATA,
        "streams": {"source": SOURCE},
        "terms": {
            "task": tl.losses.CrossEntropy(stream="source"),
            "coral": tl.domain.DeepCORAL(),
        },
        "optim": tl.optim.AdamW(lr=0.01),
        "steps": 9,
        "evaluate_every": 3,
        "batch": 16,
    }
    return tl.Experiment(**{**fields, **changes})


FROZEN = {
    "optim": tl.optim.AdamW(lr=0.01, groups={"head": 1.0, ".*": tl.FROZEN}),
    "terms": {"task": tl.losses.CrossEntropy(stream="source")},
    "cache": "memory",
    "monitor": "entropy",
    # Replicas of one cache have the same frozen weights and statistics.
    "init": None,
}


@pytest.mark.parametrize("mode", ["map", "vmap"])
@pytest.mark.parametrize("changes", [{}, FROZEN], ids=["all moves", "frozen"])
def test_replicas_choose_as_runs_alone_do(mode, changes):
    seeds = (0, 1, 2) if not changes else (0, 0, 0)
    rates = (0.01, 0.02, 0.05)
    exps = [
        dataclasses.replace(
            exp, seed=seed, optim=dataclasses.replace(exp.optim, lr=rate)
        )
        for exp in [adaptation(**changes)]
        for seed, rate in zip(seeds, rates)
    ]
    replicas = vectorized_runs.VectorizedRuns([Run(exp) for exp in exps], mode)
    assert (replicas.cached is not None) == bool(changes)
    outcomes = vectorized_loop.train_vectorized(replicas)
    for exp, replica in zip(exps, outcomes, strict=True):
        run = Run(exp)
        alone = tl.train(run, progress=False)
        assert replica.result["chosen"] == alone["chosen"]
        assert replica.result["monitor"] == alone["monitor"]
        assert replica.result["terms"]["monitor"] == alone["terms"]["monitor"]
        for ours, theirs in zip(replica.curve["val"], run.curve["val"], strict=True):
            assert set(CRITERIA) < set(ours)
            assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-4)
        assert set(replica.result["choosing"]) == set(alone["choosing"])
        for name, choice in replica.result["choosing"]["criteria"].items():
            expected = alone["choosing"]["criteria"][name]
            assert choice == pytest.approx(expected, rel=2e-3, abs=1e-4)


def test_replicas_that_keep_the_last_weights_have_the_criteria_of_val():
    exps = [adaptation(monitor=None, seed=seed) for seed in (0, 1)]
    for replica in vectorized_loop.train_vectorized(
        vectorized_runs.VectorizedRuns([Run(exp) for exp in exps], "map")
    ):
        assert set(CRITERIA) < set(replica.result["val"])


def cell(val, test, scores, monitor="source_accuracy", **labels):
    """A finished record: target accuracies, and each criterion's score."""
    curve = [{"step": 5, "accuracy": val, **scores}]
    result = {
        "monitor": monitor,
        "val": {"accuracy": val, **scores},
        "test": {"accuracy": test},
        "choosing": selection_cost.cost_of_criteria(curve, monitor, "classification"),
    }
    return Record(labels=labels, result=result)


def sweep(*cells):
    return records.collect(cells, {"doc": "A"})


LR = "optim.lr"


def collection(monitor="source_accuracy"):
    """The source chooses the rate 0.1, SND 0.01, and the target's labels 1.0."""
    rows = [
        (0.1, 0.60, 0.55, {"source_accuracy": 0.9, "snd": 1.0}),
        (0.01, 0.70, 0.75, {"source_accuracy": 0.8, "snd": 3.0}),
        (1.0, 0.80, 0.65, {"source_accuracy": 0.7, "snd": 2.0}),
    ]
    return sweep(
        *(
            cell(val + 0.02 * s, test, scores, monitor, **{LR: lr, "seed": s})
            for lr, val, test, scores in rows
            for s in (0, 1)
        )
    )


def test_settings_are_chosen_by_the_criterion_and_compared_by_accuracy():
    summary = summarize(collection())
    [row] = summary.rows
    assert summary.metric == "accuracy"
    assert summary.criterion == "source_accuracy"
    assert summary.split == "test"
    assert row.tuned == {LR: 0.1}
    assert row.test.mean == pytest.approx(0.55)
    # Runs that were chosen by target labels are chosen by their own metric.
    [row] = summarize(collection("accuracy")).rows
    assert row.tuned == {LR: 1.0}


@pytest.mark.parametrize(("higher", "chosen"), [(True, 0.1), (False, 0.01)])
def test_own_metrics_without_labels_choose_by_their_direction(higher, chosen):
    cells = []
    for lr, rank, val in ((0.1, 3.0, 0.6), (0.01, 2.0, 0.7), (1.0, 2.5, 0.8)):
        curve = [{"step": 5, "accuracy": val, "rank": rank}]
        choosing = selection_cost.cost_of_criteria(
            curve, "rank", "classification", {"rank": higher}
        )
        result = {
            "monitor": "rank",
            "val": {"accuracy": val, "rank": rank},
            "test": {"accuracy": val},
            "higher_is_better": {"rank": higher},
            "choosing": choosing,
        }
        for seed in (0, 1):
            cells.append(Record(labels={LR: lr, "seed": seed}, result=result))
    summary = summarize(sweep(*cells))
    # The target's labels compare settings, and do not choose them.
    assert (summary.metric, summary.criterion) == ("accuracy", "rank")
    [row] = summary.rows
    assert row.tuned == {LR: chosen}
    [choice] = summary.criterion_choices
    assert choice.tuned == {LR: chosen}
    table = tables.settings_table(summary)
    best = max(range(3), key=lambda i: table.ranks[i])
    assert table.rows[best][0] == f"{chosen}"


def test_a_criterion_of_which_less_is_better_chooses_its_least_checkpoint():
    curve = [
        {"step": i, "accuracy": accuracy, "rank": rank}
        for i, (accuracy, rank) in enumerate([(0.5, 3.0), (0.8, 1.0), (0.9, 2.0)])
    ]
    cost = selection_cost.cost_of_criteria(
        curve, "rank", "classification", {"rank": False}
    )
    assert cost["criteria"]["rank"]["step"] == 1
    assert cost["criteria"]["rank"]["cost"] == pytest.approx(0.1)


def test_other_criteria_are_compared_with_the_oracle():
    summary = summarize(collection())
    choices = {choice.criterion: choice for choice in summary.criterion_choices}
    assert choices["source_accuracy"].tuned == {LR: 0.1}
    assert choices["source_accuracy"].value == pytest.approx(0.61)
    assert choices["snd"].tuned == {LR: 0.01}
    assert choices["snd"].oracle == pytest.approx(0.81)
    assert choices["snd"].cost == pytest.approx(0.10)
    assert [choice.used for choice in summary.criterion_choices] == [True, False]
    table = next(
        table
        for table in tables.summary_tables(summary)
        if table.title.startswith("choosing")
    )
    assert table.columns == ("criterion", "chosen", "val accuracy %", "oracle", "cost")
    assert table.rows == (
        ("source_accuracy", "lr=0.1", "61.0", "81.0", "20.0"),
        ("snd", "lr=0.01", "71.0", "81.0", "10.0"),
    )
    assert table.bold == {(0, 0)}
    text = " ".join([*findings.conclusions(summary), *findings.notes(summary)])
    assert "source_accuracy (which sees no label of the target)" in text
    assert "source_accuracy chose without target labels, means of 6 runs" in text


def test_a_sweep_that_reads_target_labels_is_reported_as_an_oracle():
    text = " ".join(findings.conclusions(summarize(collection("accuracy"))))
    assert "ORACLE: accuracy on val reads labels of the target" in text


def test_many_compared_values_are_averaged():
    cells = [
        cell(0.5 + 0.01 * i, 0.5, {"snd": s}, "snd", pair=f"{i}", **{LR: lr, "seed": 0})
        for i in range(8)
        for lr, s in ((0.1, 1.0), (0.2, 2.0))
    ]
    summary = summarize(sweep(*cells), compare=["pair"])
    [mean] = summary.criterion_choices
    assert mean.compared == {}
    assert mean.value == pytest.approx(0.535)
    table = tables.criteria_table(summary)
    assert table.rows == (("snd", "53.5", "53.5", "0.0"),)
    assert table.title.endswith("mean of all lines")
    few = summarize(sweep(*cells[:4]), compare=["pair"])
    compared = [choice.compared for choice in few.criterion_choices]
    assert compared == [{}, {"pair": "0"}, {"pair": "1"}]
    assert tables.criteria_table(few).rows[0][0] == "mean of all"


def test_settings_without_the_criterion_are_chosen_by_the_metric():
    """A labelled upper bound in the same sweep has no criterion."""
    labelled = [
        Record(
            labels={"method": "labelled", LR: lr, "seed": 0},
            result={
                "monitor": "accuracy",
                "val": {"accuracy": accuracy},
                "test": {"accuracy": accuracy},
            },
        )
        for lr, accuracy in ((0.1, 0.9), (1.0, 0.7))
    ]
    unlabelled = [
        cell(acc, acc, {"snd": s}, "snd", method="unlabelled", **{LR: lr, "seed": 0})
        for lr, acc, s in ((0.1, 0.6, 1.0), (1.0, 0.5, 2.0))
    ]
    rows = {row.name: row for row in summarize(sweep(*labelled, *unlabelled)).rows}
    assert rows["labelled"].tuned == {LR: 0.1}
    assert rows["unlabelled"].tuned == {LR: 1.0}


def test_a_file_is_swept_by_the_criterion(tmp_path, capsys):
    from jaxtl.cli import main

    file = tmp_path / "adapt.py"
    file.write_text(
        '''"""Adaptation."""
import numpy as np
import jaxtl as tl


def points(seed, shift):
    rng = np.random.default_rng(seed)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 4)) + 2 * np.eye(4)[y] + shift
    return dict(x=x.astype(np.float32), y=y, test=0.2, val=0.2)


def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(6,)),
        data=tl.data.Arrays(**points(1, 1.0), labels=0),
        streams={"source": tl.data.Arrays(**points(0, 0.0))},
        terms={"task": tl.losses.CrossEntropy(stream="source"),
               "coral": tl.domain.DeepCORAL()},
        steps=4, batch=8)


SWEEP = {"terms.coral.weight": [0.0, 1.0], "seed": range(2)}
'''
    )
    out = tmp_path / "sweep"
    assert main.main(["sweep", str(file), "--out", str(out)]) == 0
    summary = summarize(records.read([out]))
    assert summary.criterion == "source_accuracy"
    criteria = {choice.criterion for choice in summary.criterion_choices}
    assert criteria == set(CRITERIA)
    assert main.main(["report", str(out)]) == 0
    text = (out / "report" / "report.md").read_text()
    assert "choosing without target labels" in text
    run = tmp_path / "run"
    assert main.main(["run", str(file), "--out", str(run)]) == 0
    assert "source_accuracy chose without target labels: val" in capsys.readouterr().out
