"""Sweeps over unlabelled targets: replicas measure and settings follow the criteria."""

import dataclasses

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.data import Arrays
from jaxtl.evaluation import selection_cost
from jaxtl.results import findings, records, tables
from jaxtl.results.build_summary import summarise
from jaxtl.results.records import Collection, Record
from jaxtl.sweep import vectorized_loop, vectorized_runs
from jaxtl.training.run import Run

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
        for name, one in replica.result["choosing"]["criteria"].items():
            other = alone["choosing"]["criteria"][name]
            assert one == pytest.approx(other, rel=2e-3, abs=1e-4)


def test_replicas_that_keep_the_last_weights_have_the_criteria_of_val():
    exps = [adaptation(monitor=None, seed=seed) for seed in (0, 1)]
    for replica in vectorized_loop.train_vectorized(
        vectorized_runs.VectorizedRuns([Run(exp) for exp in exps], "map")
    ):
        assert set(CRITERIA) < set(replica.result["val"])


def cell(val, test, scores, monitor="source_accuracy", **labels):
    """Returns a finished record: target accuracies, and each criterion's score."""
    curve = [{"step": 5, "accuracy": val, **scores}]
    result = {
        "monitor": monitor,
        "val": {"accuracy": val, **scores},
        "test": {"accuracy": test},
        "choosing": selection_cost.cost_of_criteria(curve, monitor, "classification"),
    }
    return Record(labels=labels, result=result)


def sweep(*cells, **facts) -> Collection:
    return Collection(records=cells, axes=records.axes(cells), title="A", **facts)


LR = "optim.lr"


def collection(monitor="source_accuracy"):
    """The source likes 0.1, SND 0.01, and the target's labels would like 1.0."""
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


def test_settings_go_by_the_criterion_and_are_told_by_accuracy():
    found = summarise(collection())
    [line] = found.lines
    assert (found.metric, found.by, found.split) == (
        "accuracy",
        "source_accuracy",
        "test",
    )
    assert line.tuned == {LR: 0.1}
    assert line.test.mean == pytest.approx(0.55)
    # Asked for one, a report goes by it; the oracle's runs go by their own metric.
    [line] = summarise(collection("accuracy")).lines
    assert line.tuned == {LR: 1.0}


def test_other_criteria_stand_next_to_the_oracle():
    found = summarise(collection())
    rows = {row.criterion: row for row in found.choosing}
    assert rows["source_accuracy"].tuned == {LR: 0.1}
    assert rows["source_accuracy"].value == pytest.approx(0.61)
    assert rows["snd"].tuned == {LR: 0.01}
    assert rows["snd"].oracle == pytest.approx(0.81)
    assert rows["snd"].cost == pytest.approx(0.10)
    assert [row.used for row in found.choosing] == [True, False]
    sheet = next(s for s in tables.sheets(found) if s.title.startswith("choosing"))
    assert sheet.columns == ("criterion", "chosen", "val accuracy %", "oracle", "cost")
    assert sheet.rows == (
        ("source_accuracy", "lr=0.1", "61.0", "81.0", "20.0"),
        ("snd", "lr=0.01", "71.0", "81.0", "10.0"),
    )
    assert sheet.bold == {(0, 0)}
    told = " ".join([*findings.conclusions(found), *findings.notes(found)])
    assert "source_accuracy (which sees no label of the target)" in told
    assert "source_accuracy chose without target labels, means of 6 runs" in told


def test_an_oracles_sweep_is_told_to_be_one():
    told = " ".join(findings.conclusions(summarise(collection("accuracy"))))
    assert "ORACLE: accuracy on val reads labels of the target" in told


def test_many_lines_are_averaged():
    cells = [
        cell(0.5 + 0.01 * i, 0.5, {"snd": s}, "snd", pair=f"{i}", **{LR: lr, "seed": 0})
        for i in range(8)
        for lr, s in ((0.1, 1.0), (0.2, 2.0))
    ]
    found = summarise(sweep(*cells), compare=["pair"])
    [mean] = found.choosing
    assert mean.compared == {}
    assert mean.value == pytest.approx(0.535)
    sheet = tables.blind(found)
    assert sheet.rows == (("snd", "53.5", "53.5", "0.0"),)
    assert sheet.title.endswith("mean of all lines")
    few = summarise(sweep(*cells[:4]), compare=["pair"])
    assert [row.compared for row in few.choosing] == [{}, {"pair": "0"}, {"pair": "1"}]
    assert tables.blind(few).rows[0][0] == "mean of all"


def test_settings_without_the_criterion_go_by_the_metric():
    """A labelled upper bound in the same sweep has no criterion."""
    bound = [
        Record(
            labels={"method": "labelled", LR: lr, "seed": 0},
            result={
                "monitor": "accuracy",
                "val": {"accuracy": acc},
                "test": {"accuracy": acc},
            },
        )
        for lr, acc in ((0.1, 0.9), (1.0, 0.7))
    ]
    blind = [
        cell(acc, acc, {"snd": s}, "snd", method="blind", **{LR: lr, "seed": 0})
        for lr, acc, s in ((0.1, 0.6, 1.0), (1.0, 0.5, 2.0))
    ]
    found = {x.name: x for x in summarise(sweep(*bound, *blind)).lines}
    assert found["labelled"].tuned == {LR: 0.1}
    assert found["blind"].tuned == {LR: 1.0}


def test_a_file_is_swept_by_the_criterion(tmp_path, capsys):
    """From an experiment file to its report, with the command's own pieces."""
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
    found = summarise(records.read([out]))
    assert found.by == "source_accuracy"
    assert {row.criterion for row in found.choosing} == set(CRITERIA)
    assert main.main(["report", str(out)]) == 0
    text = (out / "report" / "report.md").read_text()
    assert "choosing without target labels" in text
    one = tmp_path / "one"
    assert main.main(["run", str(file), "--out", str(one)]) == 0
    assert "source_accuracy chose without target labels: val" in capsys.readouterr().out
