"""AdaBN: adaptation by the target's BatchNorm statistics alone."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.models.layers import batch_norm_stats
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaBN(Term):
    """Sets BatchNorm's statistics to those of all of a stream's batches so far.

    Its value is 0, so it trains nothing. To adapt a trained model with it alone, run
    steps that leave the parameters unchanged; they read `steps` · `batch` examples:

      Experiment(init=FromRun("<source>"), data=<target, labels=0>, steps=30, batch=256,
                 terms={"adabn": AdaBN()}, optim=SGD(lr=0.0), monitor=None)

    `tl.adabn(run)` does the same to a run in memory; to adapt during training, let
    `Experiment.statistics=("unlabelled",)` update the running statistics from the
    target. Means and variances are those of all examples pooled; each batch passes
    normalized by its own. Put this term last: another term's pass of a stream updates
    the statistics too.

    Attributes:
      target: stream whose statistics are used; its labels are not used.

    References:
      Li et al., Adaptive Batch Normalization for Practical Domain Adaptation, Pattern
      Recognition 80 (2018), Algorithm 1.
    """

    target: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "target", self.target)
        is_trained = jax.tree.map(bool, jax.tree.leaves(setup.program.trainable_mask))
        if jax.tree.leaves(setup.stats) and not any(is_trained):
            raise UserError(
                f"terms.{setup.name}: every stage is frozen, and a frozen stage keeps "
                "its statistics; leave it unfrozen, with optim=tl.optim.SGD(lr=0.0)."
            )

    def describe(self, setup: Setup) -> str:
        count = len(jax.tree.leaves(setup.stats)) // 2
        if not count:
            return "nothing to do: the model has no BatchNorm"
        return f"takes the statistics of {count} BatchNorm layers from {self.target!r}"

    def init_state(self, setup: Setup) -> PyTree:
        return {"stats": setup.stats, "batches": jnp.int32(0)}

    def __call__(self, context: View) -> jax.Array:
        statistics = batch_norm_stats.batch_statistics(
            context.program.network,
            context.params,
            context.stats,
            context.batches[self.target]["x"],
            train=context.program.train_stages,
            frozen_stats=context.program.frozen_stats,
            key=context.key,
        )
        count = context.state["batches"]
        pooled = batch_norm_stats.pool_statistics(
            context.state["stats"], statistics, count
        )
        context.set_state({"stats": pooled, "batches": count + 1})
        context.set_stats(pooled)
        return jnp.float32(0.0)
