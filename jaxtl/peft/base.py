"""What a reparametrization is: trained numbers δ and a merge θ = g(θ_base, δ).

Terms see the merged parameters alone, so every regularizer holds for every method; the
base stays as it is, and the optimizer gets δ.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, PyTree, Tokens
from jaxtl.models import staged as models

# A transformer's layers by their stages' names.
LAYER = r"layer_\d+"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reparametrization:
    """Parameters as a function of a frozen base and a few trained numbers.

    Every float field is traced: no method branches on one in Python.

    Attributes:
      select: pattern of the leaves (or stages) that are adapted.
      start: folder in the layout of Hugging Face PEFT to begin from; None begins where
        the merged model computes what the base does (or near it).
    """

    select: str = ".*"
    start: str | None = None

    @property
    def deployable(self) -> bool:
        """Whether merged parameters are those of the plain network, leaf for leaf."""
        return True

    def check(self, network: Network, params: PyTree) -> None:
        """Raises UserError where this method can't work on this model."""
        self.targets(params)

    def targets(self, params: PyTree) -> dict[str, Any]:
        """Returns {path: leaf} of the matrices that are adapted.

        Of the leaves that `select` covers these are the kernels and the embedding
        tables; vectors (biases, scales of norms) are left as they are.

        Raises:
          UserError: `select` covers nothing, or no such leaf.
        """
        mask = trees.flatten(selections.mask(self.select, params, what="peft.select"))
        covered = {p: x for p, x in trees.flatten(params).items() if mask[p]}
        found = {p: x for p, x in covered.items() if self.fits(p, x)}
        if not found:
            shown = ", ".join(list(covered)[:8])
            raise UserError(
                f"peft.select={self.select!r}: {type(self).__name__} adapts kernels"
                f"{self.besides()}, and what it covers holds none: {shown}."
            )
        return found

    def fits(self, path: str, leaf: Any) -> bool:
        """Returns whether a leaf is of a kind that this method adapts."""
        return path.endswith("/kernel") and len(leaf.shape) in (2, 4)

    def besides(self) -> str:
        """Returns what else than kernels this method adapts, for a message."""
        return ""

    def adapted_mask(self, params: PyTree) -> PyTree:
        """Returns a tree of bools: the base's leaves that `merge` changes."""
        found = self.targets(params)
        return trees.map_with_path(lambda path, _: path in found, params)

    def init(
        self, key: jax.Array, params: PyTree, features: Mapping[str, Any] | None = None
    ) -> PyTree:
        """Returns δ: nested dicts along the paths of what is adapted.

        Args:
          key: for random values.
          params: the base.
          features: stage -> shape of its output (`core.Setup.features`), which widths
            of adapters after convolutions are read from.
        """
        found = self.targets(params)
        keys = jax.random.split(key, len(found))
        fresh = {p: self.fresh(k, x) for k, (p, x) in zip(keys, found.items())}
        return trees.nested(fresh)

    def fresh(self, key: jax.Array, leaf: Any) -> dict[str, jax.Array]:
        """Returns one adapted leaf's part of δ."""
        raise TypeError(f"{type(self).__name__} defines no fresh(key, leaf)")

    def constants(self, params: PyTree) -> PyTree:
        """Returns arrays that `merge` needs and nobody trains ({} for none)."""
        return {}

    def merge(self, base: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        """Returns the parameters that `network(…)` reads; other leaves stay the same.

        Pure, and differentiable in base and δ.
        """

        def leaf(path, weight):
            own = subtree(delta, path)
            return weight if own is None else self.merged(weight, own, constants)

        return trees.map_with_path(leaf, base)

    def merged(self, weight: jax.Array, own: PyTree, constants: PyTree) -> jax.Array:
        """Returns one adapted leaf, of the base leaf's shape and dtype."""
        raise TypeError(f"{type(self).__name__} defines no merged(weight, own, …)")

    def network(self, network: Network) -> Network:
        """Returns the network that reads merged parameters."""
        return network


# --- trees ----------------------------------------------------------------------------


def subtree(tree: PyTree, path: str) -> PyTree:
    """Returns what stands at a path of nested dicts, None where nothing does."""
    for name in path.split("/"):
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def add_leaves(tree: PyTree, extra: PyTree) -> PyTree:
    """Returns nested dicts with the leaves of both; the first's stay the same."""
    if not isinstance(extra, Mapping):
        return extra
    below = {name: add_leaves(tree.get(name, {}), x) for name, x in extra.items()}
    return {**tree, **below}


def matrix_shape(leaf: Any) -> tuple[int, int]:
    """Returns (inputs, outputs) of a leaf as a matrix: its last axis is the outputs."""
    return math.prod(leaf.shape[:-1]), leaf.shape[-1]


def delta_dtype(dtype: Any) -> Any:
    """Returns the dtype of δ beside a leaf: single precision at least."""
    return jnp.promote_types(dtype, jnp.float32)


def stage_width(stage: str, params: PyTree, features: Mapping[str, Any] | None) -> int:
    """Returns the last axis of a stage's output.

    Read from `features` where they are given; else from what a transformer's norms and
    tables, or kernels that are all of one width, say.

    Raises:
      UserError: the parameters alone don't tell.
    """
    if features is not None and stage in features:
        feature = features[stage]
        return (feature.states if isinstance(feature, Tokens) else feature).shape[-1]
    leaves = trees.flatten(params.get(stage, {}))
    for kind in (r"(.*/)?(\w+_)?norm/scale", r".*/embedding|position", r".*/kernel"):
        found = {x.shape[-1] for p, x in leaves.items() if re.fullmatch(kind, p)}
        if len(found) == 1:
            return found.pop()
    raise UserError(
        f"peft.select: the width of the output of stage {stage!r} can't be told from "
        "its parameters; give init the stages' features."
    )


# --- networks ---------------------------------------------------------------------


@functools.cache
def with_changed_features(network: Network, changes: Callable) -> Network:
    """Returns a network whose stages' outputs are changed before the next reads them.

    Args:
      network: any with `start` and `stop`.
      changes: `params -> {stage: feature -> feature}`; a function of a module, so that
        equal calls give equal networks.

    Returns:
      A network of the same stages; a stage's feature is the changed one, so that a run
      from any stage goes on where one that stopped before it ended.
    """

    def apply(
        params, stats, x, *, train=(), frozen_stats=(), key=None, start=None, stop=None
    ) -> Output:
        change, features = changes(params), {}
        names = models.span(network.stages, start, stop)
        for name in names:
            if name not in change and name != names[-1]:
                continue
            out = network.apply(
                params,
                stats,
                x,
                train=train,
                frozen_stats=frozen_stats,
                key=key,
                start=start,
                stop=name,
            )
            stats, x = out.stats, change.get(name, lambda x: x)(out.logits)
            features.update({**out.features, name: x})
            start = _next_stage(network.stages, name)
        return Output(x, features, stats)

    return Network(network.stages, network.init, apply, can_start=network.can_start)


def _next_stage(stages: tuple[str, ...], name: str) -> str | None:
    """Returns the stage after this one, None after the last."""
    index = stages.index(name) + 1
    return stages[index] if index < len(stages) else None
