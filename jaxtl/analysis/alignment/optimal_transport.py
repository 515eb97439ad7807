"""Optimal transport: move the source onto the target, then learn where it lands."""

import numpy as np
from scipy import optimize, sparse, special
from scipy.spatial import distance

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError

METRICS = ("sqeuclidean", "cityblock", "cosine")
SCALES = ("none", "max", "median")
LARGE, TINY = 1e100, 1e-300  # scalings between which products don't over- or underflow


def exact(cost: np.ndarray) -> np.ndarray:
    """Returns the plan γ, (n, m), of least Σ γ·cost with rows 1/n and columns 1/m.

    Equal counts are an assignment (Jonker–Volgenant); others a linear program (HiGHS),
    whose time grows quickly with the counts.

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
    # One of the n + m equations follows from the others.
    found = optimize.linprog(cost.ravel(), A_eq=margins[:-1], b_eq=goal[:-1])
    if not found.success:
        raise UserError(f"OTMapping: the linear program found no plan: {found.message}")
    return np.maximum(found.x, 0).reshape(n, m)


def sinkhorn(
    cost: np.ndarray, entropy: float, steps: int = 1000, tolerance: float = 1e-9
) -> np.ndarray:
    """Returns the plan of least Σ γ·cost + entropy·Σ γ(log γ − 1), margins as `exact`.

    It stops where the rows' sums are right to `tolerance` in total (columns' always
    are), or after `steps`. Steps are products with the kernel as long as its scalings
    stay in range; one in logarithms then takes them up, so a small entropy doesn't
    underflow.

    References:
      Cuturi, Sinkhorn Distances, NeurIPS 2013; Courty et al., 2017, eq. 7. Schmitzer,
      Stabilized Sparse Scaling Algorithms, SIAM J. Sci. Comput. 41 (2019), for the
      change between the two.
    """
    n, m = cost.shape
    score = -cost / entropy
    right = np.zeros((1, m))
    u, v, mass = np.ones(n), np.ones(m), np.zeros(n)
    for _ in range(steps):
        if max(u.max(), v.max()) > LARGE or mass.min() < TINY:
            right = right + np.log(v)
            left = -np.log(n) - special.logsumexp(score + right, axis=1, keepdims=True)
            right = -np.log(m) - special.logsumexp(score + left, axis=0, keepdims=True)
            u, v, kernel = np.ones(n), np.ones(m), np.exp(score + left + right)
        mass = kernel @ v
        if np.abs(u * mass - 1 / n).sum() <= tolerance:
            break
        u = 1 / n / np.maximum(mass, TINY)
        v = 1 / m / np.maximum(kernel.T @ u, TINY)
    return u[:, None] * kernel * v


FLOOR = 1e-3  # ε, as in POT; with none, a class that once sends nothing never would


def class_penalty(plan: np.ndarray, ys: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Returns p·(Σ_{i of class c} γ_ij + ε)^(p−1) for each (i, j), (n, m).

    The slope of Ω(γ) = Σ_j Σ_c (Σ_{i of c} γ_ij + ε)^p, which is low where all that a
    target row receives comes from one class.

    References:
      Courty, Flamary & Tuia, Domain Adaptation with Regularized Optimal Transport, ECML
      2014, eq. 6 to 8 (p = ½).
    """
    slope = np.empty_like(plan)
    for label in np.unique(ys):
        members = ys == label
        mass = plan[members].sum(0) + FLOOR
        slope[members] = power * mass ** (power - 1)
    return slope


def class_regularised(
    cost, ys, entropy: float, strength: float, rounds: int = 10, steps: int = 1000
) -> np.ndarray:
    """Returns a plan of low cost + entropy + strength·Ω (see `class_penalty`).

    Majorisation and minimisation: Sinkhorn, with Ω's slope at the last plan added to
    the cost.

    References:
      Courty, Flamary & Tuia, ECML 2014, algorithm 1.
    """
    plan = sinkhorn(cost, entropy, steps)
    for _ in range(rounds):
        plan = sinkhorn(cost + strength * class_penalty(plan, ys), entropy, steps)
    return plan


def barycentric(plan: np.ndarray, xt: np.ndarray) -> np.ndarray:
    """Returns where each source row goes, (n, d): the mean of target rows by its plan.

    References:
      Courty et al., 2017, eq. 16.
    """
    mass = plan.sum(1, keepdims=True)
    return (plan @ xt) / np.where(mass > 0, mass, 1.0)


class OTMapping(base.Mapping):
    """Source rows to where the plan takes them; target rows as they are.

    A row that was not fitted moves as its nearest fitted source
    row does (Ferradans et al., 2014; Courty et al., 2017, section 4.3).

    Attributes:
      entropy: 0 is the exact plan; above it, Sinkhorn's, in units of the scaled cost.
      classes: strength of the class penalty, 0 for none; it needs labels and entropy.
      metric: of the cost between rows: "sqeuclidean", ‖x − x'‖²; "cityblock"; "cosine".
      scale: what the cost is divided by: "none", its "max" or its "median".
      steps: of Sinkhorn, at most.
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
    ):
        self.entropy = entropy
        self.classes = classes
        self.metric = metric
        self.scale = scale
        self.steps = steps

    def fit(self, xs, xt, ys=None):
        xs, xt = base.pair(self, xs, xt)
        base.number(self, "entropy", self.entropy, 0)
        base.number(self, "classes", self.classes, 0)
        base.one_of(self, "metric", self.metric, METRICS)
        base.one_of(self, "scale", self.scale, SCALES)
        base.whole(self, "steps", self.steps, 10**9, "rounds of Sinkhorn")
        cost = self._cost(xs, xt)
        if self.classes > 0 and self.entropy == 0:
            raise UserError(
                "OTMapping: classes= penalises a plan with entropy; give entropy= a "
                "number above 0."
            )
        if self.classes > 0:
            ys = base.labels(self, "ys", ys, len(xs))
            self.plan_ = class_regularised(
                cost, ys, self.entropy, self.classes, steps=self.steps
            )
        elif self.entropy > 0:
            self.plan_ = sinkhorn(cost, self.entropy, self.steps)
        else:
            self.plan_ = exact(cost)
        self.rows_, self.width_ = xs, xs.shape[1]
        self.moves_ = barycentric(self.plan_, xt) - xs
        return self

    def _cost(self, xs, xt):
        cost = distance.cdist(xs, xt, self.metric)
        if not np.isfinite(cost).all():
            raise UserError(
                f"OTMapping: metric={self.metric!r} has no value for rows of zeros."
            )
        if self.scale == "none":
            return cost
        size = cost.max() if self.scale == "max" else np.median(cost)
        if size == 0:
            raise UserError(
                f"OTMapping: scale={self.scale!r} would divide by a cost of 0; take "
                "'none'."
            )
        return cost / size

    def _transform(self, x, domain):
        if domain == "target":
            return x
        return x + self.moves_[base.squared_distances(x, self.rows_).argmin(1)]
