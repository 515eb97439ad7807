"""A base of few bits: frozen matrices stay quantized, and a stage's at a time are read.

`quantized` replaces the frozen matrices of a base, `packed` puts δ to them, and
`stagewise` is the network that reads both. Nothing else needs to know: to the functions
of `core.tree` a quantized matrix is a leaf as the float one was.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.lazy_leaf import LazyLeaf, has_lazy, is_lazy, realized
from jaxtl.core.types import Network, Output, PyTree
from jaxtl.models.staged import stage_range
from jaxtl.peft import adapted_leaves, base, quantization

FLOAT = "float"
# Leaves that are read row by row, and few: tables, and tokens of images.
_TABLES = ("embedding", "table", "register")


def check(peft: base.Reparametrization) -> None:
    """Raises UserError where the settings of a method's base clash."""
    if peft.double_quantization and peft.base != "nf4":
        raise UserError(
            f"peft.double_quantization=True, but peft.base={peft.base!r} has no scales "
            "of blocks; set peft.base='nf4', or leave double_quantization out."
        )


def quantizable(network: Network, params: PyTree, trained: PyTree) -> dict[str, Any]:
    """The matrices of a base that can be quantized, {path: leaf}.

    These are its frozen leaves of two or more dimensions outside the head; tables of
    embeddings and positions, registers, biases and norms are none.

    Args:
      network: the model.
      params: the base.
      trained: tree of bools: the leaves that are trained at any time.

    Raises:
      UserError: there is none, or one is out of reach.
    """
    head, is_trained = network.stages[-1], trees.flatten(trained)
    frozen = {
        path: leaf
        for path, leaf in trees.flatten(params).items()
        if path.split("/")[0] != head and not is_trained[path]
    }
    matrices = {
        path: leaf
        for path, leaf in frozen.items()
        if adapted_leaves.is_matrix(path, leaf)
        and path.rpartition("/")[2] not in _TABLES
        and jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
    }
    if not matrices:
        raise UserError(
            "peft.base: the model has no frozen matrix outside its head and its "
            "tables, so there is nothing to quantize; leave base out."
        )
    for path in matrices:
        if adapted_leaves.subtree(params, path) is None:
            raise UserError(
                f"peft.base: {path!r} lies in a container that is no dict, so it can't "
                "be quantized; leave base out."
            )
    return matrices


def quantized(
    peft: base.Reparametrization, params: PyTree, matrices: Mapping[str, jax.Array]
) -> PyTree:
    """The base with some of its matrices quantized.

    Args:
      peft: the method, whose `base` says how.
      params: the base.
      matrices: of `quantizable`.

    Raises:
      UserError: a matrix holds NaN or infinity.
    """
    leaves: dict[str, LazyLeaf] = {}
    for path, leaf in matrices.items():
        if not bool(jax.numpy.isfinite(leaf).all()):
            raise UserError(f"peft.base: {path!r} holds NaN or infinity.")
        parts = _quantize(leaf, peft.base, peft.double_quantization)
        shape, dtype = tuple(leaf.shape), jax.numpy.dtype(leaf.dtype)
        compute = _Dequantize(shape, dtype)
        leaves[path] = LazyLeaf(parts, None, compute, shape, dtype)
    return trees.map_with_path(lambda path, leaf: leaves.get(path, leaf), params)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantize(
    weight: jax.Array, kind: str, double_quantization: bool
) -> dict[str, jax.Array]:
    if kind == "int8":
        return quantization.quantize_int8(weight)
    return quantization.quantize_nf4(weight, double_quantization=double_quantization)


@dataclasses.dataclass(frozen=True)
class _Dequantize:
    """`quantization.dequantize` for leaves of one shape and dtype."""

    shape: tuple[int, ...]
    dtype: Any

    def __call__(self, codes: quantization.Quantized, trained: None) -> jax.Array:
        del trained
        return _dequantize(codes, self.shape, self.dtype)


_dequantize = jax.jit(quantization.dequantize, static_argnums=(1, 2))


@dataclasses.dataclass(frozen=True)
class PeftSettings:
    """A method without its traced numbers, that compares by its settings."""

    peft: base.Reparametrization = dataclasses.field(compare=False)
    key: Any

    @classmethod
    def of(cls, peft: base.Reparametrization) -> "PeftSettings":
        """The settings of a method, whose numbers don't matter."""
        peft = config.without_hyperparameters(peft)
        return cls(peft, config.key(peft))


@dataclasses.dataclass(frozen=True)
class _Merge:
    """One leaf of `Reparametrization.merge`."""

    settings: PeftSettings
    path: str
    weight: _Dequantize

    def __call__(
        self, fixed: Mapping[str, PyTree], trained: Mapping[str, PyTree]
    ) -> jax.Array:
        return _merge_one(self, fixed, trained)


@functools.partial(jax.jit, static_argnums=0)
def _merge_one(
    how: _Merge, fixed: Mapping[str, PyTree], trained: Mapping[str, PyTree]
) -> jax.Array:
    peft = config.with_hyperparameters(how.settings.peft, trained["hypers"])
    weight = trees.nested({how.path: how.weight(fixed["codes"], None)})
    merged = peft.merge(weight, trained["delta"], fixed["constants"])
    return adapted_leaves.subtree(merged, how.path)


def packed(
    peft: base.Reparametrization,
    hypers: PyTree,
    params: PyTree,
    delta: PyTree,
    constants: PyTree,
) -> PyTree:
    """`peft.merge`, of which the quantized leaves are computed where they are read.

    Args:
      peft: the method; its traced numbers don't matter.
      hypers: these numbers.
      params: the base, of which some leaves may be quantized.
      delta, constants: as for `merge`.
    """
    settings = PeftSettings.of(peft)
    lazy, rest = trees.partition(
        params, trees.map_with_path(lambda _, leaf: is_lazy(leaf), params)
    )
    method = config.with_hyperparameters(settings.peft, hypers)
    merged = method.merge(rest, delta, constants)
    leaves = {}
    for path, leaf in trees.flatten(lazy).items():
        own = adapted_leaves.subtree(delta, path)
        if own is None:
            leaves[path] = leaf
            continue
        leaves[path] = dataclasses.replace(
            leaf,
            fixed={"codes": leaf.fixed, "constants": constants},
            trained={"delta": trees.nested({path: own}), "hypers": hypers},
            compute=_Merge(settings, path, leaf.compute),
        )
    return adapted_leaves.add_leaves(merged, trees.nested(leaves))


@functools.cache
def stagewise(network: Network) -> Network:
    """A network that computes the quantized leaves of one stage at a time.

    Each stage is recomputed in the backward pass, dequantized weights included, so that
    neither pass holds the float weights of two stages. Networks that can't start at a
    stage compute all of theirs at once. Parameters without quantized leaves pass.
    """

    def run(params, stats, x, key, settings: Mapping[str, Any]) -> Output:
        return network.apply(realized(params), stats, x, key=key, **settings)

    def apply(params, stats, x, *, key=None, start=None, stop=None, **settings):
        bounds = {n: s for n, s in (("start", start), ("stop", stop)) if s is not None}
        if not has_lazy(params):
            return network.apply(params, stats, x, key=key, **bounds, **settings)
        if not network.can_start:
            whole = {**bounds, **settings}
            call = jax.checkpoint(functools.partial(run, settings=whole))
            return call(params, stats, x, key)
        features: dict[str, Any] = {}
        for stage in stage_range(network.stages, start, stop):
            of_stage = {"start": stage, "stop": stage, **settings}
            # Otherwise the weights of all stages might be computed before the first.
            own, x = jax.lax.optimization_barrier((params.get(stage, {}), x))
            params = {**params, stage: own} if stage in params else params
            call = jax.checkpoint(functools.partial(run, settings=of_stage))
            own_key = base.key_from_stage(key, network.stages, stage, params)
            out = call(params, stats, x, own_key)
            stats, x = out.stats, out.logits
            features.update(out.features)
        return Output(x, features, stats)

    def taps(params, stats, x, nudges, **settings) -> tuple[Output, dict]:
        assert network.taps is not None
        return network.taps(realized(params), stats, x, nudges, **settings)

    return dataclasses.replace(
        network, apply=apply, taps=None if network.taps is None else taps
    )


def describe(peft: base.Reparametrization, network: Network, params: PyTree) -> str:
    """One line on a quantized base: how large it is, and what stays float."""
    leaves = trees.flatten(params)
    lazy = {path: leaf for path, leaf in leaves.items() if is_lazy(leaf)}
    before = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
    kind = peft.base + (" with double quantization" if peft.double_quantization else "")
    rest = trees.nbytes([leaf for leaf in leaves.values() if not is_lazy(leaf)])
    noun = "matrices" if len(lazy) > 1 else "matrix"
    line = (
        f"{len(lazy)} frozen {noun} as {kind}: the base takes "
        f"{trees.nbytes(params):,} bytes in place of {before:,}; tables, norms, "
        f"biases, the head and what is trained stay float ({rest:,} bytes)"
    )
    if network.can_start:
        return line
    return (
        f"{line}; all are made float at once, since this model can't start at a stage"
    )
