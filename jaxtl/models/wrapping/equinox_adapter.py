"""Modules of equinox."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.models.wrapping import adapter
from jaxtl.models.wrapping.adapter import Leaves, Pass, Path, Result


class EquinoxAdapter:
    """An equinox module for one example, mapped over the batch.

    Its floating arrays are the parameters, the arrays of its `eqx.nn.State` the state.
    Matrices of equinox's own layers have their outputs first; here their outputs are
    last, as in every other tree of jaxtl.
    """

    def __init__(self, source: Any, state: Any = None):
        self.has_weights = isinstance(source, eqx.Module)
        self._source = (source, state)
        model, state = self._source
        if not self.has_weights:
            model, state = eqx.filter_eval_shape(
                lambda: _built(source, jax.random.key(0))
            )
        self._model, self._state = model, state
        self._call = type(model).__call__
        self._argument = adapter.mode_argument(self._call)
        self._outputs_first = frozenset(_outputs_first(model))
        self._params = {path for path, leaf in _arrays(model) if _is_inexact(leaf)}

    def init(self, key: jax.Array, x: Any) -> tuple[Leaves, Leaves]:
        model, state = self._source
        if not self.has_weights:
            model, state = _built(model, key)
        leaves = dict(_arrays(model))
        params = {p: self._outputs_last(p, leaves.pop(p)) for p in self._params}
        return params, {**leaves, **_state_leaves(model, state)}

    def run(self, params: Leaves, state: Leaves, x: Any, mode: Pass) -> Result:
        model = self._with_modes(self._with_leaves({**state, **params}), mode)
        stored = _with_state(model, self._state, state)
        size = jax.tree.leaves(x)[0].shape[0]
        if mode.key is None:  # nothing is drawn; the size may be symbolic
            keys = jnp.broadcast_to(jax.random.key(0), (size,))
        else:
            keys = jax.random.split(mode.key, size)

        def one(x: Any, key: jax.Array, replaced: dict, stored: Any) -> tuple:
            outputs: dict[Path, Any] = {}
            watching = _watching(model, mode.watched, replaced, outputs)
            args, kwargs = self._arguments(x, key, mode)
            if stored is None:
                return watching(*args, **kwargs), outputs, None
            out, stored = watching(*args, stored, **kwargs)
            return out, outputs, stored

        # Layers that need the batch, as BatchNorm does, know the axis as "batch".
        out, outputs, stored = jax.vmap(
            one, in_axes=(0, 0, 0, None), out_axes=(0, 0, None), axis_name="batch"
        )(x, keys, dict(mode.replaced), stored)
        buffers = {p: x for p, x in _arrays(model) if p not in self._params}
        return Result(out, outputs, {**buffers, **_state_leaves(model, stored)})

    def _arguments(
        self, x: Any, key: jax.Array, mode: Pass
    ) -> tuple[tuple, dict[str, Any]]:
        args, kwargs = adapter.inputs_of(self._call, x)
        if adapter.has_parameter(self._call, "key"):
            kwargs["key"] = key
        if self._argument is not None:
            value = adapter.MODE_NAMES[self._argument] is mode.is_training
            kwargs[self._argument] = value
        return args, kwargs

    def _outputs_last(self, path: Path, leaf: Any) -> Any:
        return jnp.moveaxis(leaf, 0, -1) if path in self._outputs_first else leaf

    def _with_leaves(self, leaves: Leaves) -> Any:
        """The module with these arrays."""

        def leaf(path: Any, value: Any) -> Any:
            name = _named(path)
            if not _is_array(value):
                return value
            new = leaves[name]
            return jnp.moveaxis(new, -1, 0) if name in self._outputs_first else new

        return jax.tree_util.tree_map_with_path(leaf, self._model)

    def _with_modes(self, model: Any, mode: Pass) -> Any:
        """The module with every sub-module's mode set by its stage."""
        for path, sub in _modules(model):
            for name, value in adapter.attribute_values(sub, path, mode).items():
                # Every node is one that `_with_leaves` has just built.
                object.__setattr__(sub, name, value)
        return model


class _Watched(eqx.Module):
    """A sub-module whose output is reported, and replaced where that is asked for."""

    inner: Any
    path: Path = eqx.field(static=True)
    replaced: dict
    outputs: dict = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self.inner(*args, **kwargs)
        self.outputs[self.path] = adapter.first_array(out)
        new = self.replaced.get(self.path, self.outputs[self.path])
        return adapter.with_first(out, new)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _watching(
    model: Any, watched: frozenset[Path], replaced: dict, outputs: dict[Path, Any]
) -> Any:
    """The module with the watched sub-modules reporting to `outputs`."""
    # Inner ones first: what contains them is then copied with them.
    for path, _ in sorted(_modules(model), key=lambda entry: -len(entry[0])):
        if path in watched and path:
            sub = _at(model, path)
            new = _Watched(sub, path, replaced, outputs)
            model = eqx.tree_at(lambda tree, path=path: _at(tree, path), model, new)
    return model


def _at(tree: Any, path: Path) -> Any:
    for name in path:
        if isinstance(tree, Mapping):
            tree = tree[name]
        elif isinstance(tree, tuple | list):
            tree = tree[int(name)]
        else:
            tree = getattr(tree, name)
    return tree


def _modules(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, module) of a module and of all within it."""
    if isinstance(tree, eqx.Module):
        yield path, tree
        children = {
            field.name: getattr(tree, field.name, None)
            for field in dataclasses.fields(tree)
        }
    elif isinstance(tree, Mapping):
        children = {str(name): value for name, value in tree.items()}
    elif isinstance(tree, tuple | list):
        children = {str(i): value for i, value in enumerate(tree)}
    else:
        return
    for name, value in children.items():
        yield from _modules(value, (*path, name))


def _built(build: Callable[..., Any], key: jax.Array) -> tuple[Any, Any]:
    """(module, its state or None) of a function of `key`."""
    model = build(key=key)
    return model if isinstance(model, tuple) else (model, None)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_inexact(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _named(path: Any) -> Path:
    return tuple(trees.path_str((key,)) for key in path)


def _arrays(tree: Any) -> list[tuple[Path, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(_named(path), leaf) for path, leaf in leaves if _is_array(leaf)]


def _outputs_first(model: Any) -> Iterator[Path]:
    """The matrices of equinox's own layers whose first axis counts the outputs."""
    for path, module in _modules(model):
        is_layer = type(module).__module__.startswith("equinox.nn")
        if not is_layer or isinstance(module, eqx.nn.Embedding):
            continue
        for field in dataclasses.fields(module):
            value = getattr(module, field.name, None)
            if field.name.startswith("weight") and len(getattr(value, "shape", ())) > 1:
                yield (*path, field.name)


def _state_leaves(model: Any, state: Any) -> Leaves:
    """The arrays of a module's state, each below the index that the module has."""
    leaves: Leaves = {}
    for path, index in _indices(model):
        for inner, leaf in _arrays(state.get(index)):
            leaves[(*path, *inner)] = leaf
    return leaves


def _with_state(model: Any, state: Any, leaves: Leaves) -> Any:
    """A module's state with these arrays; None for a module without state."""
    # `set` spends the state that it is called on: this one is a copy.
    state = jax.tree.map(lambda leaf: leaf, state)
    for path, index in _indices(model):
        value = jax.tree_util.tree_map_with_path(
            lambda inner, _, path=path: leaves[(*path, *_named(inner))],
            state.get(index),
        )
        state = state.set(index, value)
    return state


def _indices(model: Any) -> list[tuple[Path, Any]]:
    return [
        (path, sub)
        for path, sub in _modules(model)
        if isinstance(sub, eqx.nn.StateIndex)
    ]
