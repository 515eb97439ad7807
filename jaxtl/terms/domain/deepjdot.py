"""DeepJDOT: optimal transport of source features and labels to the target."""

import dataclasses
import importlib.util
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain.domain_pair import DomainPairAtStage

_MISSING = "optimal transport needs ott: pip install 'jaxtl[ot]'."


def feature_cost(source: jax.Array, target: jax.Array) -> jax.Array:
    """‖g(x_i) − g(x_j)‖² of all pairs, (n, d) and (m, d) -> (n, m).

    Args:
      source: features of the source's batch.
      target: features of the target's batch.

    Returns:
      Squared Euclidean distances, without ½, at least 0.
    """
    center = jax.lax.stop_gradient(jnp.concatenate([source, target]).mean(0))
    a, b = source - center, target - center
    squares = jnp.sum(jnp.square(a), 1)[:, None] + jnp.sum(jnp.square(b), 1)
    return jnp.maximum(squares - 2 * jnp.matmul(a, b.T, precision="highest"), 0.0)


def label_cost(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """−log p(y_i | x_j) of all pairs, (n, m), in nats.

    Args:
      labels: y_i of source examples, (n,) class indices or (n, K) distributions.
      logits: of target examples, (m, K).

    Returns:
      A cost for each pair, which counts a source's label as the target's.
    """
    log_p = jax.nn.log_softmax(logits)
    if labels.ndim == 1:
        return -log_p[:, labels].T
    return -jnp.matmul(labels.astype(log_p.dtype), log_p.T, precision="highest")


def transport_plan(
    cost: jax.Array, epsilon: float = 0.01, iterations: int = 2000
) -> jax.Array:
    """Entropic optimal transport between two uniform batches, by Sinkhorn's iterations.

    argmin_γ Σ γ_ij C_ij + ε c̄ Σ γ_ij (log γ_ij − 1), c̄ the mean cost; no gradient flows
    through it.

    Args:
      cost: C, (n, m), at least 0.
      epsilon: ε; a smaller value brings the plan closer to the exact one and needs more
        iterations. May be traced.
      iterations: maximum number of iterations.

    Returns:
      γ, (n, m): rows sum to 1/n and columns to 1/m, up to a summed error of 1e-3.

    Raises:
      UserError: if ott is not installed.
    """
    try:
        from ott.geometry import geometry
        from ott.solvers import linear
    except ImportError:
        raise UserError(_MISSING) from None
    cost = jax.lax.stop_gradient(cost)
    mean = jnp.mean(cost)
    scaled = cost / jnp.where(mean > 0, mean, 1.0)
    problem = geometry.Geometry(cost_matrix=scaled, epsilon=epsilon)
    solution = linear.solve(problem, max_iterations=iterations)
    return jax.lax.stop_gradient(solution.matrix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepJDOT(DomainPairAtStage):
    """Σ γ_ij C_ij, C = α · `feature_cost` + λ_t · `label_cost`, γ its `transport_plan`.

    The source's task loss is not part of it: add CrossEntropy(stream="source"). The
    paper solves the transport exactly; here it is smoothed by `epsilon`. The authors'
    program finds γ with ‖y_i − p(x_j)‖² in place of the cross-entropy and without λ_t.
    Reports the two parts, unweighted: "features" and "labels".

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: stage whose features are transported, one vector per example; None is the
        last one before the head.
      feature: α, of squared distances; they grow with the features' scale and number.
      label: λ_t, of the cross-entropy in nats.
      epsilon: ε, relative to the mean cost.
      iterations: maximum number of Sinkhorn's iterations.

    References:
      Damodaran et al., DeepJDOT: Deep Joint Distribution Optimal Transport for
      Unsupervised Domain Adaptation, ECCV 2018.
    """

    compares: ClassVar[str] = "pairs of examples"

    feature: float = traced(0.001)
    label: float = traced(1.0)
    epsilon: float = traced(0.01)
    iterations: int = 2000

    def check(self, setup: Setup) -> None:
        checks.task(setup, "DeepJDOT", "classification")
        super().check(setup)
        checks.labelled(setup, "source", self.source)
        checks.classes(setup, "source", self.source)
        checks.number(setup, "feature", self.feature, 0.0)
        checks.number(setup, "label", self.label, 0.0)
        checks.positive(setup, "epsilon", self.epsilon)
        checks.number(setup, "iterations", self.iterations, 1)
        if importlib.util.find_spec("ott") is None:
            raise UserError(f"terms.{setup.name}: DeepJDOT's {_MISSING}")

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        source = self.features(context, self.source)
        target = self.features(context, self.target)
        logits = vectors(context.forward(self.target).logits)
        feature_costs = feature_cost(source, target)
        label_costs = label_cost(context.batches[self.source]["y"], logits)
        cost = self.feature * feature_costs + self.label * label_costs
        plan = transport_plan(cost, self.epsilon, self.iterations)
        return jnp.sum(plan * cost), {
            "features": jnp.sum(plan * feature_costs),
            "labels": jnp.sum(plan * label_costs),
        }
