"""Measures of the shift between two domains' features, on arrays in float64.

Proxy A-distance, maximum mean discrepancy with a permutation test, shift per class.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxtl.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxyADistance:
    """Result of `proxy_a_distance`.

    Attributes:
      distance: 2·(1 − 2ε).
      error: ε, the mean of the two domains' held-out errors; ½ is chance.
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
) -> ProxyADistance:
    """Estimates 2·(1 − 2ε), ε the held-out error of a linear classifier of domains.

    It is about 0 (an estimate may be slightly negative) where the classifier can't
    distinguish the domains, 2 where it makes no error. The classifier is logistic
    regression on features scaled to unit deviation, with equal total weights of the
    domains; ε is cross-validated and averaged over domains.

    Args:
      source: (n, d).
      target: (m, d).
      strength: C of scikit-learn's LogisticRegression, its inverse penalty.
      folds: number of folds, 2 or more.
      seed: of the folds.

    Raises:
      UserError: arrays that don't fit each other, or fewer examples than folds.

    References:
      Ben-David et al., A Theory of Learning from Different Domains, Machine Learning 79
      (2010), section 4; the linear proxy in Ben-David et al., NeurIPS 2006.
    """
    from sklearn import linear_model, model_selection, pipeline, preprocessing

    source, target = _pair(source, target, minimum=max(folds, 2))
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
    split = model_selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = model_selection.cross_val_predict(classifier, x, domain, cv=split)
    error = float(np.mean([np.mean(predicted[domain == d] != d) for d in (0, 1)]))
    return ProxyADistance(distance=2 * (1 - 2 * error), error=error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMDTest:
    """Result of `mmd_test`.

    Attributes:
      mmd: unbiased estimate of MMD²; near 0, and of either sign, without a shift.
      p_value: share of permutations with an MMD² at least as large; never below
        1 / (permutations + 1).
      bandwidth: σ of the Gaussian kernel.
      permutations: number of random permutations of the domain labels.
    """

    mmd: float
    p_value: float
    bandwidth: float
    permutations: int

    @property
    def p_text(self) -> str:
        """The p-value and its relation: "= 0.3", or "≤ 0.002" for the lowest one."""
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
) -> MMDTest:
    """Estimates MMD² with kernel exp(−‖x − y‖² / (2σ²)), and tests it by permutations.

    The p-value is (1 + #{permutations with MMD² ≥ the observed}) / (1 + permutations).
    It is exact for any number of permutations: P(p ≤ α) ≤ α where the domains are
    alike.

    Args:
      source: (n, d).
      target: (m, d).
      bandwidth: σ > 0; None takes the median distance over all pairs of examples.
      permutations: number of permutations of the domain labels, 1 or more.
      seed: of the permutations.

    Raises:
      UserError: arrays that don't fit each other, fewer than 2 examples, σ ≤ 0.

    References:
      Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), eq. 3; the + 1 in
      Phipson & Smyth, Permutation P-values Should Never Be Zero, 2010.
    """
    source, target = _pair(source, target, minimum=2)
    if permutations < 1:
        raise UserError(f"permutations={permutations}: expected 1 or more.")
    kernel, bandwidth = _gaussian_kernel(np.concatenate([source, target]), bandwidth)
    in_source = np.zeros((len(kernel), permutations + 1))
    in_source[: len(source), 0] = 1.0
    rng = np.random.default_rng(seed)
    for column in range(1, permutations + 1):
        in_source[rng.permutation(len(kernel))[: len(source)], column] = 1.0
    values = _squared_mmd(kernel, in_source)
    # Values that differ by rounding errors alone count as ties.
    ties = values[1:] >= values[0] - 1e-12
    return MMDTest(
        mmd=float(values[0]),
        p_value=float((1 + ties.sum()) / (1 + permutations)),
        bandwidth=bandwidth,
        permutations=permutations,
    )


def _gaussian_kernel(
    x: np.ndarray, bandwidth: float | None
) -> tuple[np.ndarray, float]:
    """Computes the kernel matrix of the rows, (n, n), and σ."""
    x = x - x.mean(0)  # squares of numbers far from 0 lose the digits of differences
    squares = np.sum(x**2, axis=1)
    squared = np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0.0)
    np.fill_diagonal(squared, 0.0)
    if bandwidth is None:
        pairs = squared[np.triu_indices(len(x), 1)]
        # Where all rows are equal, the kernel is 1 for any σ.
        bandwidth = float(np.sqrt(np.median(pairs))) or 1.0
    elif not bandwidth > 0:
        raise UserError(
            f"bandwidth={bandwidth}: expected σ > 0, or None for the median distance."
        )
    return np.exp(-squared / (2 * bandwidth**2)), bandwidth


def _squared_mmd(kernel: np.ndarray, in_source: np.ndarray) -> np.ndarray:
    """Computes the unbiased MMD² of several assignments to domains.

    Args:
      kernel: (N, N).
      in_source: (N, p), a column per assignment: 1 in the source, 0 in the target.

    Returns:
      (p,).
    """
    n = in_source[:, 0].sum()
    m = len(kernel) - n
    diagonal = np.diag(kernel)
    to_source = kernel @ in_source
    source = np.sum(in_source * to_source, axis=0)
    cross = to_source.sum(axis=0) - source
    target = kernel.sum() - source - 2 * cross
    # The unbiased estimate leaves out pairs of an example with itself.
    source_diagonal = diagonal @ in_source
    source = source - source_diagonal
    target = target - (diagonal.sum() - source_diagonal)
    return source / (n * (n - 1)) + target / (m * (m - 1)) - 2 * cross / (n * m)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassShift:
    """Shift of one class between the domains.

    Attributes:
      name: of the class.
      source, target: numbers of examples.
      shift: distance of its two means, in units of the deviation within classes; NaN
        where a domain has no example.
      chance: √(1/n + 1/m), about the expected value of `shift` for equal domains.
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
    """Computes ‖μ_c(source) − μ_c(target)‖ / s for each class c.

    s² is the mean squared distance of examples from their class's mean in their domain,
    pooled over all examples (divided by their number less that of means, N − 2K): the
    same unit for every class. The measure reads the labels of both domains, so
    it is for analysis only: choose nothing by it where the target is unlabelled.

    Args:
      source: (n, d) features.
      source_labels: (n,) whole numbers.
      target: (m, d) features.
      target_labels: (m,) whole numbers.
      names: of the classes, by label; examples of other labels are left out.

    Raises:
      UserError: arrays that don't fit each other.
    """
    source, target = _pair(source, target, minimum=1)
    domains = ((source, np.asarray(source_labels)), (target, np.asarray(target_labels)))
    for x, y in domains:
        if y.shape != (len(x),):
            raise UserError(
                f"labels of shape {y.shape} for {len(x)} examples: expected one each."
            )
    squares, freedom = 0.0, 0
    classes = [[x[y == label] for x, y in domains] for label in range(len(names))]
    for domain in (0, 1):
        for pair in classes:
            x = pair[domain]
            squares += np.sum((x - x.mean(0)) ** 2) if len(x) else 0.0
            freedom += max(len(x) - 1, 0)
    unit = float(np.sqrt(squares / freedom)) if freedom else math.nan
    return [_class_shift(name, *pair, unit) for name, pair in zip(names, classes)]


def _class_shift(
    name: str, source: np.ndarray, target: np.ndarray, unit: float
) -> ClassShift:
    """Computes the shift of one class, whose rows are given, in a unit."""
    shift = chance = math.nan
    if len(source) and len(target):
        distance = np.linalg.norm(source.mean(0) - target.mean(0))
        shift = float(distance / unit) if unit > 0 else math.nan
        chance = math.sqrt(1 / len(source) + 1 / len(target))
    return ClassShift(
        name=name,
        source=len(source),
        target=len(target),
        shift=shift,
        chance=chance,
    )


def _pair(
    source: np.ndarray, target: np.ndarray, *, minimum: int
) -> tuple[np.ndarray, np.ndarray]:
    """Converts features to two float64 matrices of equal width.

    Raises:
      UserError: other shapes, fewer examples than the minimum, or values not finite.
    """
    matrices = []
    for name, x in (("source", source), ("target", target)):
        x = np.asarray(x, np.float64)
        if x.ndim != 2:
            raise UserError(
                f"{name} features have the shape {x.shape}; expected (examples, width)."
            )
        if len(x) < minimum:
            raise UserError(
                f"the {name} domain has {len(x)} examples; this needs at least "
                f"{minimum}."
            )
        if not np.isfinite(x).all():
            raise UserError(f"the {name} features hold NaN or infinity.")
        matrices.append(x)
    source, target = matrices
    if source.shape[1] != target.shape[1]:
        raise UserError(
            f"source features have width {source.shape[1]} and target features "
            f"{target.shape[1]}; they must be of one stage of one model."
        )
    return source, target
