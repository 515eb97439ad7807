"""What a balancer is: from losses and gradients of tasks to a weight for each."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.terms.base import Setup

GRADIENTS = "the gradients of tasks"  # what most balancers compare


class TaskValues(NamedTuple):
    """What a balancer reads of a step, T tasks.

    Attributes:
      losses: (T,) mean loss of each task in the batch; no gradient flows through them.
      tasks: their names.
      labelled: (T,) bool, whether the batch has a label of the task.
      gram: (T, T) inner products of the tasks' gradients; None for a balancer that
        reads none. A task without a label in the batch counts as orthogonal to all
        others, with their mean squared norm.
      params, state: of the balancer.
      step: number of the step, from 0.
      key: PRNG key of the step.
    """

    losses: jax.Array
    tasks: tuple[str, ...]
    labelled: jax.Array
    gram: jax.Array | None
    params: PyTree
    state: PyTree
    step: jax.Array
    key: jax.Array


class Balance(NamedTuple):
    """What a balancer decides.

    Attributes:
      weights: (T,) factor of each task's loss, or of its gradient.
      state: of the balancer after the step.
      penalty: a scalar that trains the balancer's own parameters.
    """

    weights: jax.Array
    state: PyTree
    penalty: jax.Array | float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balancer:
    """Chooses the weights of several tasks at each step.

    Attributes:
      reads_gradients: whether it reads the gradients of the tasks (`TaskValues.gram`).
      compares: what of the examples of a batch it reads together, "" for nothing; as
        `Term.compares`.
      weighs_heads: whether the weights are factors of the losses, and so of the
        gradients of every parameter; else of the shared stages' alone, and each head
        has the gradient of its own loss.
    """

    reads_gradients: ClassVar[bool] = False
    compares: ClassVar[str] = ""
    weighs_heads: ClassVar[bool] = True

    def check(self, setup: Setup, tasks: tuple[str, ...]) -> None:
        """Raises UserError where the balancer does not fit the tasks.

        Args:
          setup: as `Term.check` sees it.
          tasks: their names, in the order of the losses.
        """

    def init(self, tasks: tuple[str, ...]) -> PyTree:
        """Initializes the balancer's trainable parameters.

        Args:
          tasks: their names, in the order of the losses.

        Returns:
          A tree of arrays, read as `TaskValues.params`; {} for none.
        """
        return {}

    def init_state(self, tasks: tuple[str, ...]) -> PyTree:
        """Initializes the balancer's state, which no gradient trains.

        Args:
          tasks: their names, in the order of the losses.

        Returns:
          A tree of arrays, read as `TaskValues.state`; {} for none.
        """
        return {}

    def balance(self, values: TaskValues) -> Balance:
        """Computes the weights of a step; a subclass defines it.

        Args:
          values: losses of the T tasks, and the inner products of their gradients if
            the balancer reads them.

        Returns:
          (T,) weights, the new state, and what trains its own parameters.
        """
        raise TypeError(f"{type(self).__name__} defines no balance(values)")


def cosines(gram: jax.Array) -> jax.Array:
    """Cosine of the angle between the gradients of each two tasks, (T, T).

    0 for a gradient of norm 0.

    Args:
      gram: (T, T) their inner products.

    Returns:
      Numbers in [−1, 1] up to rounding.
    """
    norms = jnp.sqrt(jnp.clip(jnp.diagonal(gram), 0))
    scale = norms[:, None] * norms[None, :]
    return jnp.where(scale > 0, gram / jnp.where(scale > 0, scale, 1), 0.0)


def with_absent_tasks(gram: jax.Array, labelled: jax.Array) -> jax.Array:
    """The inner products where tasks without a label in the batch count as orthogonal.

    Their gradients are 0, which would make every common descent direction 0; they take
    the mean squared norm of the others.

    Args:
      gram: (T, T).
      labelled: (T,) bool.

    Returns:
      (T, T); products with an absent task are 0.
    """
    both = labelled[:, None] & labelled[None, :]
    gram = jnp.where(both, gram, 0.0)
    mean = jnp.trace(gram) / jnp.maximum(labelled.sum(), 1)
    return gram + jnp.diag(jnp.where(labelled, 0.0, mean))
