"""Equal and fixed weights: the baselines, which tuned are hard to beat."""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError, nearest
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.multitask.balancer import Balance, Balancer, TaskValues


@dataclasses.dataclass(frozen=True, kw_only=True)
class EqualWeights(Balancer):
    """Weight 1 for every task: the loss is the sum of the tasks' losses."""

    def balance(self, values: TaskValues) -> Balance:
        return Balance(jnp.ones_like(values.losses), values.state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedWeights(Balancer):
    """The same weights in every step, to be tuned on validation.

    Attributes:
      weights: task -> its weight, at least 0, for all tasks.

    References:
      Kurin et al., In Defense of the Unitary Scalarization for Deep Multi-Task
      Learning, NeurIPS 2022 (arXiv:2201.04122).
    """

    weights: Mapping[str, float] = traced({})

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        where = checks.where(setup, "balancer.weights")
        for name, weight in self.weights.items():
            if name not in tasks:
                raise UserError(
                    f"{where}[{name!r}]: there is no such task{nearest(name, tasks)} "
                    f"(tasks: {', '.join(tasks)})."
                )
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(
                    f"{where}[{name!r}]={weight!r}: expected a number of at least 0."
                )
        if missing := [task for task in tasks if task not in self.weights]:
            raise UserError(
                f"{where}: there is no weight for the task {missing[0]!r} (tasks: "
                f"{', '.join(tasks)})."
            )

    def balance(self, values: TaskValues) -> Balance:
        weights = [self.weights[task] for task in values.tasks]
        return Balance(jnp.stack(weights).astype(values.losses.dtype), values.state)
