"""Label proportions: only how many of a bag belong to each class is known."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base


def bag_divergence(means, proportions, there) -> jax.Array:
    """KL(proportions ‖ mean prediction) of each bag, a mean over the bags there.

    Args:
      means: (B, K), the mean prediction over each bag.
      proportions: (B, K); rows sum to 1.
      there: (B,), 1 for the bags that count, 0 for the others.

    Returns:
      A scalar ≥ 0 in nats, 0 where every bag's mean is its proportions. With a bag per
      example it is the cross-entropy.

    References:
      Ardehaly & Culotta, Co-training for Demographic Classification Using Deep Learning
      from Label Proportions, ICDM workshops 2017, eq. 2.
    """
    # The mean of an absent bag is 0, whose logarithm would spoil the gradient.
    means = jnp.where(there[:, None] > 0, jnp.maximum(means, 1e-12), 1.0)
    entropy = jnp.sum(jax.scipy.special.xlogy(proportions, proportions), axis=-1)
    divergence = entropy - jnp.sum(proportions * jnp.log(means), axis=-1)
    return jnp.sum(there * divergence) / jnp.maximum(there.sum(), 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelProportions(Term):
    """`bag_divergence` over the bags that the batch's examples are from.

    Single labels are read once, before training, to count each bag's classes, and never
    by a step. Where data are known by proportions alone, y holds those of the
    example's bag, (n, K), and the task is "regression"; the model is trained with a
    softmax all the same. As batches draw single examples, a bag is rarely whole in one:
    its other examples count by what was last predicted for them, which the term
    remembers (K numbers per example) and no gradient goes through; those never seen
    count for nothing yet.

    Attributes:
      stream: name of the stream.
      size: each `size` rows of the data set that follow each other are a bag.
      bags: instead, a .npy of whole numbers, the bag of each row of the data set.

    References:
      Ardehaly & Culotta, ICDM workshops 2017; Tsai & Lin, Learning from Label
      Proportions with Consistency Regularization, ACML 2020, eq. 3.
    """

    stream: str = "target"
    size: int = 8
    bags: str | None = None

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, "LabelProportions", "classification", "regression")
        checks.number(setup, "size", self.size, 1)
        if self.bags is not None:
            self._bags(setup)

    def _bags(self, setup: Setup) -> np.ndarray:
        """Returns the bag of each row of the data set, numbered from 0."""
        count = setup.examples[self.stream]
        if self.bags is None:
            return np.arange(count) // self.size
        where = f"{checks.where(setup, 'bags')}={self.bags!r}"
        path = pathlib.Path(self.bags)
        if not path.is_file():
            raise UserError(f"{where}: there is no such file.")
        found = np.load(path, allow_pickle=False)
        if found.shape != (count,) or not np.issubdtype(found.dtype, np.integer):
            raise UserError(
                f"{where}: expected a whole number for each of the {count} rows of the "
                f"data set; got {found.dtype} {found.shape}."
            )
        return np.unique(found, return_inverse=True)[1]

    def constants(self, setup: Setup):
        bags = self._bags(setup)
        sums = np.zeros((bags.max() + 1, setup.program.outputs))
        for batch in setup.batches(self.stream):
            y = np.asarray(batch["y"])
            share = np.eye(setup.program.outputs)[y] if y.dtype.kind in "iu" else y
            if share.shape[1:] != sums.shape[1:] or (share < 0).any():
                raise UserError(
                    f"{checks.where(setup, 'stream')}={self.stream!r}: proportions are "
                    f"(n, {setup.program.outputs}) numbers of at least 0; got "
                    f"{y.shape}, from "
                    f"{y.min():.3g}."
                )
            np.add.at(sums, bags[np.asarray(batch["row"])], share)
        total = np.maximum(sums.sum(1, keepdims=True), 1e-12)
        proportions = jnp.asarray(sums / total, jnp.float32)
        return {"bags": jnp.asarray(bags, jnp.int32), "proportions": proportions}

    def init_state(self, setup: Setup):
        count = setup.examples[self.stream]
        return {
            "p": jnp.zeros((count, setup.program.outputs)),
            "seen": jnp.zeros(count),
        }

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        row, state = context.batches[self.stream]["row"], context.state
        bags, proportions = context.constants["bags"], context.constants["proportions"]
        now = jnp.exp(base.log_probabilities(logits))
        p, seen = state["p"].at[row].set(now), state["seen"].at[row].set(1.0)
        context.set_state({"p": p, "seen": seen})
        count = len(proportions)
        mass = jax.ops.segment_sum(seen, bags, count)
        sums = jax.ops.segment_sum(p * seen[:, None], bags, count)
        means = sums / jnp.maximum(mass, 1.0)[:, None]
        there = jnp.zeros(count).at[bags[row]].set(1.0)
        value = bag_divergence(means, proportions, there)
        return value, {"bags": there.sum(), "remembered": jnp.mean(mass[bags[row]])}
