"""MoCo: contrast with a queue of a momentum encoder's projections."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.selfsup.momentum import MomentumTerm
from jaxtl.terms.selfsup.projector import project, spread, unit
from jaxtl.terms.selfsup.two_views import ProjectedViews


def info_nce(
    queries: jax.Array,
    keys: jax.Array,
    queue: jax.Array,
    temperature: float | jax.Array,
) -> jax.Array:
    """−log exp(q·k/τ) / (exp(q·k/τ) + Σ_j exp(q·n_j/τ)), mean over queries, in nats.

    Args:
      queries, keys: q and k, (n, width) each, scaled to length 1 here.
      queue: negatives n_j, (size, width), of length 1.
      temperature: τ.

    Returns:
      A scalar ≥ 0; the factor 2τ of MoCo v3 is not in it.

    References:
      He et al., CVPR 2020, eq. 1 and algorithm 1.
    """
    queries, keys = unit(as_float32(queries)), unit(as_float32(keys))
    positive = jnp.sum(queries * keys, -1, keepdims=True)
    logits = jnp.concatenate([positive, queries @ queue.T], -1) / temperature
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])


def enqueued(queue: jax.Array, keys: jax.Array) -> jax.Array:
    """The queue with new keys in front, without as many of the oldest.

    Args:
      queue: (size, width), the newest first.
      keys: (n, width), n ≤ size.

    Returns:
      (size, width).
    """
    return jnp.concatenate([keys, queue[: len(queue) - len(keys)]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCo(MomentumTerm, ProjectedViews):
    """Contrast of one view with the other one's momentum projection and a queue.

    MoCo v2: negatives are the last `queue` projections, whatever the batch is. The
    encoder's BatchNorm sees its batch in the same order as the network's, where the
    authors shuffle examples between devices. Reports "spread", 0 for a collapse.

    Attributes:
      temperature: τ, 0.2 in version 2 and 0.07 in version 1.
      queue: number of negatives, a multiple of the batch; 65,536 in the paper, 4,096
        in the authors' program for CIFAR-10.
      projector: widths of its layers, without BatchNorm unless `norm`.
      momentum, rises: of the encoder; 0.999 throughout (0.99 for CIFAR-10).
      norm, stream, stage, views, second: as in `ProjectedViews`.

    References:
      He et al., Momentum Contrast, CVPR 2020; Chen et al., arXiv:2003.04297.
    """

    compares: ClassVar[str] = "examples with those that came before"
    moves_once: ClassVar[bool] = False

    temperature: float = traced(0.2)
    queue: int = 4096
    momentum: float = traced(0.999)
    rises: bool = False
    norm: bool = False

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "temperature", self.temperature)
        checks.count(setup, "queue", self.queue)
        batch = setup.program.batch_sizes[self.stream]
        if self.queue < batch or self.queue % batch:
            nearest = max(round(self.queue / batch), 1) * batch
            raise UserError(
                f"{checks.where(setup, 'queue')}={self.queue}: expected a multiple of "
                f"the batch of {batch}, so that it holds whole batches, such as "
                f"{nearest}."
            )

    def init_state(self, setup: Setup) -> PyTree:
        shape = (self.queue, self.output_width(setup))
        queue = unit(jax.random.normal(jax.random.key(0), shape))
        return {**super().init_state(setup), "queue": queue}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        first, second = self.view_inputs(context)
        encoder = self.encoder(context, context.program.accumulate)
        params = context.term_params.get("projector", {})
        queries = project(params, self.features(context, first))
        heads = encoder["heads"].get("projector", {})
        keys = unit(as_float32(project(heads, self.encoded(context, encoder, second))))
        queue = context.state["queue"]
        context.set_state({**encoder, "queue": enqueued(queue, keys)})
        value = info_nce(queries, keys, queue, self.temperature)
        return value, {"spread": spread(queries)}
