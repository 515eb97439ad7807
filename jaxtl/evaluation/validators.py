"""Validators: criteria that choose a model without labels of the target.

Each function takes arrays and returns a number. None takes a label of the target:
`Evidence`, what they read, holds none. Whether larger values are better is in
`metrics.CRITERIA`. All in numpy float64, on the host.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxtl.data.dataset import CONTRASTIVE, MULTITASK, QUESTION_ANSWERING, TAG_TASKS
from jaxtl.evaluation import metrics

# Tasks without a criterion that needs no label.
WITHOUT_CRITERIA = (*TAG_TASKS, "language", QUESTION_ANSWERING, CONTRASTIVE, MULTITASK)

TEMPERATURE = 0.05  # of SND
MAX_COMPONENTS = 64  # principal components of features in the domain classifier
PENALTY = 1.0  # of its weights: ½ · PENALTY · ‖w‖² is added to the summed log-loss


class Evidence(NamedTuple):
    """What criteria read of a model whose target has no labels.

    Attributes:
      logits, labels, features: of the source's validation rows, (n, K), (n,) and
        (n, d); None without a source.
      train: (m, d), features of source train rows; None without a source.
      target: (t, K), logits of target rows.
      target_features: (t, d), features of the same rows.
      weights: (n,), of the source's validation rows, in its own metric; None where each
        counts once.
    """

    logits: np.ndarray | None
    labels: np.ndarray | None
    features: np.ndarray | None
    train: np.ndarray | None
    target: np.ndarray
    target_features: np.ndarray
    weights: np.ndarray | None = None


def entropy(logits: ArrayLike) -> float:
    """Mean entropy of predictions in nats; lower is better.

    −1/N Σᵢ Σ_c p_ic log p_ic. A model that predicts one class for all examples with
    certainty has the best value, 0.

    Args:
      logits: (N, K), of target examples.

    References:
      Grandvalet, Bengio, Semi-supervised Learning by Entropy Minimization, NeurIPS
      2004; as a criterion: Morerio, Cavazza, Murino, Minimal-Entropy Correlation
      Alignment, ICLR 2018.
    """
    log_p = special.log_softmax(_as_float64(logits), -1)
    return float(-np.sum(np.exp(log_p) * log_p, -1).mean())


def snd(logits: ArrayLike, temperature: float = TEMPERATURE) -> float:
    """Soft neighborhood density: mean entropy of similarities; higher is better.

    S_ij = ⟨p_i, p_j⟩ of predictions scaled to length 1, P_ij = softmax over j ≠ i of
    S_ij / temperature, and the mean over i of −Σ_j P_ij log P_ij. At most log(N − 1),
    which equal predictions of all examples reach as well.

    Args:
      logits: (N, K), N ≥ 2.
      temperature: as in the paper.

    References:
      Saito, Kim, Teterwak, Sclaroff, Darrell, Saenko, Tune it the Right Way, ICCV 2021,
      section 3 (an example itself is left out here, as in the paper; the authors'
      code gives it the similarity −1, which is exp(−40) of the largest weight).
    """
    p = special.softmax(_as_float64(logits), -1)
    p /= np.linalg.norm(p, axis=-1, keepdims=True)
    if len(p) < 2:
        return float("nan")
    similarity = p @ p.T / temperature
    np.fill_diagonal(similarity, -np.inf)
    # −Σ P log P = log Σ exp s − Σ P s takes one exponential per pair.
    largest = similarity.max(-1, keepdims=True)
    exponentials = np.exp(similarity - largest)
    total = exponentials.sum(-1)
    np.fill_diagonal(similarity, 0.0)
    mean = (exponentials * similarity).sum(-1) / total
    return float(np.mean(np.log(total) + largest[:, 0] - mean))


def bnm(logits: ArrayLike) -> float:
    """Nuclear norm of predictions, ‖P‖_* / √(N · min(N, K)) ≤ 1; higher is better.

    It grows with the certainty of predictions and with the number of predicted classes.
    The paper's is ‖P‖_* / N, which differs by a factor of N and K.

    Args:
      logits: (N, K).

    References:
      Cui, Wang, Zhuo, Li, Huang, Tian, Towards Discriminability and Diversity: Batch
      Nuclear-norm Maximization, CVPR 2020; as a criterion: Musgrave, Belongie, Lim,
      Three New Validators, arXiv:2208.07360.
    """
    p = special.softmax(_as_float64(logits), -1)
    if not np.isfinite(p).all():
        return float("nan")
    singular = np.linalg.svd(p, compute_uv=False)
    return float(singular.sum() / np.sqrt(len(p) * min(p.shape)))


def density_ratio(
    train: ArrayLike, target: ArrayLike, points: ArrayLike, penalty: float = PENALTY
) -> np.ndarray:
    """Estimates p_target(x) / p_source(x), (n,).

    A logistic model classifies source and target features; with its odds o(x) of the
    target, the ratio is (m / t) · o(x). Features are standardized by both domains, the
    leading 64 principal components are taken of more than 64, and ½ · penalty · ‖w‖²
    of the weights is added to the summed log-loss (scikit-learn's C = 1 / penalty):
    without it, the ratio of separable domains would be 0 everywhere.

    Args:
      train: (m, d), features of source examples.
      target: (t, d), features of target examples.
      points: (n, d), features at which the ratio is estimated.
      penalty: of the weights.

    References:
      Bickel, Brückner, Scheffer, Discriminative Learning for Differing Training and
      Test Distributions, ICML 2007; You et al., ICML 2019, algorithm 2.
    """
    both, x = (
        np.concatenate([_as_float64(train), _as_float64(target)]),
        _as_float64(points),
    )
    if not (np.isfinite(both).all() and np.isfinite(x).all()):
        return np.full(len(x), np.nan)
    mean, scale = both.mean(0), both.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    both, x = (both - mean) / scale, (x - mean) / scale
    if both.shape[1] > MAX_COMPONENTS:
        axes = np.linalg.eigh(both.T @ both)[1][:, -MAX_COMPONENTS:]
        both, x = both @ axes, x @ axes
    is_target = np.repeat([0.0, 1.0], [len(train), len(target)])
    weights, intercept = _fit_logistic(both, is_target, penalty)
    log_odds = np.minimum(x @ weights + intercept, 700)  # exp(710) overflows
    return len(train) / len(target) * np.exp(log_odds)


def _fit_logistic(
    x: np.ndarray,
    y: np.ndarray,
    penalty: float,
    steps: int = 100,
    tolerance: float = 1e-10,
) -> tuple[np.ndarray, float]:
    """(Weights, intercept) that minimize Σ log-loss + ½ penalty ‖w‖², by Newton."""
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    ridge = np.r_[np.full(x.shape[1] - 1, penalty), 0.0]
    w = np.zeros(x.shape[1])

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return np.logaddexp(0, z).sum() - y @ z + 0.5 * ridge @ (w * w)

    value = loss(w)
    for _ in range(steps):
        p = special.expit(x @ w)
        gradient = x.T @ (p - y) + ridge * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        # The intercept is not penalized; certain predictions leave it no curvature.
        hessian[-1, -1] += 1e-12 * len(x)
        direction = np.linalg.solve(hessian, gradient)
        step_size = 1.0
        while step_size > 1e-8 and loss(w - step_size * direction) > value:
            step_size /= 2
        w = w - step_size * direction
        value = loss(w)
        if gradient @ direction < tolerance * (1 + abs(value)):
            break
    return w[:-1], w[-1]


def iwv(losses: ArrayLike, weights: ArrayLike) -> float:
    """Importance-weighted validation: 1/n Σ wᵢ lossᵢ; lower is better.

    With wᵢ = p_target(xᵢ) / p_source(xᵢ) an unbiased estimate of the loss on the
    target, where only the distribution of inputs differs.

    Args:
      losses: (n,), of source validation examples.
      weights: (n,).

    References:
      Sugiyama, Krauledat, Müller, Covariate Shift Adaptation by Importance Weighted
      Cross Validation, JMLR 8 (2007).
    """
    return float(np.mean(_as_float64(weights) * _as_float64(losses)))


def dev(losses: ArrayLike, weights: ArrayLike) -> float:
    """Deep embedded validation: `iwv` with a control variate; lower is better.

    mean(wᵢ lossᵢ) + η mean(wᵢ) − η with η = −Cov(w·loss, w) / Var(w): the expected
    weight is 1, so mean(w) − 1 is a control variate. The value may be negative. η is 0
    where all weights are equal.

    Args:
      losses: (n,), of source validation examples.
      weights: (n,).

    References:
      You, Wang, Long, Jordan, Towards Accurate Model Selection in Deep Unsupervised
      Domain Adaptation, ICML 2019, algorithm 1 (GetRisk) and 2.
    """
    weights = _as_float64(weights)
    weighted = weights * _as_float64(losses)
    variance = np.mean(np.square(weights - weights.mean()))
    eta = 0.0
    if variance > 0:
        covariance = np.mean((weighted - weighted.mean()) * (weights - weights.mean()))
        eta = -covariance / variance
    return float(weighted.mean() + eta * weights.mean() - eta)


def example_losses(task: str, logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The loss of each example, (n,): cross-entropy in nats, or squared error.

    Means over labels (multilabel) and outputs (regression), the latter without ½.
    """
    logits, labels = _as_float64(logits), np.asarray(labels)
    if task == "classification":
        log_p = special.log_softmax(logits, -1)
        return -np.take_along_axis(log_p, labels.astype(int)[:, None], -1)[:, 0]
    logits = logits.reshape(len(logits), -1)
    labels = labels.reshape(logits.shape).astype(np.float64)
    if task == "multilabel":
        return (np.logaddexp(0, logits) - labels * logits).mean(-1)
    return np.square(logits - labels).mean(-1)


def measure(task: str, evidence: Evidence) -> dict[str, float]:
    """Computes every criterion that the evidence allows, {name: value}.

    "source_accuracy" (or "source_mse", …) is the task's main metric on the source's
    validation rows, weighted as they are. "iwv" and "dev" weight by density ratios
    alone. The criteria of predictions are for classification alone.
    """
    values: dict[str, float] = {}
    with np.errstate(all="ignore"):
        if evidence.logits is not None:
            main = metrics.main_metric(task)
            metric, weights = metrics.METRICS[task][main], evidence.weights
            counts = weights is None or np.any(weights)
            values[f"source_{main}"] = (
                metric(evidence.logits, evidence.labels, weights)
                if counts
                else float("nan")
            )
        if evidence.train is not None:
            losses = example_losses(task, evidence.logits, evidence.labels)
            weights = density_ratio(
                evidence.train, evidence.target_features, evidence.features
            )
            values.update(iwv=iwv(losses, weights), dev=dev(losses, weights))
        if task == "classification":
            for name, criterion in (("entropy", entropy), ("snd", snd), ("bnm", bnm)):
                values[name] = criterion(evidence.target)
    # A diverged model may be certain of one class, which criteria call good.
    read = [part for part in evidence if part is not None]
    is_finite = all(np.isfinite(np.asarray(part, np.float64)).all() for part in read)
    return values if is_finite else dict.fromkeys(values, float("nan"))


def names(task: str, *, source: bool, train: bool) -> tuple[str, ...]:
    """The names of the criteria that `measure` computes.

    Args:
      task: of the target.
      source: whether there are source validation rows.
      train: whether there are source train rows.
    """
    if task in WITHOUT_CRITERIA:
        return ()
    criteria = (f"source_{metrics.main_metric(task)}",) if source else ()
    criteria += ("iwv", "dev") if source and train else ()
    return criteria + (("entropy", "snd", "bnm") if task == "classification" else ())


def _as_float64(values: ArrayLike) -> np.ndarray:
    return np.array(values, np.float64)
