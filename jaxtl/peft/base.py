"""Reparametrizations: trained numbers δ and a merge θ = g(θ_base, δ).

Terms read the merged parameters alone, so every regularizer works with every method;
the base is never changed, and the optimizer gets δ.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.serialization import later_field
from jaxtl.core.types import Network, Output, PyTree, Tokens
from jaxtl.models.staged import stage_range
from jaxtl.peft import adapted_leaves

# The stages that are layers of a transformer.
LAYER = r"layer_\d+"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reparametrization:
    """Parameters as a function of a frozen base and a few trained numbers.

    Attributes:
      select: pattern of the leaves (or stages) that are adapted.
      start: folder in the layout of Hugging Face PEFT whose δ is the initial one; None
        for a δ with which the merged model computes (nearly) the same as the base.
      base: how the base's frozen matrices are held: "float" as they are, "int8" or
        "nf4" (Dettmers et al., QLoRA, NeurIPS 2023). Quantized ones are made float one
        stage at a time, in both passes, and each stage is recomputed in the backward
        pass. Tables of embeddings and positions, norms, biases, the head and whatever
        is trained stay float; θ₀ of a quantized matrix is what it stands for.
        Checkpoints and exports hold the merged weights as float.
      double_quantization: hold the scales of nf4's blocks in 8 bits as well.
    """

    select: str = ".*"
    start: str | None = None
    base: Literal["float", "int8", "nf4"] = later_field("float")
    double_quantization: bool = later_field(False)

    @property
    def deployable(self) -> bool:
        """Whether merged parameters have exactly the leaves of the plain network."""
        return True

    def check(self, network: Network, params: PyTree) -> None:
        """Raises UserError where this method can't work on this model.

        Args:
          network: the plain network, before `network` changes it.
          params: its parameters, the base.
        """
        self.targets(params)

    def targets(self, params: PyTree) -> dict[str, Any]:
        """Lists the matrices that are adapted.

        Of the leaves that `select` covers these are all of two or more dimensions,
        whatever their names; vectors (biases, scales of norms), also ones with further
        axes of length 1, are not adapted, and neither are tables of positions.

        Args:
          params: the base.

        Returns:
          {path: leaf}, in the tree's order.

        Raises:
          UserError: `select` covers nothing, or no such leaf.
        """
        mask = trees.flatten(selections.mask(self.select, params, what="peft.select"))
        covered = {p: x for p, x in trees.flatten(params).items() if mask[p]}
        targets = {p: x for p, x in covered.items() if self.is_adaptable(p, x)}
        if not targets:
            examples = ", ".join(list(covered)[:8])
            raise UserError(
                f"peft.select={self.select!r}: {type(self).__name__} adapts "
                f"{self.adaptable_kinds()}, and none of the selected leaves is one: "
                f"{examples}."
            )
        return targets

    def is_adaptable(self, path: str, leaf: Any) -> bool:
        """Whether a leaf is of a kind that this method adapts.

        Args:
          path: of the leaf, "layer_0/attention/query/kernel".
          leaf: an array, or its shape and dtype.

        Returns:
          Here True for the weights of a layer (matrices, kernels of convolutions),
          False for vectors and for tables of embeddings and positions.
        """
        return adapted_leaves.is_matrix(path, leaf) and not path.endswith("/embedding")

    def adaptable_kinds(self) -> str:
        """The kinds of leaves that this method adapts, for messages."""
        return "kernels"

    def adapted_mask(self, params: PyTree) -> PyTree:
        """Marks the leaves of the base that `merge` changes.

        Args:
          params: the base.

        Returns:
          A tree of bools in the structure of `params`.
        """
        targets = self.targets(params)
        return trees.map_with_path(lambda path, _: path in targets, params)

    def init(
        self, key: jax.Array, params: PyTree, features: Mapping[str, Any] | None = None
    ) -> PyTree:
        """Initial δ: nested dicts along the paths of the adapted leaves.

        Args:
          key: PRNG key for random values.
          params: the base.
          features: stage -> shape of its output, for adapters whose width is that of
            a stage's output.

        Returns:
          A tree of which the leaves are trained: path of an adapted leaf -> what
          `init_leaf` gives.
        """
        targets = self.targets(params)
        keys = jax.random.split(key, len(targets))
        return trees.nested(
            {p: self.init_leaf(k, x) for k, (p, x) in zip(keys, targets.items())}
        )

    def init_leaf(self, key: jax.Array, leaf: Any) -> dict[str, jax.Array]:
        """Initializes δ of one adapted leaf; a subclass defines it.

        Args:
          key: PRNG key of this leaf.
          leaf: the base leaf, an array or its shape and dtype.

        Returns:
          {name: array}, at which `merge_leaf` gives the base leaf in most methods.
        """
        raise TypeError(f"{type(self).__name__} defines no init_leaf(key, leaf)")

    def constants(self, params: PyTree) -> PyTree:
        """Computes arrays that `merge` needs and that are not trained.

        Args:
          params: the base.

        Returns:
          A tree of arrays, computed once before training; {} for none.
        """
        return {}

    def merge(self, base: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        """Computes the parameters that `network(…)` reads.

        Pure, and differentiable in base and δ.

        Args:
          base: the plain network's parameters.
          delta: δ, as `init` makes it.
          constants: as `constants` returns them.

        Returns:
          A tree in the structure of `base`; leaves without δ stay the same.
        """

        def merged(path: str, weight: jax.Array) -> jax.Array:
            leaf_delta = adapted_leaves.subtree(delta, path)
            if leaf_delta is None:
                return weight
            return self.merge_leaf(weight, leaf_delta, constants)

        return trees.map_with_path(merged, base)

    def merge_leaf(
        self, weight: jax.Array, delta: PyTree, constants: PyTree
    ) -> jax.Array:
        """Computes one adapted leaf; a subclass defines it.

        Args:
          weight: the base leaf.
          delta: its part of δ.
          constants: as `constants` returns them.

        Returns:
          The leaf that the network reads in place of the base leaf.
        """
        raise TypeError(f"{type(self).__name__} defines no merge_leaf(weight, δ, …)")

    def network(self, network: Network) -> Network:
        """Makes the network that reads merged parameters.

        Args:
          network: the plain network.

        Returns:
          The same network; a method that computes otherwise (adapters, prompts) wraps
          it.
        """
        return network


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedLeaves(Reparametrization):
    """Base class of methods whose δ are leaves beside those of the base."""

    @property
    def deployable(self) -> bool:
        return False

    def adapted_mask(self, params: PyTree) -> PyTree:
        return trees.map_with_path(lambda path, _: False, params)

    def merge(self, base: PyTree, delta: PyTree, constants: PyTree) -> PyTree:
        return adapted_leaves.add_leaves(base, delta)


# --- trees ----------------------------------------------------------------------------


def stage_width(stage: str, params: PyTree, features: Mapping[str, Any] | None) -> int:
    """The last axis of a stage's output.

    Read from `features` if that has the stage; else from a projection of embeddings, a
    transformer's norms and tables, or from kernels that are all of one width.

    Args:
      stage: its name.
      params: stage -> subtree.
      features: stage -> shape of its output, or None.

    Returns:
      The number of channels, or the width of a token's state.

    Raises:
      UserError: the width can't be read from the parameters alone.
    """
    if features is not None and stage in features:
        feature = features[stage]
        return (feature.states if isinstance(feature, Tokens) else feature).shape[-1]
    leaves = trees.flatten(params.get(stage, {}))
    projection, norm = r"project/kernel", r"(.*/)?(\w+_)?norm/scale"
    for kind in (projection, norm, r".*/embedding|position", r".*/kernel"):
        widths = {x.shape[-1] for p, x in leaves.items() if re.fullmatch(kind, p)}
        if len(widths) == 1:
            return widths.pop()
    raise UserError(
        f"peft.select: the width of the output of stage {stage!r} can't be told from "
        "its parameters; give init the stages' features."
    )


# --- networks ---------------------------------------------------------------------


@functools.cache
def with_changed_features(
    network: Network, changes: Callable[[PyTree], Mapping[str, Callable[[Any], Any]]]
) -> Network:
    """A network whose stages' outputs are changed before the next stage reads them.

    Args:
      network: any with `start` and `stop`.
      changes: `params -> {stage: feature -> feature}`; a function of a module, so that
        equal calls give equal networks.

    Returns:
      A network of the same stages. A stage's feature is the changed one, so that a run
      from any stage continues where one that stopped before it ended.
    """

    def apply(
        params, stats, x, *, train=(), frozen_stats=(), key=None, start=None, stop=None
    ) -> Output:
        change_of, features = changes(params), {}
        stages = stage_range(network.stages, start, stop)
        for stage in stages:
            # Stages without a change run together with the next one that has one.
            if stage not in change_of and stage != stages[-1]:
                continue
            out = network.apply(
                params,
                stats,
                x,
                train=train,
                frozen_stats=frozen_stats,
                key=key_from_stage(key, network.stages, start or stages[0], params),
                start=start,
                stop=stage,
            )
            stats, x = out.stats, out.logits
            if stage in change_of:
                x = change_of[stage](x)
            features.update({**out.features, stage: x})
            start = _next_stage(network.stages, stage)
        return Output(x, features, stats)

    rules = network.tensor_rules
    return Network(network.stages, network.init, apply, tensor_rules=rules)


def key_from_stage(
    key: Any, stages: tuple[str, ...], first: str, params: PyTree
) -> Any:
    """The PRNG key of a pass that begins at a stage, where earlier ones have passed.

    Modules derive theirs from it by their paths; a stage that has the parameters of the
    one before it has its path as well, and would drop out the same units.

    Args:
      key: of the pass through all stages, or None.
      stages: of the network.
      first: the stage that the pass begins at.
      params: of the network.

    Returns:
      The key as it is where `first` has parameters, else one folded with its place.
    """
    if key is None or first in params:
        return key
    return jax.random.fold_in(key, stages.index(first))


def _next_stage(stages: tuple[str, ...], stage: str) -> str | None:
    """The stage after this one, None after the last."""
    index = stages.index(stage) + 1
    return stages[index] if index < len(stages) else None
