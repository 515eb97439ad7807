"""DeepJDOT: carry source examples, features and labels, to the nearest target ones."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.domain import domain_pair

MISSING = "optimal transport needs ott: pip install 'jaxtl[ot]'."


def feature_cost(source: jax.Array, target: jax.Array) -> jax.Array:
    """‖g(x_i) − g(x_j)‖² of all pairs, (n, d) and (m, d) -> (n, m)."""
    middle = jax.lax.stop_gradient(jnp.concatenate([source, target]).mean(0))
    a, b = source - middle, target - middle
    squares = jnp.sum(jnp.square(a), 1)[:, None] + jnp.sum(jnp.square(b), 1)
    return jnp.maximum(squares - 2 * jnp.matmul(a, b.T, precision="highest"), 0.0)


def label_cost(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """−log p(y_i | x_j) of all pairs, (n, m), in nats.

    Args:
      labels: y_i of source examples, (n,) class indices or (n, K) distributions.
      logits: of target examples, (m, K).
    """
    log_p = jax.nn.log_softmax(logits)
    if labels.ndim == 1:
        return -log_p[:, labels].T
    return -jnp.matmul(labels.astype(log_p.dtype), log_p.T, precision="highest")


def plan(cost: jax.Array, epsilon=0.01, iterations: int = 2000) -> jax.Array:
    """Entropic optimal transport between two uniform batches, by Sinkhorn's iterations.

    argmin_γ Σ γ_ij C_ij + ε c̄ Σ γ_ij (log γ_ij − 1), c̄ the mean cost; no gradient flows
    through it.

    Args:
      cost: C, (n, m), at least 0.
      epsilon: ε; the plan nears the exact one as it falls, in more iterations.
      iterations: at most so many.

    Returns:
      γ, (n, m): rows sum to 1/n and columns to 1/m, up to a summed error of 1e-3.

    Raises:
      UserError: if ott is not installed.
    """
    try:
        from ott.geometry import geometry
        from ott.solvers import linear
    except ImportError:
        raise UserError(MISSING) from None
    cost = jax.lax.stop_gradient(cost)
    mean = jnp.mean(cost)
    scaled = cost / jnp.where(mean > 0, mean, 1.0)
    geom = geometry.Geometry(cost_matrix=scaled, epsilon=epsilon)
    found = linear.solve(geom, max_iterations=iterations)
    return jax.lax.stop_gradient(found.matrix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepJDOT(Term):
    """Σ γ_ij C_ij with C = α · `feature_cost` + λ_t · `label_cost` and γ its `plan`.

    The source's task loss is not in it: add CrossEntropy(stream="source"). The paper
    solves the transport exactly; here it is smoothed by `epsilon`. Reports the two
    parts, unweighted: "features" and "labels".

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: whose features are carried, one vector per example; None is the last
        before the head.
      feature: α, of squared distances; they grow with the features' scale and number.
      label: λ_t, of the cross-entropy in nats.
      epsilon: ε, relative to the mean cost.
      iterations: of Sinkhorn, at most.

    References:
      Damodaran et al., DeepJDOT: Deep Joint Distribution Optimal Transport for
      Unsupervised Domain Adaptation, ECCV 2018.
    """

    source: str = "source"
    target: str = "unlabelled"
    stage: str | None = None
    feature: float = traced(0.001)
    label: float = traced(1.0)
    epsilon: float = traced(0.01)
    iterations: int = 2000

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        checks.task(setup, "DeepJDOT", "classification")
        domain_pair.check(setup, self.source, self.target)
        checks.labelled(setup, "source", self.source)
        checks.classes(setup, "source", self.source)
        checks.stage(setup, "stage", self._stage(setup.program.network))
        checks.number(setup, "feature", self.feature, 0.0)
        checks.number(setup, "label", self.label, 0.0)
        checks.positive(setup, "epsilon", self.epsilon)
        checks.number(setup, "iterations", self.iterations, 1)
        if importlib.util.find_spec("ott") is None:
            raise UserError(f"terms.{setup.name}: DeepJDOT's {MISSING}")

    def _stage(self, network) -> str:
        return feature_stage(network.stages, self.stage)

    def __call__(self, context):
        stage = self._stage(context.program.network)
        source, target = domain_pair.both(context, self, stage)
        logits = vectors(context.forward(self.target).logits)
        labels = context.batches[self.source]["y"]
        features = feature_cost(source, target)
        classes = label_cost(labels, logits)
        cost = self.feature * features + self.label * classes
        carried = plan(cost, self.epsilon, self.iterations)
        return jnp.sum(carried * cost), {
            "features": jnp.sum(carried * features),
            "labels": jnp.sum(carried * classes),
        }
