"""The lead of the score of no answer above which none is predicted.

It is `null_score_diff_threshold` of transformers, 0 where it is not chosen.
"""

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import thresholds
from jaxtl.evaluation.metrics import answers

# What the threshold maximizes on val, and its column.
CRITERIA = {"f1": answers.F1, "exact_match": answers.EXACT}


def check(criterion: str | None, dataset: Dataset) -> str:
    """Checks `Experiment.threshold` of questions; returns what is decided without it.

    Args:
      criterion: the setting.
      dataset: the target data.

    Raises:
      UserError: an unknown criterion, data whose questions all have an answer, or no
        validation rows.
    """
    assert dataset.questions is not None
    may_lack = dataset.questions.may_lack_answers
    if criterion is None:
        return (
            "no answer is predicted where its score leads by more than 0; "
            "threshold='f1' chooses the lead on val"
        ) * may_lack
    thresholds.check_known(criterion, CRITERIA, " for questions")
    if not may_lack:
        raise UserError(
            f"threshold={criterion!r} needs questions without an answer (SQuAD v2.0), "
            "but all of the data's have one; leave it out."
        )
    thresholds.check_val(criterion, len(dataset.rows.get("val", ())))
    return ""


def choose(
    outputs: np.ndarray, criterion: str, weights: np.ndarray | None = None
) -> np.ndarray:
    """The lead that maximizes a criterion, (1,); of equal ones the nearest to 0.

    Args:
      outputs: (questions, answers.COLUMNS).
      criterion: a key of `CRITERIA`.
      weights: (questions,), None for 1.
    """
    outputs = np.asarray(outputs, np.float64)
    weights = np.ones(len(outputs)) if weights is None else np.float64(weights)
    if not np.isfinite(outputs).all():
        return np.zeros(1)
    column = CRITERIA[criterion]
    null = {answers.EXACT: answers.NULL_EXACT, answers.F1: answers.NULL_F1}[column]
    leads, index = np.unique(outputs[:, answers.NULL_LEAD], return_inverse=True)
    gains = np.bincount(index, weights * (outputs[:, column] - outputs[:, null]))
    # Candidate i answers the questions with the i smallest leads, and no others.
    quality = np.concatenate([[0.0], np.cumsum(gains)])
    candidates = thresholds.gaps(leads)
    # Zero itself stands for the gap that it lies in: a lead of 0 is answered.
    candidates[np.searchsorted(leads, 0.0, "right")] = 0.0
    return np.array([thresholds.best_candidate(candidates, quality)])
