"""Optimal transport: maps source rows to target rows at the lowest total cost."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, sparse, special
from scipy.spatial import distance

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError

METRICS = ("sqeuclidean", "cityblock", "cosine")
SCALES = ("none", "max", "median")
# Outside of these, Sinkhorn's scalings may make products over- or underflow.
_MAX_SCALING, _MIN_MASS = 1e100, 1e-300
_MASS_OFFSET = 1e-3  # ε, as in POT; without it, a class that sends no mass never would


def exact(cost: np.ndarray) -> np.ndarray:
    """Computes the plan γ, (n, m), of least Σ γ·cost with rows 1/n and columns 1/m.

    Equal numbers of rows are an assignment problem (Jonker–Volgenant), others a linear
    program (HiGHS), whose time grows quickly with the numbers.

    Args:
      cost: (n, m), between source and target rows.

    Returns:
      The plan, not negative, of total mass 1.

    Raises:
      UserError: the linear program fails.

    References:
      Courty, Flamary, Tuia & Rakotomamonjy, Optimal Transport for Domain Adaptation,
      IEEE TPAMI 39 (2017), eq. 5 (Kantorovich's).
    """
    n, m = cost.shape
    if n == m:
        rows, columns = optimize.linear_sum_assignment(cost)
        plan = np.zeros((n, m))
        plan[rows, columns] = 1 / n
        return plan
    margins = sparse.vstack(
        [
            sparse.kron(sparse.eye(n), np.ones((1, m))),
            sparse.kron(np.ones((1, n)), sparse.eye(m)),
        ]
    ).tocsr()
    goal = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    # The last of the n + m equations follows from the remaining ones.
    result = optimize.linprog(cost.ravel(), A_eq=margins[:-1], b_eq=goal[:-1])
    if not result.success:
        raise UserError(
            f"OTMapping: the linear program found no plan: {result.message}"
        )
    return np.maximum(result.x, 0).reshape(n, m)


def sinkhorn(
    cost: np.ndarray, entropy: float, steps: int = 1000, tolerance: float = 1e-9
) -> np.ndarray:
    """Computes the plan of least Σ γ·cost + entropy·Σ γ(log γ − 1), margins as `exact`.

    It stops where the absolute errors of the rows' sums total at most `tolerance` (the
    columns' sums are always right), or after `steps`. A step multiplies by the kernel
    while the scalings stay in range; otherwise a step in logarithms first absorbs them
    into the potentials, so that a small entropy doesn't underflow.

    Args:
      cost: (n, m).
      entropy: above 0.
      steps: maximum number of steps.
      tolerance: of the margins.

    Returns:
      The plan, (n, m), above 0.

    References:
      Cuturi, Sinkhorn Distances, NeurIPS 2013; Courty et al., 2017, eq. 7. Schmitzer,
      Stabilized Sparse Scaling Algorithms, SIAM J. Sci. Comput. 41 (2019), for the
      absorption of the scalings.
    """
    n, m = cost.shape
    score = -cost / entropy
    column_potential = np.zeros((1, m))
    # A mass of zeros makes the first step one in logarithms, which sets the kernel.
    u, v, mass = np.ones(n), np.ones(m), np.zeros(n)
    for _ in range(steps):
        if max(u.max(), v.max()) > _MAX_SCALING or mass.min() < _MIN_MASS:
            column_potential = column_potential + np.log(v)
            row_potential = -np.log(n) - special.logsumexp(
                score + column_potential, axis=1, keepdims=True
            )
            column_potential = -np.log(m) - special.logsumexp(
                score + row_potential, axis=0, keepdims=True
            )
            kernel = np.exp(score + row_potential + column_potential)
            u, v = np.ones(n), np.ones(m)
        mass = kernel @ v
        if np.abs(u * mass - 1 / n).sum() <= tolerance:
            break
        u = 1 / n / np.maximum(mass, _MIN_MASS)
        v = 1 / m / np.maximum(kernel.T @ u, _MIN_MASS)
    return u[:, None] * kernel * v


def class_penalty(plan: np.ndarray, ys: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Computes p·(Σ_{i of class c} γ_ij + ε)^(p−1) for each (i, j), (n, m).

    That is the gradient of Ω(γ) = Σ_j Σ_c (Σ_{i of c} γ_ij + ε)^p, which is low where
    all mass that a target row receives comes from one class.

    Args:
      plan: (n, m) γ.
      ys: (n,) source labels.
      power: p.

    Returns:
      The gradient of Ω by γ; ε = 0.001 bounds it where a class sends no mass.

    References:
      Courty, Flamary & Tuia, Domain Adaptation with Regularized Optimal Transport, ECML
      2014, eq. 6 to 8 (p = ½).
    """
    gradient = np.empty_like(plan)
    for label in np.unique(ys):
        members = ys == label
        mass = plan[members].sum(0) + _MASS_OFFSET
        gradient[members] = power * mass ** (power - 1)
    return gradient


def class_regularized(
    cost: np.ndarray,
    ys: np.ndarray,
    entropy: float,
    strength: float,
    rounds: int = 10,
    steps: int = 1000,
) -> np.ndarray:
    """Computes a plan of low cost + entropy + strength·Ω (see `class_penalty`), (n, m).

    Majorization and minimization: each round runs Sinkhorn with the gradient of Ω at
    the last plan added to the cost.

    Args:
      cost: (n, m).
      ys: (n,) source labels.
      entropy, strength: weights of the two penalties.
      rounds: number of rounds after the first plan, which has no class penalty.
      steps: maximum number of steps of Sinkhorn per round.

    Returns:
      The plan of the last round, with the margins of `sinkhorn`.

    References:
      Courty, Flamary & Tuia, ECML 2014, algorithm 1.
    """
    plan = sinkhorn(cost, entropy, steps)
    for _ in range(rounds):
        plan = sinkhorn(cost + strength * class_penalty(plan, ys), entropy, steps)
    return plan


def barycentric(plan: np.ndarray, xt: np.ndarray) -> np.ndarray:
    """Computes the image of each source row, (n, d): the plan's mean of target rows.

    Args:
      plan: (n, m).
      xt: (m, d) target rows.

    Returns:
      (n, d) points in the space of `xt`; 0 for a source row without mass.

    References:
      Courty et al., 2017, eq. 16.
    """
    mass = plan.sum(1, keepdims=True)
    return (plan @ xt) / np.where(mass > 0, mass, 1.0)


class OTMapping(base.FeatureMap):
    """Maps source rows to their image under the plan; keeps target rows as they are.

    A row that was not fitted is shifted as its nearest fitted source row is (Ferradans
    et al., 2014; Courty et al., 2017, section 4.3).

    Attributes:
      entropy: 0 takes the exact plan, more Sinkhorn's; in units of the scaled cost.
      classes: strength of the class penalty, 0 for none; it needs labels and entropy.
      metric: of the cost between rows: "sqeuclidean", ‖x − x'‖²; "cityblock"; "cosine".
      scale: divisor of the cost: "none", its "max" or its "median".
      steps: maximum number of steps of Sinkhorn.
      plan_: (n, m) after `fit`.

    References:
      Courty, Flamary, Tuia & Rakotomamonjy, IEEE TPAMI 39 (2017).
    """

    def __init__(
        self,
        entropy: float = 0.0,
        classes: float = 0.0,
        metric: str = "sqeuclidean",
        scale: str = "none",
        steps: int = 1000,
    ) -> None:
        self.entropy = entropy
        self.classes = classes
        self.metric = metric
        self.scale = scale
        self.steps = steps

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        xs, xt = base.check_pair(self, xs, xt)
        base.check_number(self, "entropy", self.entropy, 0)
        base.check_number(self, "classes", self.classes, 0)
        base.check_choice(self, "metric", self.metric, METRICS)
        base.check_choice(self, "scale", self.scale, SCALES)
        base.check_integer(self, "steps", self.steps, 10**9, "steps of Sinkhorn")
        cost = self._cost(xs, xt)
        if self.classes > 0 and self.entropy == 0:
            raise UserError(
                "OTMapping: classes= penalizes a plan with entropy; give entropy= a "
                "number above 0."
            )
        if self.classes > 0:
            ys = base.check_labels(self, "ys", ys, len(xs))
            self.plan_ = class_regularized(
                cost, ys, self.entropy, self.classes, steps=self.steps
            )
        elif self.entropy > 0:
            self.plan_ = sinkhorn(cost, self.entropy, self.steps)
        else:
            self.plan_ = exact(cost)
        self.rows_, self.width_ = xs, xs.shape[1]
        self.moves_ = barycentric(self.plan_, xt) - xs
        return self

    def _cost(self, xs: np.ndarray, xt: np.ndarray) -> np.ndarray:
        """Computes the scaled cost between rows, (n, m)."""
        cost = distance.cdist(xs, xt, self.metric)
        if not np.isfinite(cost).all():
            raise UserError(
                f"OTMapping: metric={self.metric!r} has no value for rows of zeros."
            )
        if self.scale == "none":
            return cost
        scale = cost.max() if self.scale == "max" else np.median(cost)
        if scale == 0:
            raise UserError(
                f"OTMapping: scale={self.scale!r} would divide by a cost of 0; take "
                "'none'."
            )
        return cost / scale

    def _transform(self, x: np.ndarray, domain: str) -> np.ndarray:
        if domain == "target":
            return x
        return x + self.moves_[base.squared_distances(x, self.rows_).argmin(1)]
