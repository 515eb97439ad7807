"""EWC and MAS: squared distances to the starting point, weighted by importance."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data.dataset import QUESTION_ANSWERING
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import (
    fisher,
    importance_file,
    per_leaf,
    source_network,
)


def ewc(params: jax.Array, source: jax.Array, importance: jax.Array) -> jax.Array:
    """½ Σ F (θ − θ₀)² over the elements of one leaf.

    Args:
      params: θ of one leaf, of any shape.
      source: θ₀, the same shape.
      importance: F ≥ 0, the same shape; with ones it is `l2sp`.

    Returns:
      A scalar.

    References:
      Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS
      114 (2017), eq. 3: Σ λ/2 · F (θ − θ₀)², which is this with weight λ.
      Aljundi et al., Memory Aware Synapses, ECCV 2018, eq. 4: λ Σ Ω (θ − θ₀)², which
      is this with weight 2λ.
    """
    return 0.5 * jnp.sum(importance * jnp.square(params - source))


def _normalize(importance: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Divides the importance by its mean over all elements of all leaves.

    Raises:
      UserError: if every element is 0.
    """
    total = sum(float(np.sum(x, dtype=np.float64)) for x in importance.values())
    mean = total / sum(x.size for x in importance.values())
    if mean == 0:
        raise UserError("every importance is 0, which can't be normalized to mean 1.")
    return {path: x / np.asarray(mean, x.dtype) for path, x in importance.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ImportanceTerm(per_leaf.ParameterTerm):
    """Base class of EWC and MAS, which differ in the kinds of importance they read."""

    importance: str | None = None
    normalize: bool = False
    select: str = ".*"
    strengths: Mapping[str, float] = traced({})

    kinds: ClassVar[tuple[str, ...]] = ()

    def check(self, setup: Setup) -> None:
        if self.importance is None:
            checks.outputs_of_examples(
                setup,
                f"{type(self).__name__}(importance=None)",
                allowed=(QUESTION_ANSWERING,),
            )
        per_leaf.check(setup, self.select, self.strengths)
        if self.importance is not None:
            importance_file.check(setup, self.importance, self.kinds)
        elif setup.program.source_network is None:
            raise UserError(
                f"{checks.where(setup, 'importance')}=None computes the importance at "
                "θ₀, and this source brings no head of its own; name a file of "
                "`jaxtl importance`."
            )

    def describe(self, setup: Setup) -> str:
        kind = self.kinds[0]
        if self.importance is None:
            return f"{kind} importance of the target's train examples at θ₀"
        stored = importance_file.load(setup, self.importance, self.kinds)
        path = importance_file.locate(self.importance, kind)
        return (
            f"{stored.kind} importance of {stored.examples:,} examples of the "
            f"{stored.split} split, from {path}"
        )

    def constants(self, setup: Setup) -> PyTree:
        name = f"{checks.where(setup, 'importance')}={self.importance!r}"
        if self.importance is None:
            arrays: Mapping[str, Any] = _importance_at_source(setup, self.kinds[0])
        else:
            arrays = importance_file.load(setup, self.importance, self.kinds).arrays
        importance = {}
        for path, (leaf, _) in per_leaf.leaf_pairs(setup, self.select).items():
            shape = getattr(arrays.get(path), "shape", None)
            if shape != leaf.shape:
                raise UserError(
                    f"{name}: the importance of {path!r} has the shape {shape}, its "
                    f"parameter {leaf.shape}; the file is damaged, make it anew with "
                    f"`jaxtl importance … --kind {self.kinds[0]}`."
                )
            importance[path] = np.asarray(arrays[path])
        if self.normalize:
            try:
                importance = _normalize(importance)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        return {path: jnp.asarray(x) for path, x in importance.items()}

    def __call__(self, context: View) -> jax.Array:
        values = per_leaf.leaf_values(
            context,
            self.select,
            lambda path, params, source: ewc(params, source, context.constants[path]),
        )
        return per_leaf.weighted_sum(values, self.strengths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EWC(_ImportanceTerm):
    """`ewc` with the diagonal Fisher information of the source.

    `jaxtl importance RUN` writes the file (with `--kind empirical` that of the data's
    own labels). Counts the selected trainable parameters that have a source. With the
    paper's λ: weight = λ.

    Attributes:
      importance: a run's directory, or a file that `jaxtl importance` wrote; None
        computes it before training, from the target's train inputs at θ₀, with one
        label per example drawn from the source's own predictions.
      normalize: whether importance is divided by its mean over what counts, so that
        weights compare with those of L2-SP.
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it matches; the first match counts, and
        1 where there is none.
    """

    kinds: ClassVar[tuple[str, ...]] = ("fisher", "empirical")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAS(_ImportanceTerm):
    """`ewc` with the importance of memory-aware synapses.

    `jaxtl importance RUN --kind mas` writes the file; it needs no labels. Counts the
    selected trainable parameters that have a source. With the paper's λ: weight = 2λ.

    Attributes:
      importance: a run's directory, or a file that `jaxtl importance` wrote; None
        computes it before training, from the target's train inputs at θ₀.
      normalize, select, strengths: as in `EWC`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("mas",)


def _importance_at_source(setup: Setup, kind: str) -> dict[str, np.ndarray]:
    """Path -> importance at θ₀ for the target's train inputs."""
    network, params, stats = source_network.source_model(setup)

    def equation(
        params: PyTree,
        stats: PyTree,
        x: PyTree,
        y: jax.Array,
        key: jax.Array,
        chunk: int,
    ) -> PyTree:
        def f(params: PyTree, x: PyTree) -> jax.Array:
            return network.apply(params, stats, x).logits

        settings: dict[str, Any] = {"task": setup.program.task, "chunk": chunk}
        if kind == "mas":
            return fisher.mas(f, params, x, **settings)
        # One label drawn per example: as many backward passes as examples.
        return fisher.diagonal_fisher(f, params, x, key=key, exact=1, **settings)

    # The same key for every seed: the importance depends on the source alone.
    batches, key = setup.batches("target"), jax.random.key(0)
    return fisher.mean_over_batches(equation, params, stats, batches, key)
