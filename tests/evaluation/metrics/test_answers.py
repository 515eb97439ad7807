"""Exact match and F1 of answers, against values of the official scripts."""

import warnings

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.evaluation import answer_threshold, thresholds
from jaxtl.evaluation.metrics import answers, experiment_metrics, task_metrics

# (answer, right answers) -> exact match and F1 of evaluate-v2.0.py (`get_raw_scores`,
# in transformers at commit 0cbcecb, data/metrics/squad_metrics.py). evaluate-v1.1.py
# (huggingface/evaluate at b6e7c3b) gives the same of all that have a right answer but
# the sixth, whose F1 is 0 there: both texts are an article alone.
SCORES = [
    ("The Eiffel Tower!", ["eiffel tower"], 1, 1.0),
    ("the tower in Paris", ["Eiffel Tower", "tower of Paris, France"], 0, 4 / 7),
    ("", [], 1, 1),
    ("Paris", [], 0, 0),
    ("", ["Paris"], 0, 0),
    ("a", ["the"], 1, 1),
    ("1,000 men", ["1000 men", "men"], 1, 1.0),
    ("red red blue", ["red blue blue"], 0, 2 / 3),
    ("Don't", ["dont"], 1, 1.0),
    ("Émile's", ["Émile"], 0, 0),
]
# Twelve questions, of which those of index 0, 3, 6, 9 have no answer: F1 of the best
# span, and the lead of no answer.
_F1 = [0, 0.95, 0.14, 0, 0.31, 0.42, 0, 0.41, 0.55, 0, 0.75, 0.54]
_LEAD = [-0.74, -1.16, -1.48, 0.6, -0.96, -1.29, -0.78, -1.26, -0.99, -0.28, 0.29, 0.01]
# `find_best_thresh` of evaluate-v2.0.py of them: F1 in percent, with its threshold.
BEST, BEST_AT = 56.5, -0.96


def outputs():
    """(outputs, labels) of the twelve questions."""
    lacks = np.arange(12) % 3 == 0
    rows = np.zeros((12, answers.COLUMNS))
    rows[:, answers.F1], rows[:, answers.NULL_LEAD] = _F1, _LEAD
    rows[:, answers.EXACT] = np.array(_F1) > 0.5
    rows[:, [answers.NULL_EXACT, answers.NULL_F1]] = lacks[:, None]
    rows[:, answers.LOSS], rows[:, answers.WINDOWS] = np.arange(12), 2
    return rows, (~lacks).astype(int)


@pytest.mark.parametrize(("answer", "right", "exact", "f1"), SCORES)
def test_scores_of_one_answer(answer, right, exact, f1):
    np.testing.assert_allclose(answers.answer_scores(answer, right), (exact, f1))


def test_texts_are_measured_outside_of_an_experiment():
    texts, right, exact, f1 = zip(*SCORES)
    assert tl.metrics.AnswerF1()(texts, right) == pytest.approx(np.mean(f1))
    values = tl.metrics.AnswerExactMatch(per_kind=True)(texts, right)
    expected = {"": 0.5, "HasAns": 4 / 8, "NoAns": 1 / 2}
    assert values == pytest.approx(expected)
    assert np.mean(exact) == 0.5
    weights = np.arange(10)
    weighed = tl.metrics.AnswerF1()(texts, right, weights)
    assert weighed == pytest.approx(np.average(f1, weights=weights))
    for bad, message in [
        ((["a"], []), "1 answers, but right ones of 0 questions"),
        ((["a"], ["a"]), "question 0 has the answer 'a' and the right ones 'a'"),
        (([None], [["a"]]), "expected a text and a list of texts"),
        (([], []), "at least one example"),
    ]:
        with pytest.raises(UserError, match=message):
            tl.metrics.AnswerF1()(*bad)


def test_metrics_are_means_over_questions():
    x, has_answer = outputs()
    values = task_metrics.compute("question_answering", x, has_answer)
    # By hand: leads above 0 (3, 10, 11) are no answer, right for 3 alone.
    f1 = (0.95 + 0.14 + 0.31 + 0.42 + 0.41 + 0.55 + 1) / 12
    expected = {"answer_f1": f1, "exact_match": 3 / 12, "nll": 66 / 24}
    assert values == pytest.approx(expected)
    weights = np.arange(1.0, 13)
    weighed = task_metrics.compute("question_answering", x, has_answer, weights)
    scores = np.array([0, 0.95, 0.14, 1, 0.31, 0.42, 0, 0.41, 0.55, 0, 0, 0])
    assert weighed["answer_f1"] == pytest.approx(np.average(scores, weights=weights))
    repeated = np.repeat(np.arange(12), np.arange(1, 13))
    again = task_metrics.compute(
        "question_answering", x[repeated], has_answer[repeated]
    )
    assert again == pytest.approx(weighed)


def test_questions_with_and_without_an_answer_are_measured_apart():
    x, has_answer = outputs()
    metrics = {
        "f1": tl.metrics.AnswerF1(per_kind=True),
        "em": tl.metrics.AnswerExactMatch(),
    }
    measured = experiment_metrics.measure(metrics, "question_answering", x, has_answer)
    assert list(measured.values) == [*experiment_metrics.names(metrics, ())]
    total = measured.values["f1"]
    parts = [measured.values[f"f1[{kind}]"] for kind in ("HasAns", "NoAns")]
    assert parts == pytest.approx([2.78 / 8, 1 / 4])
    assert total == pytest.approx((parts[0] * 8 + parts[1] * 4) / 12)
    rows = has_answer == 1
    only = experiment_metrics.measure(
        metrics, "question_answering", x[rows], has_answer[rows]
    )
    assert np.isnan(only.values["f1[NoAns]"])
    assert only.notes == {"f1": "NaN, as no question has none"}
    assert tl.metrics.higher_is_better("f1[NoAns]", {"f1": True})
    with pytest.raises(UserError, match="a metric of a question_answering task"):
        tl.metrics.AnswerF1().check("entities", (), "metrics['f']")


def test_the_chosen_lead_is_the_official_best():
    x, has_answer = outputs()
    chosen = answer_threshold.choose(x, "f1")
    shifted = thresholds.shifted("question_answering", x, chosen)
    values = task_metrics.compute("question_answering", shifted, has_answer)
    assert values["answer_f1"] == pytest.approx(BEST / 100)
    # The official threshold answers up to its own lead; ours lies behind it.
    assert BEST_AT < chosen[0] < -0.78
    decided = experiment_metrics.measure_all(
        "question_answering", x, has_answer, metrics={}, chosen=chosen
    ).values
    assert decided["answer_f1"] == values["answer_f1"]
    assert decided["nll"] == pytest.approx(66 / 24)
    # Zero where nothing is better than it.
    agreed = x.copy()
    agreed[:, answers.NULL_LEAD] = np.where(has_answer, -1.0, 1.0)
    assert answer_threshold.choose(agreed, "f1") == [0.0]
    agreed[:, answers.NULL_LEAD] = np.where(has_answer, 0.0, 1.0)
    assert answer_threshold.choose(agreed, "exact_match") == [0.0]


def test_weights_move_the_chosen_lead():
    x, has_answer = outputs()
    weights = np.where(has_answer, 1.0, 100.0)
    chosen = answer_threshold.choose(x, "f1", weights)
    shifted = thresholds.shifted("question_answering", x, chosen)
    best = max(
        np.average(
            np.where(x[:, answers.NULL_LEAD] > t, x[:, answers.NULL_F1], _F1),
            weights=weights,
        )
        for t in [-9, *_LEAD]
    )
    values = task_metrics.compute("question_answering", shifted, has_answer, weights)
    assert values["answer_f1"] == pytest.approx(best)


def test_intervals_are_those_of_questions():
    x, has_answer = outputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intervals = tl.metrics.bootstrap_intervals(
            "question_answering", x, has_answer, resamples=200
        )
    low, high, *_ = intervals["answer_f1"]
    # The standard error of the mean of the twelve scores is 0.107.
    assert 0.1 < low < 0.315 < high < 0.55
