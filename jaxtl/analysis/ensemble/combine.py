"""Combining the outputs of several models, and mending their calibration.

Pure functions on the host, in numpy float64. Every combination takes the members'
outputs before the output activation, (members, n, outputs), and returns the same kind
of thing for the ensemble, (n, outputs), so that every metric reads it like a model's.
"""

import warnings
from collections.abc import Callable

import numpy as np
from scipy import optimize, special

from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics

# Breaks ties of votes and no more: weights differ by more than that, or not at all.
_TIE = 1e-9
_LEAST = 1e-12  # of a probability, before its logarithm
TEMPERATURES = (0.01, 100.0)


def _outputs(outputs) -> np.ndarray:
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim != 3:
        raise UserError(
            f"outputs of shape {outputs.shape}: expected (members, examples, outputs)."
        )
    return outputs


def average_probabilities(logits, weights=None) -> np.ndarray:
    """log of the mean over members of softmax(logits): a mixture's log-probabilities.

    Args:
      logits: (M, n, K).
      weights: not used, as in every average.

    Returns:
      (n, K), normalised.

    References:
      Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation
      using Deep Ensembles, NeurIPS 2017, section 2.4.
    """
    log_p = special.log_softmax(_outputs(logits), axis=-1)
    return special.logsumexp(log_p, axis=0) - np.log(len(log_p))


def average_label_probabilities(logits, weights=None) -> np.ndarray:
    """Logit of the mean over members of σ(logits), for independent labels.

    Args:
      logits: (M, n, L).
      weights: not used.
    """
    logits = _outputs(logits)
    # log σ(z) and log σ(−z) keep what 1 − σ(z) would round away.
    yes = special.logsumexp(-np.logaddexp(0, -logits), axis=0)
    return yes - special.logsumexp(-np.logaddexp(0, logits), axis=0)


def average_outputs(outputs, weights=None) -> np.ndarray:
    """Mean over members: of targets in regression, of logits in classification.

    The mean of logits is the normalised geometric mean of the members' probabilities.
    """
    return _outputs(outputs).mean(0)


def hard_vote(logits, weights=None) -> np.ndarray:
    """log of the share of members that choose each class; each has one vote.

    A tie goes to the class with the larger mean probability over all members, then to
    the first. A class without a vote gets log(1e-9 · mean probability), so the shares
    are no likelihoods and their NLL means nothing.

    Args:
      logits: (M, n, K).
      weights: not used.
    """
    return _shares(_outputs(logits), np.ones(len(logits)))


def weighted_vote(logits, weights) -> np.ndarray:
    """As `hard_vote`, with votes that count `weights` (the validation accuracies).

    Args:
      logits: (M, n, K).
      weights: (M,), not negative, not all zero.

    References:
      Littlestone, Warmuth, The Weighted Majority Algorithm, 1994 (the rule; its weights
      are learned online there).
    """
    return _shares(_outputs(logits), np.asarray(weights, np.float64))


def _shares(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if weights.shape != (len(logits),) or not (weights >= 0).all() or not weights.any():
        raise UserError(
            f"weights={weights.tolist()}: expected {len(logits)} numbers that are not "
            "negative, and not all zero."
        )
    votes = np.eye(logits.shape[-1])[logits.argmax(-1)]
    shares = np.tensordot(weights / weights.sum(), votes, 1)
    tied = shares + _TIE * np.exp(average_probabilities(logits))
    return np.log(np.maximum(tied, np.finfo(np.float64).tiny))


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


def methods(task: str) -> tuple[str, ...]:
    """Returns the names of the ways to combine a task's models, () if there is none."""
    learned = (STACKING,) if task in ("classification", "regression") else ()
    return (*METHODS.get(task, {}), *learned)


def stacking(
    val, labels, test, *, task="classification", estimator=None, folds: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Learns on validation predictions how members are best put together.

    The meta-learner reads the members' log-probabilities, or their outputs in
    regression, side by side: (n, M · K).

    Args:
      val: (M, n, K) members' outputs on validation.
      labels: (n,) classes, or (n, K) targets.
      test: (M, m, K) members' outputs where the ensemble is to predict.
      task: "classification" or "regression".
      estimator: any scikit-learn classifier or regressor; None takes
        LogisticRegression or Ridge. Without `predict_proba` its choice counts as
        certain.
      folds: parts of the validation examples, stratified by class.

    Returns:
      ((n, K) out-of-fold predictions on validation, to score it by; (m, K) predictions
      of the meta-learner fitted on all of it), as log-probabilities or outputs.

    References:
      Wolpert, Stacked Generalization, Neural Networks 5 (1992).
    """
    val, test = _outputs(val), _outputs(test)
    learner = _learner(task) if estimator is None else estimator
    classes = val.shape[-1] if task == "classification" else 0
    labels = np.asarray(labels) if classes else np.reshape(labels, (val.shape[1], -1))
    folds = min(folds, len(labels))
    if folds < 2:
        raise UserError("stacking needs at least two validation examples.")
    x, new = _side_by_side(val, classes), _side_by_side(test, classes)
    held_out = np.zeros(val.shape[1:])
    for rows, rest in _folds(labels, folds, classes):
        made = _fitted(learner, x[rows], labels[rows])
        held_out[rest] = _predicted(made, x[rest], classes)
    return held_out, _predicted(_fitted(learner, x, labels), new, classes)


def _learner(task: str):
    from sklearn import linear_model

    if task == "classification":
        return linear_model.LogisticRegression(max_iter=5000)
    return linear_model.Ridge()


def _side_by_side(outputs: np.ndarray, classes: int) -> np.ndarray:
    if classes:
        # A certain member's −1000 would drown the others.
        outputs = np.maximum(special.log_softmax(outputs, axis=-1), np.log(_LEAST))
    return np.concatenate(list(outputs), axis=-1)


def _folds(labels, count: int, classes: int) -> list:
    """Returns [(rows to fit on, rows held out)], stratified where classes are large."""
    from sklearn import model_selection

    settings = {"n_splits": count, "shuffle": True, "random_state": 0}
    kind = model_selection.KFold
    if classes and np.bincount(labels.astype(int)).max() >= count:
        kind = model_selection.StratifiedKFold
    with warnings.catch_warnings():
        # A class with fewer examples than folds is missing from some; that can't be
        # helped.
        warnings.simplefilter("ignore", UserWarning)
        return list(kind(**settings).split(labels, labels if classes else None))


def _fitted(learner, x, labels):
    from sklearn import base

    try:
        return base.clone(learner).fit(x, labels)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"stacking: {type(learner).__name__} can't be fitted on {len(x)} "
            f"validation predictions: {error}"
        ) from error


def _predicted(fitted, x, classes: int) -> np.ndarray:
    """Returns (n, K) log-probabilities, or (n, K) outputs where classes is 0."""
    if not classes:
        return np.reshape(fitted.predict(x), (len(x), -1))
    p = np.zeros((len(x), classes))
    if hasattr(fitted, "predict_proba"):
        p[:, np.asarray(fitted.classes_).astype(int)] = fitted.predict_proba(x)
    else:
        p[np.arange(len(x)), np.asarray(fitted.predict(x)).astype(int)] = 1.0
    p = np.maximum(p, _LEAST)
    return np.log(p / p.sum(-1, keepdims=True))


def temperature(logits, labels) -> float:
    """Returns the T > 0 that minimises the NLL of softmax(logits / T).

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
    # Shifting an example's logits changes no probability, and keeps products small.
    logits = logits - logits.max(-1, keepdims=True)
    hit = logits[np.arange(len(logits)), np.asarray(labels).astype(int)].mean()

    def slope(log_t):
        p = special.softmax(logits / np.exp(log_t), axis=-1)
        return (p * logits).sum(-1).mean() - hit

    if not logits.any():  # every class alike: no temperature changes anything
        return 1.0
    low, high = np.log(TEMPERATURES)
    if slope(low) <= 0:  # NLL falls with 1/T all the way
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(optimize.brentq(slope, low, high, xtol=1e-12)))


def calibration(logits, labels, scale: float = 1.0) -> dict[str, float]:
    """Returns {"nll", "ece", "brier"} of softmax(logits / scale)."""
    scaled = np.asarray(logits, np.float64) / scale
    return {
        "nll": metrics.nll(scaled, labels),
        "ece": metrics.ece(scaled, labels),
        "brier": metrics.brier(scaled, labels),
    }
