"""Fine-tuning of the whole network on each episode's support set."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from jaxtl.analysis.episodes.base import FewShotMethod
from jaxtl.core import compilation
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data import lazy_array, preprocess
from jaxtl.data.dataset import Dataset
from jaxtl.data.episodes import Episode
from jaxtl.evaluation.forward import EvaluationModel
from jaxtl.models.layers.sequences import unit_length
from jaxtl.models.precision import compute_in
from jaxtl.terms.domain.domain_pair import stage_vectors

SCALE = 10.0  # of the cosines in the softmax


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning(FewShotMethod):
    """Ten times the cosine with class vectors, after all weights were trained.

    The class vectors begin as the means of the support features of unit length. They
    and the network's parameters take steps of Adam on the cross-entropy of the whole
    support set. Batch statistics stay, and there is neither dropout nor augmentation.

    Attributes:
      rate: learning rate of Adam.
      steps: on each episode, which begins with the network's own weights.

    References:
      Chen et al., A Closer Look at Few-Shot Classification, ICLR 2019 (Baseline++, of
      which this trains the body as well); Hu et al., Pushing the Limits of Simple
      Pipelines for Few-Shot Learning, CVPR 2022 (from prototypes).
    """

    rate: float | tuple[float, ...] = 1e-4
    steps: int | tuple[int, ...] = 20

    title: ClassVar[str] = "fine-tuning"

    def __call__(
        self, support: ArrayLike, labels: ArrayLike, query: ArrayLike
    ) -> np.ndarray:
        """Raises UserError: features don't say what network gave them."""
        raise UserError(
            "episodes.FineTuning trains a network, so it can't be applied to features; "
            "tl.episodes.study(FILE_OR_RUN, methods=…) evaluates it."
        )


def episode_scores(
    model: EvaluationModel,
    weights: tuple[PyTree, PyTree],
    dataset: Dataset,
    stage: str,
) -> Callable[[FineTuning, Episode], np.ndarray]:
    """A function: fine-tunes on the support set and computes the scores of queries.

    Args:
      model: the network and how it is run.
      weights: (parameters, statistics) that each episode begins with.
      dataset: whose rows the episodes name.
      stage: whose output the class vectors are compared with.

    Returns:
      (method, episode) -> (queries, ways) scores.
    """
    network = compute_in(model.network, model.dtype)

    def scores(method: FineTuning, episode: Episode) -> np.ndarray:
        static = (network, model.preprocess, stage, method.steps, len(episode.classes))
        call = compilation.cached_jit(_fine_tune, *static)
        inputs = (
            lazy_array.gather(dataset.x, rows)
            for rows in (episode.support, episode.query)
        )
        support, query = inputs
        labels = jnp.asarray(episode.support_labels)
        return np.asarray(call(weights, method.rate, support, labels, query))

    return scores


def _fine_tune(
    network: Network,
    pre: preprocess.Preprocess,
    stage: str,
    steps: int,
    ways: int,
    weights: tuple[PyTree, PyTree],
    rate: jax.Array,
    support: PyTree,
    labels: jax.Array,
    query: PyTree,
) -> jax.Array:
    """Scores (m, ways) of queries by a network trained on the support set."""
    support, query = (preprocess.apply(pre, x) for x in (support, query))
    params, stats = weights
    targets = jax.nn.one_hot(labels, ways)
    adam = optax.adam(rate)

    def features(params: PyTree, x: PyTree) -> jax.Array:
        out = network.apply(params, stats, x, stop=stage).features[stage]
        return unit_length(stage_vectors(network, stage, out))

    def loss(trained: tuple[PyTree, jax.Array]) -> jax.Array:
        logits = SCALE * features(trained[0], support) @ unit_length(trained[1]).T
        return optax.softmax_cross_entropy(logits, targets).mean()

    def update(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        trained, state = carry
        updates, state = adam.update(jax.grad(loss)(trained), state)
        return (optax.apply_updates(trained, updates), state), None

    means = targets.T @ features(params, support) / targets.sum(axis=0)[:, None]
    start = (params, means)
    (trained, _), _ = jax.lax.scan(update, (start, adam.init(start)), None, steps)
    return SCALE * features(trained[0], query) @ unit_length(trained[1]).T
