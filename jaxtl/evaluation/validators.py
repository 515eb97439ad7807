"""Choosing without target labels: criteria that judge a model by what it may see.

Each function takes arrays and returns a number. None takes a label of the target: what
is known of it, `Evidence`, has no room for one. Whether larger is better is in
`metrics.CRITERIA`. All in numpy float64, on the host.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from jaxtl.evaluation import metrics

TEMPERATURE = 0.05  # of SND
WIDEST = 64  # principal components of features that the domain classifier sees
PENALTY = 1.0  # of its weights: ½ · PENALTY · ‖w‖² beside the summed log-loss


class Evidence(NamedTuple):
    """What may be known of a model where the target has no labels.

    Attributes:
      logits, labels, features: of the source's validation rows, (n, K), (n,) and
        (n, d); None without a source.
      train: (m, d), features of source train rows; None without a source.
      target: (t, K), logits of target rows, labelled by nobody.
      target_features: (t, d).
    """

    logits: np.ndarray | None
    labels: np.ndarray | None
    features: np.ndarray | None
    train: np.ndarray | None
    target: np.ndarray
    target_features: np.ndarray


def entropy(logits) -> float:
    """Mean entropy of predictions in nats; lower is better.

    −1/N Σᵢ Σ_c p_ic log p_ic. A model that puts everything into one class has the best
    value there is.

    Args:
      logits: (N, K), of target examples.

    References:
      Grandvalet, Bengio, Semi-supervised Learning by Entropy Minimization, NeurIPS
      2004; as a criterion: Morerio, Cavazza, Murino, Minimal-Entropy Correlation
      Alignment, ICLR 2018.
    """
    log_p = special.log_softmax(_wide(logits), -1)
    return float(-np.sum(np.exp(log_p) * log_p, -1).mean())


def snd(logits, temperature: float = TEMPERATURE) -> float:
    """Soft neighbourhood density: mean entropy of who is near whom; higher is better.

    S_ij = ⟨p_i, p_j⟩ of predictions scaled to length 1, P_ij = softmax over j ≠ i of
    S_ij / temperature, and the mean over i of −Σ_j P_ij log P_ij: at most log(N − 1),
    which equal predictions of all examples reach, too.

    Args:
      logits: (N, K), N ≥ 2.
      temperature: as in the paper.

    References:
      Saito, Kim, Teterwak, Sclaroff, Darrell, Saenko, Tune it the Right Way, ICCV 2021,
      section 3 (an example itself is left out here, as the paper says; its authors'
      code gives it the similarity −1, exp(−40) of the largest weight).
    """
    p = special.softmax(_wide(logits), -1)
    p /= np.linalg.norm(p, axis=-1, keepdims=True)
    if len(p) < 2:
        return float("nan")
    similar = p @ p.T / temperature
    np.fill_diagonal(similar, -np.inf)
    # −Σ P log P = log Σ exp s − Σ P s: one exponential for each pair.
    top = similar.max(-1, keepdims=True)
    raised = np.exp(similar - top)
    total = raised.sum(-1)
    np.fill_diagonal(similar, 0.0)
    mean = (raised * similar).sum(-1) / total
    return float(np.mean(np.log(total) + top[:, 0] - mean))


def bnm(logits) -> float:
    """Nuclear norm of predictions, ‖P‖_* / √(N · min(N, K)) ≤ 1; higher is better.

    It grows with their certainty and with the classes that are predicted. The paper's
    is ‖P‖_* / N: the same but for a factor that N and K decide.

    Args:
      logits: (N, K).

    References:
      Cui, Wang, Zhuo, Li, Huang, Tian, Towards Discriminability and Diversity: Batch
      Nuclear-norm Maximization, CVPR 2020; as a criterion: Musgrave, Belongie, Lim,
      Three New Validators, arXiv:2208.07360.
    """
    p = special.softmax(_wide(logits), -1)
    if not np.isfinite(p).all():
        return float("nan")
    singular = np.linalg.svd(p, compute_uv=False)
    return float(singular.sum() / np.sqrt(len(p) * min(p.shape)))


def density_ratio(train, target, at, penalty: float = PENALTY) -> np.ndarray:
    """Returns estimates of p_target(x) / p_source(x), (n,).

    A logistic model tells source from target features; with odds o(x) of the target,
    the ratio is (m / t) · o(x). Features are standardised by both domains, of more than
    64 the leading 64 principal components are taken, and the weights are penalised by
    ½ · penalty · ‖w‖² beside the summed log-loss (scikit-learn's C = 1 / penalty): of
    domains that can be told apart, the ratio would be 0 everywhere.

    Args:
      train: (m, d), features of source examples.
      target: (t, d), features of target examples.
      at: (n, d), where the ratio is wanted.

    References:
      Bickel, Brückner, Scheffer, Discriminative Learning for Differing Training and
      Test Distributions, ICML 2007; You et al., ICML 2019, algorithm 2.
    """
    both = np.concatenate([_wide(train), _wide(target)])
    at = _wide(at)
    if not (np.isfinite(both).all() and np.isfinite(at).all()):
        return np.full(len(at), np.nan)
    mean, scale = both.mean(0), both.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    both, at = (both - mean) / scale, (at - mean) / scale
    if both.shape[1] > WIDEST:
        axes = np.linalg.eigh(both.T @ both)[1][:, -WIDEST:]
        both, at = both @ axes, at @ axes
    is_target = np.repeat([0.0, 1.0], [len(train), len(target)])
    weights, intercept = _logistic(both, is_target, penalty)
    return len(train) / len(target) * np.exp(np.minimum(at @ weights + intercept, 700))


def _logistic(x, y, penalty: float, steps: int = 100, tolerance: float = 1e-10):
    """Returns (weights, intercept) of min Σ log-loss + ½ penalty ‖w‖², by Newton."""
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    ridge = np.r_[np.full(x.shape[1] - 1, penalty), 0.0]
    w = np.zeros(x.shape[1])

    def loss(w):
        z = x @ w
        return np.logaddexp(0, z).sum() - y @ z + 0.5 * ridge @ (w * w)

    value = loss(w)
    for _ in range(steps):
        p = special.expit(x @ w)
        gradient = x.T @ (p - y) + ridge * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        # A bias that all but settles everything leaves no curvature of its own.
        hessian[-1, -1] += 1e-12 * len(x)
        move = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-8 and loss(w - size * move) > value:
            size /= 2
        w = w - size * move
        value = loss(w)
        if gradient @ move < tolerance * (1 + abs(value)):
            break
    return w[:-1], w[-1]


def iwv(losses, weights) -> float:
    """Importance-weighted validation: 1/n Σ wᵢ lossᵢ; lower is better.

    An unbiased estimate of the loss on the target where only the inputs' distribution
    shifts and wᵢ = p_target(xᵢ) / p_source(xᵢ).

    Args:
      losses: (n,), of source validation examples.
      weights: (n,).

    References:
      Sugiyama, Krauledat, Müller, Covariate Shift Adaptation by Importance Weighted
      Cross Validation, JMLR 8 (2007).
    """
    return float(np.mean(_wide(weights) * _wide(losses)))


def dev(losses, weights) -> float:
    """Deep embedded validation: `iwv` with a control variate; lower is better.

    mean(wᵢ lossᵢ) + η mean(wᵢ) − η with η = −Cov(w·loss, w) / Var(w): weights have the
    mean 1, so what they miss it by tells of the error. It may be negative. With weights
    that are all alike η is 0.

    Args:
      losses: (n,), of source validation examples.
      weights: (n,).

    References:
      You, Wang, Long, Jordan, Towards Accurate Model Selection in Deep Unsupervised
      Domain Adaptation, ICML 2019, algorithm 1 (GetRisk) and 2.
    """
    weights = _wide(weights)
    weighted = weights * _wide(losses)
    spread = np.mean(np.square(weights - weights.mean()))
    eta = 0.0
    if spread > 0:
        both = np.mean((weighted - weighted.mean()) * (weights - weights.mean()))
        eta = -both / spread
    return float(weighted.mean() + eta * weights.mean() - eta)


def losses_of(task: str, logits, labels) -> np.ndarray:
    """Returns the loss of each example, (n,): cross-entropy in nats, squared error."""
    logits, labels = _wide(logits), np.asarray(labels)
    if task == "classification":
        log_p = special.log_softmax(logits, -1)
        return -np.take_along_axis(log_p, labels.astype(int)[:, None], -1)[:, 0]
    logits = logits.reshape(len(logits), -1)
    labels = labels.reshape(logits.shape).astype(np.float64)
    if task == "multilabel":
        return (np.logaddexp(0, logits) - labels * logits).mean(-1)
    return np.square(logits - labels).mean(-1)


def measure(task: str, seen: Evidence) -> dict[str, float]:
    """Returns every criterion that the evidence allows, by name.

    "source_accuracy" (or "source_mse", …) is the task's main metric on the source's
    validation rows; the criteria of predictions are for classification alone.
    """
    found = {}
    # A model that blows up gives infinities; the criteria then say NaN.
    with np.errstate(all="ignore"):
        if seen.logits is not None:
            main = metrics.main(task)
            score = metrics.METRICS[task][main](seen.logits, seen.labels)
            found[f"source_{main}"] = score
        if seen.train is not None:
            losses = losses_of(task, seen.logits, seen.labels)
            known = (seen.train, seen.target_features, seen.features)
            weights = density_ratio(*known)
            found.update(iwv=iwv(losses, weights), dev=dev(losses, weights))
        if task == "classification":
            every = (("entropy", entropy), ("snd", snd), ("bnm", bnm))
            found.update({name: criterion(seen.target) for name, criterion in every})
    return found


def names(task: str, *, source: bool, train: bool) -> tuple[str, ...]:
    """Returns the criteria that `measure` gives.

    Args:
      task: of the target.
      source: whether there are source validation rows.
      train: whether there are source train rows besides.
    """
    if task == "language":
        return ()
    found = (f"source_{metrics.main(task)}",) if source else ()
    found += ("iwv", "dev") if source and train else ()
    return found + (("entropy", "snd", "bnm") if task == "classification" else ())


def _wide(values) -> np.ndarray:
    return np.array(values, np.float64)
