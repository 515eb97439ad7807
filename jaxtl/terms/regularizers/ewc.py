"""EWC and MAS: stay near the starting point where the source depends on it."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import fisher as equations
from jaxtl.terms.regularizers import importance_file, per_leaf

FISHER = ("fisher", "empirical")
MAS_KINDS = ("mas",)


def ewc(params: jax.Array, source: jax.Array, importance: jax.Array) -> jax.Array:
    """½ Σ F (θ − θ₀)² over the elements of one leaf.

    Args:
      params: θ of one leaf, of any shape.
      source: θ₀, the same shape.
      importance: F ≥ 0, the same shape; of ones it is `l2sp`.

    Returns:
      A scalar.

    References:
      Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS
      114 (2017), eq. 3: Σ λ/2 · F (θ − θ₀)², which is this with weight λ.
      Aljundi et al., Memory Aware Synapses, ECCV 2018, eq. 4: λ Σ Ω (θ − θ₀)², which
      is this with weight 2λ.
    """
    return 0.5 * jnp.sum(importance * jnp.square(params - source))


def normalized(importance: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the importance divided by its mean over all elements of all leaves.

    Raises:
      UserError: if every element is 0.
    """
    whole = sum(float(np.sum(x, dtype=np.float64)) for x in importance.values())
    mean = whole / sum(x.size for x in importance.values())
    if mean == 0:
        raise UserError("every importance is 0, which can't be normalized to mean 1.")
    return {path: x / np.asarray(mean, x.dtype) for path, x in importance.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EWC(Term):
    """`ewc` with the diagonal Fisher information of the source.

    `jaxtl importance RUN` makes the file (`--kind empirical` for that of the data's own
    labels). Counts the selected trainable parameters that have a source. With the
    paper's λ: weight = λ.

    Attributes:
      importance: a run's directory, or a file that `jaxtl importance` wrote; None
        computes it before training, from the target's train inputs at θ₀ (Fisher:
        with one label drawn per example from the source's own predictions).
      normalize: whether importance is divided by its mean over what counts, so that
        weights compare with those of L2-SP.
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it covers; the first match counts, and
        1 where there is none.
    """

    importance: str | None = None
    normalize: bool = False
    select: str = ".*"
    strengths: Mapping[str, float] = traced({})

    @property
    def streams(self):
        return ()

    def check(self, setup: Setup):
        _check(self, setup, FISHER)

    def describe(self, setup: Setup):
        return _describe(self, setup, FISHER)

    def constants(self, setup: Setup):
        return _given(self, setup, FISHER)

    def __call__(self, context):
        return _value(self, context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAS(Term):
    """`ewc` with the importance of memory-aware synapses.

    `jaxtl importance RUN --kind mas` makes the file; it needs no labels. Counts the
    selected trainable parameters that have a source. With the paper's λ: weight = 2λ.

    Attributes:
      importance: a run's directory, or a file that `jaxtl importance` wrote; None
        computes it before training, from the target's train inputs at θ₀ (Fisher:
        with one label drawn per example from the source's own predictions).
      normalize: whether importance is divided by its mean over what counts, so that
        weights compare with those of L2-SP.
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it covers; the first match counts, and
        1 where there is none.
    """

    importance: str | None = None
    normalize: bool = False
    select: str = ".*"
    strengths: Mapping[str, float] = traced({})

    @property
    def streams(self):
        return ()

    def check(self, setup: Setup):
        _check(self, setup, MAS_KINDS)

    def describe(self, setup: Setup):
        return _describe(self, setup, MAS_KINDS)

    def constants(self, setup: Setup):
        return _given(self, setup, MAS_KINDS)

    def __call__(self, context):
        return _value(self, context)


def _check(term, setup, kinds):
    per_leaf.check(setup, term.select, term.strengths)
    if term.importance is None:
        if setup.program.source_network is None:
            raise UserError(
                f"{checks.where(setup, 'importance')}=None computes the importance at "
                "θ₀, whose own head is not there; name a file of `jaxtl importance`."
            )
        return
    importance_file.check(setup, term.importance, kinds)


def _describe(term, setup, kinds) -> str:
    if term.importance is None:
        return f"{kinds[0]} importance of the target's train examples at θ₀"
    found = importance_file.load(setup, term.importance, kinds)
    return (
        f"{found.kind} importance of {found.examples:,} examples of the {found.split} "
        f"split, from {importance_file.locate(term.importance, kinds[0])}"
    )


def _given(term, setup, kinds) -> dict[str, jax.Array]:
    """Returns path -> importance of the leaves that count."""
    name = f"{checks.where(setup, 'importance')}={term.importance!r}"
    if term.importance is None:
        arrays = _computed(setup, kinds[0])
    else:
        arrays = importance_file.load(setup, term.importance, kinds).arrays
    found = {}
    for path, (theta, _) in per_leaf.pairs(setup, term.select).items():
        shape = getattr(arrays.get(path), "shape", None)
        if shape != theta.shape:
            raise UserError(
                f"{name}: the importance of {path!r} has the shape {shape}, its "
                f"parameter {theta.shape}; the file is damaged, make it anew with "
                f"`jaxtl importance … --kind {kinds[0]}`."
            )
        found[path] = np.asarray(arrays[path])
    if term.normalize:
        try:
            found = normalized(found)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return {path: jnp.asarray(x) for path, x in found.items()}


def _computed(setup: Setup, kind: str) -> dict[str, np.ndarray]:
    """Returns path -> importance at θ₀, by the target's train inputs."""
    head, network = setup.program.network.stages[-1], setup.program.source_network
    params = trees.fill(setup.source.params, setup.params)
    params = setup.program.base_params(params)
    if setup.source.head is not None:
        params = {**params, head: setup.source.head}
    stats = trees.fill(setup.source.stats, setup.stats)

    def equation(params, stats, x, y, key, chunk):
        def f(params, x):
            return network.apply(params, stats, x).logits

        settings = {"task": setup.program.task, "chunk": chunk}
        if kind == "mas":
            return equations.mas(f, params, x, **settings)
        # One label drawn per example: as many backward passes as examples.
        return equations.diagonal_fisher(f, params, x, key=key, exact=1, **settings)

    # A key of its own, the same for every seed: importance is a fact of the source.
    batches, key = setup.batches("target"), jax.random.key(0)
    return equations.mean(equation, params, stats, batches, key)


def _value(term, context) -> jax.Array:
    values = per_leaf.measure(
        context,
        term.select,
        lambda path, theta, start: ewc(theta, start, context.constants[path]),
    )
    return per_leaf.total(values, term.strengths)
