"""SimCLR: two views of an example attract, views of other examples repel."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.selfsup.projector import spread, unit
from jaxtl.terms.selfsup.two_views import ProjectedViews


def nt_xent(
    first: jax.Array, second: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    """Normalized temperature-scaled cross-entropy, mean over all 2n views.

    −log exp(s_ij/τ) / Σ_{k≠i} exp(s_ik/τ) with cosines s; j is the other view of
    i's example, k all other views of the batch.

    Args:
      first, second: projections of both views, (n, width) each, n ≥ 2.
      temperature: τ.

    Returns:
      A scalar in nats; log(2n − 1) where all projections are equal.

    References:
      Chen et al., ICML 2020, eq. 1 and algorithm 1.
    """
    z = unit(as_float32(jnp.concatenate([first, second])))
    n = len(first)
    similarity = z @ z.T / temperature
    itself = jnp.eye(2 * n, dtype=bool)
    log_p = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, similarity))
    return -jnp.mean(log_p[jnp.arange(2 * n), jnp.roll(jnp.arange(2 * n), n)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLR(ProjectedViews):
    """Contrast of two views of each example with all other views of the batch.

    Larger batches are harder and better: the paper's have 256 to 8192 examples. The
    authors put both views in one pass; here each has batch statistics of its own.
    Reports "spread", 0 for a collapse.

    Attributes:
      temperature: τ; 0.5 in the paper for small images, 0.1 for ImageNet.
      projector, norm, stream, stage, views, second: as in `ProjectedViews`; the
        paper's projector has a hidden layer as wide as the features and 128 outputs.

    References:
      Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of
      Visual Representations, ICML 2020.
    """

    compares: ClassVar[str] = "the views of a batch's examples"

    temperature: float = traced(0.5)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "temperature", self.temperature)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        first, second = self.projections(context)
        value = nt_xent(first, second, self.temperature)
        return value, {"spread": spread(first)}
