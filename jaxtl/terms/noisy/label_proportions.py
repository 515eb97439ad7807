"""Label proportions: only the class frequencies of groups ("bags") are known."""

import dataclasses
import pathlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import numpy_files
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.noisy.base import log_probabilities
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean


def bag_divergence(
    means: jax.Array,
    proportions: jax.Array,
    present: jax.Array,
    mean: WeightedMean = weighted_mean,
) -> jax.Array:
    """KL(proportions ‖ mean prediction) of each bag, mean over the bags that count.

    Args:
      means: (B, K), the mean prediction over each bag.
      proportions: (B, K); rows sum to 1.
      present: (B,), 1 for the bags that count, 0 for all others.
      mean: over the bags; `View.mean` where a batch is cut.

    Returns:
      A scalar ≥ 0 in nats, 0 where every bag's mean is its proportions. With a bag per
      example it is the cross-entropy.

    References:
      Ardehaly & Culotta, Co-training for Demographic Classification Using Deep Learning
      from Label Proportions, ICDM workshops 2017, eq. 2. The program of Tsai & Lin
      (ACML 2020) has the cross-entropy, which is larger by the proportions' entropy.
    """
    # The mean of an absent bag is 0, whose logarithm would make the gradient NaN.
    means = jnp.where(present[:, None] > 0, jnp.maximum(means, 1e-12), 1.0)
    entropy = jnp.sum(jax.scipy.special.xlogy(proportions, proportions), axis=-1)
    divergence = entropy - jnp.sum(proportions * jnp.log(means), axis=-1)
    return mean(divergence, present)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelProportions(Term):
    """`bag_divergence` over the bags that the batch's examples are from.

    Class labels are read once, before training, to count each bag's classes; no step
    reads them. Where only proportions are known, y holds those of the example's bag,
    (n, K), and the task is "regression"; the model is trained with a softmax all the
    same. Since batches draw single examples, a batch seldom holds a whole bag: its
    other examples enter with their last prediction, through which no gradient flows.
    The state holds K numbers per example; examples that were never in a batch do not
    count.

    Attributes:
      stream: name of the stream.
      size: number of consecutive rows of the data set that form a bag.
      bags: in place of `size`, a .npy file of integers, the bag of each row of the data
        set.

    References:
      Ardehaly & Culotta, ICDM workshops 2017; Tsai & Lin, Learning from Label
      Proportions with Consistency Regularization, ACML 2020, eq. 3.
    """

    compares: ClassVar[str] = "the examples of a bag"

    stream: str = stream_field("target")
    size: int = 8
    bags: str | None = None

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.task(setup, "LabelProportions", "classification", "regression")
        checks.classes(setup, "stream", self.stream)
        checks.number(setup, "size", self.size, 1)
        if self.bags is not None:
            self._bag_indices(setup)

    def _bag_indices(self, setup: Setup) -> np.ndarray:
        """The bag of each row of the data set, (n,), numbered from 0."""
        count = setup.examples[self.stream]
        if self.bags is None:
            return np.arange(count) // self.size
        name, path = checks.where(setup, "bags"), pathlib.Path(self.bags)
        if not path.is_file():
            raise UserError(f"{name}={self.bags!r}: there is no such file.")
        bags = numpy_files.read_npy(path)
        if bags.shape != (count,) or not np.issubdtype(bags.dtype, np.integer):
            raise UserError(
                f"{name}={self.bags!r}: expected an integer for each of the {count} "
                f"rows of the data set; got {bags.dtype} {bags.shape}."
            )
        return np.unique(bags, return_inverse=True)[1]

    def constants(self, setup: Setup) -> PyTree:
        bags, outputs = self._bag_indices(setup), setup.program.outputs
        sums = np.zeros((bags.max() + 1, outputs))
        for batch in setup.batches(self.stream):
            y = np.asarray(batch["y"])
            shares = np.eye(outputs)[y] if y.dtype.kind in "iu" else y
            if shares.shape[1:] != sums.shape[1:] or (shares < 0).any():
                raise UserError(
                    f"{checks.where(setup, 'stream')}={self.stream!r}: proportions are "
                    f"(n, {outputs}) numbers of at least 0; got {y.shape}, from "
                    f"{y.min():.3g}."
                )
            np.add.at(sums, bags[np.asarray(batch["row"])], shares)
        total = np.maximum(sums.sum(1, keepdims=True), 1e-12)
        proportions = jnp.asarray(sums / total, jnp.float32)
        return {"bags": jnp.asarray(bags, jnp.int32), "proportions": proportions}

    def init_state(self, setup: Setup) -> PyTree:
        count = setup.examples[self.stream]
        p = jnp.zeros((count, setup.program.outputs))
        return {"p": p, "seen": jnp.zeros(count)}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        rows, state = context.batches[self.stream]["row"], context.state
        bags, proportions = context.constants["bags"], context.constants["proportions"]
        p = state["p"].at[rows].set(jnp.exp(log_probabilities(logits)))
        was_seen = state["seen"].at[rows].set(1.0)
        context.set_state({"p": p, "seen": was_seen})
        number = len(proportions)
        counts = jax.ops.segment_sum(was_seen, bags, number)
        sums = jax.ops.segment_sum(p * was_seen[:, None], bags, number)
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        present = jnp.zeros(number).at[bags[rows]].set(1.0)
        value = bag_divergence(means, proportions, present, context.mean)
        remembered = jnp.mean(counts[bags[rows]])
        return value, {"bags": present.sum(), "remembered": remembered}
