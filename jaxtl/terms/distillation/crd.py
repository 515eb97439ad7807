"""CRD: the model's feature of an example tells the teacher's from those of others."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.models.layers.sequences import unit_length
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.distillation.feature_pairs import StagePairTerm, width
from jaxtl.terms.distillation.fitnets import affine, affine_init
from jaxtl.terms.regularizers.feature_maps import mean_over_positions

_EPSILON = 1e-7  # beside K/n in the denominators, as in the authors' program
_SIDES = ("model", "teacher")


def embed(params: PyTree, values: jax.Array) -> jax.Array:
    """An affine map whose rows are divided by their norm, (batch, width).

    Args:
      params: of `affine_init`.
      values: (batch, inputs).

    Returns:
      Rows of Euclidean norm 1.
    """
    return unit_length(affine(params, values))


def similarities(
    anchors: jax.Array, memory: jax.Array, rows: jax.Array, temperature: ArrayLike
) -> jax.Array:
    """exp(⟨a, m⟩ / T) of each anchor a and its rows m of a memory.

    Args:
      anchors: (batch, width), of norm 1.
      memory: (examples, width), of norm 1.
      rows: (batch, 1 + K), the anchor's own example first.
      temperature: T.

    Returns:
      (batch, 1 + K).
    """
    products = jnp.take_along_axis(anchors @ memory.T, rows, axis=1)
    return jnp.exp(products / temperature)


def contrastive_loss(scores: jax.Array, examples: int) -> jax.Array:
    """−log h(positive) − Σ_K log(1 − h(negative)), mean over the batch.

    h(s) = s / (s + K/n), the probability that a pair is of one example.

    Args:
      scores: s, `similarities` divided by their constant, (batch, 1 + K).
      examples: n.

    Returns:
      A scalar.

    References:
      Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020,
      eq. 18 and 19; ε from the authors' program.
    """
    noise = (scores.shape[1] - 1) / examples
    positive = scores[:, 0] / (scores[:, 0] + noise + _EPSILON)
    negative = noise / (scores[:, 1:] + noise + _EPSILON)
    return -jnp.mean(jnp.log(positive) + jnp.sum(jnp.log(negative), axis=1))


def moved(
    memory: jax.Array, rows: jax.Array, new: jax.Array, momentum: ArrayLike
) -> jax.Array:
    """The memory with m·old + (1 − m)·new, of norm 1, at some rows.

    Args:
      memory: (examples, width), rows of norm 1.
      rows: (batch,) places in the memory.
      new: (batch, width) embeddings of these examples.
      momentum: m in [0, 1].

    Returns:
      The memory, the other rows unchanged.
    """
    mean = memory[rows] * momentum + new * (1.0 - momentum)
    return memory.at[rows].set(unit_length(mean))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRD(StagePairTerm):
    """`contrastive_loss` of the model's features and the teacher's, in both directions.

    Features are averaged over positions and embedded by an affine map each, which are
    parameters of the term. Negatives come from two memories, which are its state: the
    last embeddings of every train example by the model and by the teacher, not only
    those of the batch. The constants of the scores are those of the first batch. The
    memories take 2 · examples · width numbers, a step batch · examples of them.

    Attributes:
      width: of the embeddings.
      negatives: K for each example, drawn from all train examples.
      temperature: T.
      momentum: m of the memories.
      stages: as in `StagePairTerm`, one pair.

    References:
      As `contrastive_loss`, with K = 16384, T = 0.07, m = 0.5 and weight 0.8.
    """

    compares: ClassVar[str] = "examples with the memory of those before"

    width: int = 128
    negatives: int = 16384
    temperature: float = traced(0.07)
    momentum: float = traced(0.5)

    def check(self, setup: Setup) -> None:
        checks.count(setup, "width", self.width)
        checks.count(setup, "negatives", self.negatives)
        checks.positive(setup, "temperature", self.temperature)
        checks.number(setup, "momentum", self.momentum, 0.0, 1.0)
        super().check(setup)
        if self.stages is not None and len(self.stages) > 1:
            raise UserError(
                f"{checks.where(setup, 'stages')}: CRD compares one pair of stages, "
                f"got {len(self.stages)}; take a term for each."
            )

    def _pair(self, setup: Setup) -> tuple[Any, Any]:
        """Shapes of the model's and the teacher's feature."""
        [shapes] = self.pair_shapes(setup).values()
        return shapes

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        keys = jax.random.split(key)
        return {
            side: affine_init(k, width(shape), self.width)
            for side, k, shape in zip(_SIDES, keys, self._pair(setup))
        }

    def init_state(self, setup: Setup) -> PyTree:
        shape = (setup.examples[self.stream], self.width)
        # A key that no term's parameters use.
        keys = jax.random.split(jax.random.key(30_000))
        memories = [unit_length(jax.random.normal(key, shape)) for key in keys]
        return {**dict(zip(_SIDES, memories)), "scales": jnp.zeros(2)}

    def constants(self, setup: Setup) -> PyTree:
        rows = jnp.asarray(setup.train_rows[self.stream])
        return {**super().constants(setup), "rows": rows}

    def pair_value(
        self, context: View, stage: str, student: Any, teacher: Any
    ) -> jax.Array:
        del stage
        vectors = map(mean_over_positions, (student, teacher))
        anchors = [
            embed(context.term_params[side], x) for side, x in zip(_SIDES, vectors)
        ]
        own, state = context.batches[self.stream]["row"], context.state
        rows = context.constants["rows"]
        draw = jax.random.randint(
            context.key, (len(own), self.negatives), 0, len(rows), jnp.int32
        )
        index = jnp.concatenate([own[:, None], rows[draw]], axis=1)
        value, scales, new = jnp.float32(0.0), [], {}
        for i, (side, other) in enumerate(zip(_SIDES, reversed(_SIDES))):
            scores = similarities(anchors[i], state[other], index, self.temperature)
            scale = jnp.where(
                state["scales"][i] > 0, state["scales"][i], scores.mean() * len(rows)
            )
            scale = jax.lax.stop_gradient(scale)
            value += contrastive_loss(scores / scale, len(rows))
            scales.append(scale)
            new[side] = moved(state[side], own, anchors[i], self.momentum)
        context.set_state({**new, "scales": jnp.stack(scales)})
        return value
