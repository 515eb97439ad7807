"""Thresholds of probabilities in place of ½, chosen on validation.

They are kept as log-odds, log t / (1 − t), which tell apart probabilities that round to
1. A run has one for two classes, that of the second, or one for each of several labels.
For questions it is the lead of the score of no answer (`answer_threshold`).
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from scipy import special

from jaxtl.core.errors import UserError, nearest
from jaxtl.data.dataset import QUESTION_ANSWERING
from jaxtl.evaluation.metrics import answers

# (true positives, false positives, false negatives, true negatives), each (n,) -> (n,)
_Counts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _f1(counts: _Counts) -> np.ndarray:
    tp, fp, fn, _ = counts
    return _ratio(2 * tp, 2 * tp + fp + fn)


def _youden(counts: _Counts) -> np.ndarray:
    tp, fp, fn, tn = counts
    return _ratio(tp, tp + fn) + _ratio(tn, tn + fp) - 1


def _accuracy(counts: _Counts) -> np.ndarray:
    tp, fp, fn, tn = counts
    return (tp + tn) / (tp + fp + fn + tn)


def _matthews(counts: _Counts) -> np.ndarray:
    tp, fp, fn, tn = counts
    spread = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return _ratio(tp * tn - fp * fn, spread)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)


# What a threshold maximizes. "youden" is sensitivity + specificity − 1 (Youden, Index
# for Rating Diagnostic Tests, Cancer 3, 1950), which balanced accuracy grows with.
CRITERIA: dict[str, Callable[[_Counts], np.ndarray]] = {
    "f1": _f1,
    "youden": _youden,
    "accuracy": _accuracy,
    "matthews": _matthews,
}


def check(criterion: str | None, task: str, names: Sequence[str], val: int) -> None:
    """Checks the setting `Experiment.threshold`.

    Args:
      criterion: the setting, None for thresholds of ½.
      task: of the target data.
      names: of its classes or labels.
      val: number of its validation rows.

    Raises:
      UserError: an unknown criterion, three or more classes, or no validation rows.
    """
    if criterion is None:
        return
    check_known(criterion, CRITERIA)
    is_binary = task == "classification" and len(names) == 2
    if not is_binary and task != "multilabel":
        what = f"{len(names)} classes" if task == "classification" else task
        raise UserError(
            f"threshold={criterion!r} needs two classes, or examples of several "
            f"labels; the task is {what}."
        )
    check_val(criterion, val)


def check_known(criterion: str, known: Collection[str], of: str = "") -> None:
    """Raises UserError for a criterion that is not among the known ones.

    Args:
      criterion: the setting.
      known: criteria.
      of: what they are known for, for the message.
    """
    if criterion not in known:
        raise UserError(
            f"threshold={criterion!r}{nearest(criterion, known)} "
            f"(known{of}: {', '.join(known)})."
        )


def check_val(criterion: str, val: int) -> None:
    """Raises UserError where there are no validation rows to choose on."""
    if not val:
        raise UserError(
            f"threshold={criterion!r} is chosen on val, but the data's is empty; raise "
            "data.val."
        )


def choose(
    task: str,
    logits: np.ndarray,
    labels: np.ndarray,
    criterion: str,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The thresholds that maximize a criterion, as log-odds: (1,), or (labels,).

    Args:
      task: "classification" of two classes, or "multilabel".
      logits: (n, 2) or (n, labels).
      labels: (n,) or (n, labels).
      criterion: a key of `CRITERIA`.
      weights: (n,) of the examples, None for 1.
    """
    logits = np.asarray(logits, np.float64)
    weights = np.ones(len(logits)) if weights is None else np.float64(weights)
    if task == "classification":
        scores, positive = (logits[:, 1] - logits[:, 0])[:, None], labels[:, None] == 1
    else:
        scores, positive = logits, np.asarray(labels) > 0.5
    columns = zip(scores.T, positive.T)
    return np.array([_best(s, p, weights, CRITERIA[criterion]) for s, p in columns])


def _best(
    scores: np.ndarray,
    positive: np.ndarray,
    weights: np.ndarray,
    criterion: Callable[[_Counts], np.ndarray],
) -> float:
    """The best threshold between two neighboring scores; of equal ones the nearest 0.

    ½ where all rows are positive, or none is.
    """
    counted = weights > 0
    scores, positive, weights = scores[counted], positive[counted], weights[counted]
    if positive.all() or not positive.any():
        return 0.0
    values, index = np.unique(scores, return_inverse=True)
    of_positive = np.bincount(index, weights * positive, len(values))
    of_negative = np.bincount(index, weights * ~positive, len(values))
    # Candidate i predicts the values from i on: all of them, …, none.
    fn = np.concatenate([[0.0], np.cumsum(of_positive)])
    tn = np.concatenate([[0.0], np.cumsum(of_negative)])
    quality = criterion((fn[-1] - fn, tn[-1] - tn, fn, tn))
    candidates = gaps(values)
    # Zero itself stands for the gap that it lies in.
    gap = np.searchsorted(values, 0.0)
    if gap == len(values) or values[gap] != 0:
        candidates[gap] = 0.0
    return best_candidate(candidates, quality)


def gaps(values: np.ndarray) -> np.ndarray:
    """A number below n rising values, between each two of them, and above, (n + 1,)."""
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[values[0] - 1], middle, [values[-1] + 1]])


def best_candidate(candidates: np.ndarray, quality: np.ndarray) -> float:
    """The candidate of the largest quality; of equal ones the nearest to 0."""
    is_best = quality >= quality.max() - 1e-12
    return float(min(candidates[is_best], key=abs))


def shifted(task: str, logits: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
    """Logits whose largest one (or whose sign) is the decision by the thresholds."""
    if thresholds is None:
        return logits
    logits = np.asarray(logits, np.float64)
    if task == QUESTION_ANSWERING:
        shift = np.zeros(answers.COLUMNS)
        shift[answers.NULL_LEAD] = thresholds[0]
        return logits - shift
    if task == "multilabel":
        return logits - thresholds
    return logits - np.array([0.0, thresholds[0]])


def by_name(
    task: str, thresholds: np.ndarray | None, names: Sequence[str]
) -> dict[str, float]:
    """Class or label -> threshold of its probability; {} without thresholds.

    Of questions "no answer" -> the lead of its score.
    """
    if thresholds is None:
        return {}
    if task == QUESTION_ANSWERING:
        return {"no answer": float(thresholds[0])}
    names = names[1:2] if task == "classification" else names
    return {n: float(special.expit(t)) for n, t in zip(names, thresholds)}
