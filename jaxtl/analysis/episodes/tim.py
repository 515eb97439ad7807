"""Transductive information maximization by alternating directions (TIM-ADM)."""

import dataclasses
from typing import ClassVar

import numpy as np
from scipy import special

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod


def logits(features: np.ndarray, prototypes: np.ndarray, scale: float) -> np.ndarray:
    """−½ scale · ‖x − w_k‖², (n, ways)."""
    return -0.5 * scale * geometry.squared_distances(features, prototypes)


def auxiliary(
    probabilities: np.ndarray, marginal: float, conditional: float
) -> np.ndarray:
    """Closed-form update of the auxiliary assignments q (eq. 9 of the paper).

    q_ik ∝ p_ik^(1 + conditional) / (Σ_i p_ik^(1 + conditional))^β with
    β = marginal / (1 + marginal).

    Args:
      probabilities: p (m, ways) of the queries.
      marginal, conditional: weights of the two entropies.
    """
    powers = probabilities ** (1.0 + conditional)
    q = powers / powers.sum(axis=0) ** (marginal / (1.0 + marginal))
    return q / q.sum(axis=1, keepdims=True)


def tim_prototypes(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, settings: "TIM"
) -> np.ndarray:
    """Prototypes (ways, d) after the alternating updates, from the class means.

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode, of unit length.
      settings: its weights, scale and iterations.
    """
    weights, targets = geometry.prototypes(support, labels), geometry.one_hot(labels)
    part = settings.cross_entropy / (1.0 + settings.conditional)
    share = len(support) / len(query)
    for _ in range(settings.iterations):
        p = special.softmax(logits(query, weights, settings.scale), axis=1)
        q = auxiliary(p, settings.marginal, settings.conditional)
        p_support = special.softmax(logits(support, weights, settings.scale), axis=1)
        pull = part * ((targets - p_support).T @ support) + share * (q - p).T @ query
        mass = part * p_support.sum(axis=0) + share * p.sum(axis=0)
        norm = part * targets.sum(axis=0) + share * q.sum(axis=0)
        weights = (pull + mass[:, None] * weights) / norm[:, None]
    return weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class TIM(FewShotMethod):
    """Prototypes that maximize the information of queries about their classes (ADM).

    The objective is cross_entropy · CE(support) − marginal · H(mean prediction) +
    conditional · mean H(prediction); the paper's alternating direction method updates
    assignments and prototypes in closed form.

    Attributes:
      cross_entropy, marginal, conditional: weights of the three terms.
      scale: of the squared distances.
      iterations: of both updates.

    References:
      Boudiaf et al., Transductive Information Maximization, NeurIPS 2020; constants of
      its program, mboudiaf/TIM.
    """

    cross_entropy: float | tuple[float, ...] = 0.1
    marginal: float | tuple[float, ...] = 1.0
    conditional: float | tuple[float, ...] = 0.1
    scale: float | tuple[float, ...] = 15.0
    iterations: int | tuple[int, ...] = 150

    title: ClassVar[str] = "TIM-ADM"
    transductive: ClassVar[bool] = True

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        [both] = geometry.span(geometry.unit(np.concatenate([support, query])))
        support, query = both[: len(support)], both[len(support) :]
        return logits(query, tim_prototypes(support, labels, query, self), self.scale)
