"""Methods that combine the outputs of several models, and calibration of the result.

Pure functions on the host, in numpy float64. Every combination takes the members'
outputs before the output activation, (members, n, outputs), and returns
those of the ensemble, (n, outputs), which every metric reads like a single model's.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics

# Small enough to break ties between votes only: their weights are equal or differ by
# more than that.
_TIE_BREAK = 1e-9
_MIN_PROBABILITY = 1e-12  # before its logarithm is taken
TEMPERATURES = (0.01, 100.0)


def _as_outputs(outputs: ArrayLike) -> np.ndarray:
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim != 3:
        raise UserError(
            f"outputs of shape {outputs.shape}: expected (members, examples, outputs)."
        )
    return outputs


def average_probabilities(
    logits: ArrayLike, weights: ArrayLike | None = None
) -> np.ndarray:
    """Log of the mean over members of softmax(logits): a mixture's log-probabilities.

    Args:
      logits: (M, n, K).
      weights: not used, as in every average.

    Returns:
      (n, K), normalized.

    References:
      Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation
      using Deep Ensembles, NeurIPS 2017, section 2.4.
    """
    log_p = special.log_softmax(_as_outputs(logits), axis=-1)
    return special.logsumexp(log_p, axis=0) - np.log(len(log_p))


def average_label_probabilities(
    logits: ArrayLike, weights: ArrayLike | None = None
) -> np.ndarray:
    """Logit of the mean over members of σ(logits), for independent labels.

    Args:
      logits: (M, n, L).
      weights: not used.
    """
    logits = _as_outputs(logits)
    # log σ(z) and log σ(−z) keep what 1 − σ(z) would round away.
    yes = special.logsumexp(-np.logaddexp(0, -logits), axis=0)
    return yes - special.logsumexp(-np.logaddexp(0, logits), axis=0)


def average_outputs(outputs: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Mean over members: of targets in regression, of logits in classification.

    The mean of logits is the normalized geometric mean of the members' probabilities.
    """
    return _as_outputs(outputs).mean(0)


def hard_vote(logits: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Log of the share of members that choose each class; each has one vote.

    A tie goes to the class with the larger mean probability over all members, then to
    the first. A class without a vote gets log(1e-9 · mean probability), so the shares
    are not likelihoods and their NLL is meaningless.

    Args:
      logits: (M, n, K).
      weights: not used.
    """
    return _shares(_as_outputs(logits), np.ones(len(logits)))


def weighted_vote(logits: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """As `hard_vote`, with votes that count `weights` (the validation accuracies).

    Args:
      logits: (M, n, K).
      weights: (M,), not negative, not all zero.

    References:
      Littlestone, Warmuth, The Weighted Majority Algorithm, 1994 (the rule; its weights
      are learned online there).
    """
    return _shares(_as_outputs(logits), np.asarray(weights, np.float64))


def _shares(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if weights.shape != (len(logits),) or not (weights >= 0).all() or not weights.any():
        raise UserError(
            f"weights={weights.tolist()}: expected {len(logits)} numbers that are not "
            "negative, and not all zero."
        )
    votes = np.eye(logits.shape[-1])[logits.argmax(-1)]
    shares = np.tensordot(weights / weights.sum(), votes, 1)
    shares = shares + _TIE_BREAK * np.exp(average_probabilities(logits))
    # The largest of NaNs is the first: their vote would go to class 0.
    shares[~np.isfinite(logits).all((0, -1))] = np.nan
    return np.log(np.maximum(shares, np.finfo(np.float64).tiny))


METHODS: dict[str, dict[str, Callable]] = {
    "classification": {
        "average_probabilities": average_probabilities,
        "average_logits": average_outputs,
        "hard_vote": hard_vote,
        "weighted_vote": weighted_vote,
    },
    "multilabel": {
        "average_probabilities": average_label_probabilities,
        "average_logits": average_outputs,
    },
    "regression": {"average_outputs": average_outputs},
}
VOTES = ("hard_vote", "weighted_vote")
STACKING = "stacking"


def method_names(task: str) -> tuple[str, ...]:
    """Names of the methods that combine a task's models, () if there is none."""
    learned = (STACKING,) if task in ("classification", "regression") else ()
    return (*METHODS.get(task, {}), *learned)


def stacking(
    val: ArrayLike,
    labels: ArrayLike,
    test: ArrayLike,
    *,
    task: str = "classification",
    estimator: Any = None,
    folds: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a meta-learner on validation predictions that combines the members.

    The meta-learner reads the members' log-probabilities, or their outputs in
    regression, side by side: (n, M · K).

    Args:
      val: (M, n, K) members' outputs on validation.
      labels: (n,) classes, or (n, K) targets.
      test: (M, m, K) members' outputs for the examples to predict.
      task: "classification" or "regression".
      estimator: any scikit-learn classifier or regressor; None takes
        LogisticRegression or Ridge. Without `predict_proba` the predicted class
        gets the probability 1.
      folds: number of parts of the validation examples, stratified by class.

    Returns:
      ((n, K) out-of-fold predictions on validation, to score it by; (m, K) predictions
      of the meta-learner fitted on all of it), as log-probabilities or outputs.

    References:
      Wolpert, Stacked Generalization, Neural Networks 5 (1992).
    """
    val, test = _as_outputs(val), _as_outputs(test)
    learner = _learner(task) if estimator is None else estimator
    classes = val.shape[-1] if task == "classification" else 0
    labels = np.asarray(labels) if classes else np.reshape(labels, (val.shape[1], -1))
    folds = min(folds, len(labels))
    if folds < 2:
        raise UserError("stacking needs at least two validation examples.")
    x, x_test = _features(val, classes), _features(test, classes)
    out_of_fold = np.zeros(val.shape[1:])
    parts = _folds(labels, folds, classes)
    for fit_rows, held_out in progress.track(parts, "stacking, in folds", folds):
        fitted = _fit(learner, x[fit_rows], labels[fit_rows])
        out_of_fold[held_out] = _predict(fitted, x[held_out], classes)
    return out_of_fold, _predict(_fit(learner, x, labels), x_test, classes)


def _learner(task: str) -> Any:
    from sklearn import linear_model

    if task == "classification":
        return linear_model.LogisticRegression(max_iter=5000)
    return linear_model.Ridge()


def _features(outputs: np.ndarray, classes: int) -> np.ndarray:
    """The meta-learner's input: (M, n, K) as (n, M · K)."""
    if classes:
        # A log-probability of −1000 would dominate all other features.
        least = np.log(_MIN_PROBABILITY)
        outputs = np.maximum(special.log_softmax(outputs, axis=-1), least)
    return np.concatenate(list(outputs), axis=-1)


def _folds(
    labels: np.ndarray, count: int, classes: int
) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """(Rows to fit on, rows held out) of each fold, stratified where classes allow."""
    from sklearn import model_selection

    settings = {"n_splits": count, "shuffle": True, "random_state": 0}
    kind = model_selection.KFold
    if classes and np.bincount(labels.astype(int)).max() >= count:
        kind = model_selection.StratifiedKFold
    with warnings.catch_warnings():
        # scikit-learn warns of a class that is missing from some folds because it has
        # fewer examples than there are folds.
        warnings.simplefilter("ignore", UserWarning)
        return list(kind(**settings).split(labels, labels if classes else None))


def _fit(learner: Any, x: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn import base

    try:
        return base.clone(learner).fit(x, labels)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"stacking: {type(learner).__name__} can't be fitted on {len(x)} "
            f"validation predictions: {error}"
        ) from error


def _predict(fitted: Any, x: np.ndarray, classes: int) -> np.ndarray:
    """Log-probabilities (n, K), or outputs (n, K) where `classes` is 0."""
    if not classes:
        return np.reshape(fitted.predict(x), (len(x), -1))
    p = np.zeros((len(x), classes))
    if hasattr(fitted, "predict_proba"):
        p[:, np.asarray(fitted.classes_).astype(int)] = fitted.predict_proba(x)
    else:
        p[np.arange(len(x)), np.asarray(fitted.predict(x)).astype(int)] = 1.0
    p = np.maximum(p, _MIN_PROBABILITY)
    return np.log(p / p.sum(-1, keepdims=True))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Finds the T > 0 that minimizes the NLL of softmax(logits / T).

    The NLL is convex in 1/T; its slope's zero is bracketed, so the minimum is exact to
    rounding. T stays in [0.01, 100]: where every label is the largest logit, NLL falls
    towards T = 0.

    Args:
      logits: (n, K) on validation.
      labels: (n,).

    References:
      Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML
      2017, section 4.2.
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():  # no temperature is better than another
        return float("nan")
    # Shifting an example's logits changes no probability and keeps products small.
    logits = logits - logits.max(-1, keepdims=True)
    target = logits[np.arange(len(logits)), np.asarray(labels).astype(int)].mean()

    def slope(log_t: float) -> float:
        p = special.softmax(logits / np.exp(log_t), axis=-1)
        return (p * logits).sum(-1).mean() - target

    if not logits.any():  # equal logits: no temperature changes the NLL
        return 1.0
    low, high = np.log(TEMPERATURES)
    if slope(low) <= 0:  # the NLL decreases in 1/T over the whole interval
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(optimize.brentq(slope, low, high, xtol=1e-12)))


def calibration_metrics(
    logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0
) -> dict[str, float]:
    """Computes {"nll", "ece", "brier"} of softmax(logits / temperature)."""
    scaled = np.asarray(logits, np.float64) / temperature
    return {
        "nll": metrics.nll(scaled, labels),
        "ece": metrics.ece(scaled, labels),
        "brier": metrics.brier(scaled, labels),
    }
