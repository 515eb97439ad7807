"""How far two domains' features lie apart: equations on arrays, in float64.

Proxy A-distance, maximum mean discrepancy with a permutation test, shift per class.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxtl.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """What `proxy_a_distance` found.

    Attributes:
      distance: 2·(1 − 2ε).
      error: ε, of the two domains' held-out errors the mean; ½ is chance.
    """

    distance: float
    error: float


def proxy_a_distance(
    source: np.ndarray,
    target: np.ndarray,
    *,
    strength: float = 1.0,
    folds: int = 5,
    seed: int = 0,
) -> Distance:
    """2·(1 − 2ε), ε the held-out error of a linear classifier that tells domains apart.

    About 0 where it can't (an estimate may fall a little below), 2 where it never errs.
    The classifier is logistic regression on features scaled to unit deviation, its two
    domains weighted alike; ε is cross-validated and balanced over domains.

    Args:
      source: (n, d).
      target: (m, d).
      strength: C of scikit-learn's LogisticRegression; larger fits closer.
      folds: of the cross-validation, 2 or more.
      seed: of the folds.

    Raises:
      UserError: arrays that don't fit each other, or fewer examples than folds.

    References:
      Ben-David et al., A Theory of Learning from Different Domains, Machine Learning 79
      (2010), section 4; the linear proxy in Ben-David et al., NeurIPS 2006.
    """
    from sklearn import linear_model, model_selection, pipeline, preprocessing

    source, target = _pair(source, target, least=max(folds, 2))
    if folds < 2:
        raise UserError(f"folds={folds}: expected 2 or more.")
    x = np.concatenate([source, target])
    domain = np.repeat([0, 1], [len(source), len(target)])
    classifier = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(
            C=strength, class_weight="balanced", max_iter=1000
        ),
    )
    cut = model_selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    told = model_selection.cross_val_predict(classifier, x, domain, cv=cut)
    error = float(np.mean([np.mean(told[domain == d] != d) for d in (0, 1)]))
    return Distance(distance=2 * (1 - 2 * error), error=error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discrepancy:
    """What `mmd_test` found.

    Attributes:
      mmd: unbiased estimate of MMD²; near 0, and of either sign, without a shift.
      p_value: share of relabellings with an MMD² at least as large; never below
        1 / (permutations + 1).
      bandwidth: σ of the Gaussian kernel.
      permutations: number of random relabellings.
    """

    mmd: float
    p_value: float
    bandwidth: float
    permutations: int

    @property
    def p_text(self) -> str:
        """The p-value with its sign: "= 0.3", or "≤ 0.002" where none was larger."""
        lowest = 1 / (self.permutations + 1)
        sign = "≤" if self.p_value <= lowest else "="
        return f"{sign} {self.p_value:.2g}"


def mmd_test(
    source: np.ndarray,
    target: np.ndarray,
    *,
    bandwidth: float | None = None,
    permutations: int = 500,
    seed: int = 0,
) -> Discrepancy:
    """MMD² with kernel exp(−‖x − y‖² / (2σ²)), and how likely it is without a shift.

    The p-value is (1 + #{MMD² of a random relabelling ≥ that found}) / (1 + number of
    relabellings): exact at any number, so P(p ≤ α) ≤ α where the domains are alike.

    Args:
      source: (n, d).
      target: (m, d).
      bandwidth: σ > 0; None takes the median distance between two examples of both.
      permutations: number of relabellings, 1 or more.
      seed: of the relabellings.

    Raises:
      UserError: arrays that don't fit each other, fewer than 2 examples, σ ≤ 0.

    References:
      Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), eq. 3; the + 1 in
      Phipson & Smyth, Permutation P-values Should Never Be Zero, 2010.
    """
    source, target = _pair(source, target, least=2)
    if permutations < 1:
        raise UserError(f"permutations={permutations}: expected 1 or more.")
    kernel, bandwidth = _gaussian(np.concatenate([source, target]), bandwidth)
    inside = np.zeros((len(kernel), permutations + 1))
    inside[: len(source), 0] = 1.0
    rng = np.random.default_rng(seed)
    for column in range(1, permutations + 1):
        inside[rng.permutation(len(kernel))[: len(source)], column] = 1.0
    values = _mmd(kernel, inside)
    # What a relabelling changes by rounding alone counts as a tie.
    ties = values[1:] >= values[0] - 1e-12
    return Discrepancy(
        mmd=float(values[0]),
        p_value=float((1 + ties.sum()) / (1 + permutations)),
        bandwidth=bandwidth,
        permutations=permutations,
    )


def _gaussian(x: np.ndarray, bandwidth: float | None) -> tuple[np.ndarray, float]:
    """Returns the kernel matrix of the rows, and σ."""
    squares = np.sum(x**2, axis=1)
    apart = np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0.0)
    np.fill_diagonal(apart, 0.0)
    if bandwidth is None:
        pairs = apart[np.triu_indices(len(x), 1)]
        # Features that collapsed to a point have no scale: any will do.
        bandwidth = float(np.sqrt(np.median(pairs))) or 1.0
    elif not bandwidth > 0:
        raise UserError(
            f"bandwidth={bandwidth}: expected σ > 0, or None for the median distance."
        )
    return np.exp(-apart / (2 * bandwidth**2)), bandwidth


def _mmd(kernel: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns the unbiased MMD² of each column's division into 1 (first) and 0."""
    n = inside[:, 0].sum()
    m = len(kernel) - n
    diagonal = np.diag(kernel)
    reached = kernel @ inside
    first = np.sum(inside * reached, axis=0)
    across = reached.sum(axis=0) - first
    second = kernel.sum() - first - 2 * across
    own = diagonal @ inside
    first, second = first - own, second - (diagonal.sum() - own)
    return first / (n * (n - 1)) + second / (m * (m - 1)) - 2 * across / (n * m)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassShift:
    """How far one class moved.

    Attributes:
      name: of the class.
      source, target: numbers of examples.
      shift: distance of its two means, in units of the deviation within classes; NaN
        where a domain has no example.
      chance: √(1/n + 1/m), about what `shift` is without any shift.
    """

    name: str
    source: int
    target: int
    shift: float
    chance: float


def class_shifts(
    source: np.ndarray,
    source_labels: np.ndarray,
    target: np.ndarray,
    target_labels: np.ndarray,
    names: Sequence[str],
) -> list[ClassShift]:
    """‖μ_c(source) − μ_c(target)‖ / s for each class c.

    s² is the mean squared distance of examples from the mean of their own class in
    their own domain, pooled over all (divided by examples less means, N − 2K): the same
    unit for every class. It reads the labels of both domains, so it serves analysis
    only: nothing may be chosen by it where the target is unlabelled.

    Args:
      source: (n, d), and source_labels: (n,) whole numbers.
      target: (m, d), and target_labels: (m,).
      names: of the classes, by label.

    Raises:
      UserError: arrays that don't fit each other.
    """
    source, target = _pair(source, target, least=1)
    domains = ((source, np.asarray(source_labels)), (target, np.asarray(target_labels)))
    for x, y in domains:
        if y.shape != (len(x),):
            raise UserError(
                f"labels of shape {y.shape} for {len(x)} examples: expected one each."
            )
    means: list[list] = []
    squares, free = 0.0, 0
    for x, y in domains:
        means.append([])
        for label in range(len(names)):
            mine = x[y == label]
            means[-1].append(mine.mean(0) if len(mine) else None)
            squares += np.sum((mine - means[-1][-1]) ** 2) if len(mine) else 0.0
            free += max(len(mine) - 1, 0)
    unit = np.sqrt(squares / free) if free else np.nan
    return [
        _shift(name, label, domains, (means[0][label], means[1][label]), unit)
        for label, name in enumerate(names)
    ]


def _shift(name, label, domains, means, unit) -> ClassShift:
    counts = [int(np.sum(y == label)) for _, y in domains]
    there = all(counts)
    apart = np.linalg.norm(means[0] - means[1]) if there else np.nan
    return ClassShift(
        name=name,
        source=counts[0],
        target=counts[1],
        shift=float(apart / unit) if unit > 0 else float(np.nan),
        chance=float(np.sqrt(sum(1 / n for n in counts))) if there else float(np.nan),
    )


def _pair(source, target, *, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as float64 matrices of equal width."""
    found = []
    for name, x in (("source", source), ("target", target)):
        x = np.asarray(x, np.float64)
        if x.ndim != 2:
            raise UserError(
                f"{name} features have the shape {x.shape}; expected (examples, width)."
            )
        if len(x) < least:
            raise UserError(
                f"the {name} domain has {len(x)} examples; this needs at least {least}."
            )
        if not np.isfinite(x).all():
            raise UserError(f"the {name} features hold NaN or infinity.")
        found.append(x)
    if found[0].shape[1] != found[1].shape[1]:
        raise UserError(
            f"source features have width {found[0].shape[1]} and target features "
            f"{found[1].shape[1]}; they must be of one stage of one model."
        )
    return found[0], found[1]
