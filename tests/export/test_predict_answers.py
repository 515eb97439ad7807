"""A model of questions from a file of SQuAD to the answers for other files."""

import dataclasses
import json

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.cli.main import main
from jaxtl.core.errors import UserError
from jaxtl.data.question_windows import context_windows
from jaxtl.evaluation import evaluate
from jaxtl.evaluation.metrics.answers import answer_scores
from jaxtl.export import bundle, predict, write_bundle
from jaxtl.export.predict_answers import answered_questions

pytest.importorskip("tokenizers")

NAMES = ("anna", "bert", "carl", "dora", "emil", "frida", "gus", "hanna")
CITIES = ("paris", "oslo", "rome", "lima", "cairo")


def questions():
    """40 questions, of which every fourth has no answer."""
    for i in range(40):
        name, city = NAMES[i % 8], CITIES[i // 8]
        context = f"{name} lives in {city} since 19{40 + i} ."
        answers = [{"text": city, "answer_start": context.index(city)}]
        if i % 4 == 3:
            context, answers = f"{name} sells apples and {city} pears there .", []
        yield {
            "id": f"q{i}",
            "question": f"where does {name} live ?",
            "context": context,
            "answers": answers,
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a trained run, its data and its export."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "train.json").write_text(json.dumps([*questions()]))
    model = tl.models.Bert(
        vocab=256, width=16, layers=1, heads=2, hidden=16, context=32, predict="span"
    )
    experiment = tl.Experiment(
        model=model,
        data=tl.data.SQuAD(
            str(folder / "train.json"), val=8, test=8, max_length=16, stride=3
        ),
        optim=tl.optim.AdamW(lr=0.02),
        metrics={"f1": tl.metrics.AnswerF1(per_kind=True)},
        monitor="f1[HasAns]",
        threshold="f1",
        steps=40,
        batch=16,
    )
    trained = tl.setup(experiment, folder / "run")
    tl.train(trained)
    write_bundle.export(folder / "run", folder / "out")
    return folder, trained


def test_answers_are_learned_and_predicted(run):
    folder, trained = run
    values = tl.evaluate(trained, "test", which="best")
    assert values["answer_f1"] > 0.8
    assert values["f1"] == values["answer_f1"]
    rows = predict.predict(folder / "out", folder / "train.json")
    target = trained.datasets["target"]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(40)]
    for row, context in zip(rows, target.questions.contexts):
        if row["start"] is not None:
            assert context[row["start"] :].startswith(row["answer"])
    scores = [
        answer_scores(rows[i]["answer"], target.questions.answers[i])
        for i in target.example_rows["test"]
    ]
    expected = (values["exact_match"], values["answer_f1"])
    np.testing.assert_allclose(np.mean(scores, axis=0), expected, atol=1e-12)


def test_a_stored_run_measures_the_same(run):
    folder, trained = run
    stored = tl.load_model(folder / "run")
    assert stored.thresholds == trained.thresholds
    exported = bundle.load(folder / "out").thresholds
    assert exported == pytest.approx(trained.thresholds)
    values = tl.evaluate(trained, "test", which="best")
    assert tl.evaluate(stored, "test") == pytest.approx(values, abs=1e-6)
    intervals = evaluate.bootstrap(stored, "test", resamples=20)
    assert intervals["f1"].low <= values["f1"] <= intervals["f1"].high


def test_tables_and_lines_hold_questions_too(run, capsys):
    folder, _ = run
    question, context = "where does anna live ?", "anna lives in oslo since 1990 ."
    (folder / "a.txt").write_text(f"\n{question}\t{context}\n")
    (folder / "a.csv").write_text(f"context,question\n{context},{question}\n")
    (folder / "a.jsonl").write_text(
        json.dumps({"context": context, "question": question})
    )
    rows = predict.predict(folder / "out", [folder / f"a.{s}" for s in ("txt", "csv")])
    assert [row["origin"][-6:] for row in rows] == [".txt:2", ".csv:2"]
    assert rows[0]["score"] == rows[1]["score"]
    capsys.readouterr()
    assert main(["predict", str(folder / "out"), str(folder / "a.jsonl")]) == 0
    assert rows[0]["answer"] in capsys.readouterr().out
    # A context of several windows: the answer is the best span of all.
    long = "bert sells apples there . " * 4 + context
    (folder / "long.txt").write_text(f"{question}\t{long}")
    [row] = predict.predict(folder / "out", folder / "long.txt")
    predictor = bundle.load(folder / "out")
    windows = context_windows(predictor.tokenizer(), [question], [long], 3)
    logits = predictor.outputs(windows.x)["logits"].astype(np.float64)
    assert len(logits) > 3
    inside = windows.start >= 0
    best = max(
        logits[w, i, 0] + logits[w, j, 1]
        for w in range(len(logits))
        for i in np.flatnonzero(inside[w])
        for j in np.flatnonzero(inside[w])
        if i <= j < i + 30
    )
    null = logits[:, 0].sum(1).min()
    is_null = null - best > predictor.thresholds[0]
    assert row["score"] == pytest.approx(null if is_null else best)


def test_the_threshold_decides_whether_none_is_the_answer(run):
    folder, _ = run
    predictor = bundle.load(folder / "out")
    for threshold, is_answered in ((1e9, True), (-1e9, False)):
        metadata = {**predictor.metadata, "thresholds": [threshold]}
        changed = dataclasses.replace(predictor, metadata=metadata)
        rows = [*answered_questions(changed, folder / "train.json")]
        assert {bool(row["answer"]) for row in rows} == {is_answered}


def test_windows_that_share_less_than_in_training_are_said(run, capsys):
    """Questions of 11 tokens leave 2 of 16 for the context, less than the stride."""
    folder, _ = run
    text = "anna oslo since 1990 and sells apples there ?"
    (folder / "c.txt").write_text(f"{text}\tanna lives in oslo .\n" * 2)
    predict.predict(folder / "out", folder / "c.txt")
    assert "c.txt: 2 questions leave no more than stride=3" in capsys.readouterr().err
    predict.predict(folder / "out", folder / "train.json")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.txt", "where ?\n", "b.txt:1: expected a question and its context, with a"),
        ("b.txt", "\n", "holds no question"),
        ("b.csv", "question,contxt\na,b\n", "one column 'context'.*did you mean"),
        ("b.csv", "question,context\na\n", "line 2: 1 cells where 2 are expected"),
        ("b.json", "{}", "no key 'question'"),
        ("b.txt", f"{'word ' * 30}\ta", "leaves no room for its context"),
    ],
)
def test_other_files_are_refused(run, name, text, message):
    folder, _ = run
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        predict.predict(folder / "out", folder / name)
