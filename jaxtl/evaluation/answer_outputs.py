"""What metrics read of questions: one row of numbers each, of all of its windows.

So weights, splits and resamples are those of questions.
"""

import numpy as np
from scipy import special

from jaxtl.data.answer_spans import best_spans, null_score
from jaxtl.data.dataset import Dataset
from jaxtl.data.question_windows import windows_by_question
from jaxtl.evaluation.metrics import answers


def per_example(
    dataset: Dataset, rows: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs and labels of examples, which are those of rows but for questions.

    Args:
      dataset: the data.
      rows: of a split, with all windows of each of its questions.
      logits, labels: of the rows.

    Returns:
      (outputs, labels) as they are; of windows (questions, `answers.COLUMNS`) float64,
      and (questions,) of 0 and 1, whether a question has an answer.
    """
    questions = dataset.questions
    if questions is None:
        return logits, labels
    losses = span_losses(logits, labels)
    outputs, has_answer = [], []
    for question, here in windows_by_question(questions.question[rows]):
        windows = rows[here]
        span = best_spans(
            questions.start[windows],
            questions.end[windows],
            logits[here],
            questions.max_answer_length,
            1,
        )
        right = questions.answers[question]
        text, lead = "", np.inf
        if span:
            text = questions.contexts[question][span[0].start : span[0].end]
            lead = null_score(logits[here]) - span[0].score
        if not questions.may_lack_answers:
            lead = answers.NEVER
        elif not span:
            lead = -answers.NEVER
        row = [*answers.answer_scores(text, right), *answers.answer_scores("", right)]
        row += [lead, losses[here].sum(), len(here)]
        is_finite = np.isfinite(logits[here]).all()
        outputs.append(row if is_finite else [np.nan] * answers.COLUMNS)
        has_answer.append(bool(right))
    return np.array(outputs, np.float64), np.array(has_answer, np.int64)


def first_rows(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """A row of each example: the first window of each question, other rows as are."""
    if dataset.questions is None:
        return rows
    return rows[np.unique(dataset.questions.question[rows], return_index=True)[1]]


def span_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """½ (−log p(first token) − log p(last token)) of each window, in nats.

    Args:
      logits: (windows, length, 2).
      labels: (windows, 2), the first and last token of the answer.
    """
    log_p = special.log_softmax(np.asarray(logits, np.float64), axis=1)
    return -np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0].mean(axis=1)
