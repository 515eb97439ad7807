"""Modules of flax linen."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxtl.models.wrapping import adapter
from jaxtl.models.wrapping.adapter import Leaves, Pass, Path, Result

_NOT_STATE = ("params", "intermediates", "perturbations")


class LinenAdapter:
    """A linen module, with its variables if it has some.

    `batch_stats` and every other collection are its state; a leaf of another collection
    than `batch_stats` has the collection's name before its own, "cache:index".
    """

    def __init__(self, module: nn.Module, variables: Mapping[str, Any] | None = None):
        self.module = module
        self.variables = variables
        self.has_weights = variables is not None
        self._argument = adapter.mode_argument(type(module).__call__)
        fields = getattr(type(module), "__dataclass_fields__", {})
        self._field = next((n for n in adapter.MODE_NAMES if n in fields), None)

    def init(self, key: jax.Array, x: Any) -> tuple[Leaves, Leaves]:
        variables = self.variables
        if variables is None:
            module, args, kwargs = self._call(x, is_training=False)
            variables = module.init({"params": key, "dropout": key}, *args, **kwargs)
        variables = nn.meta.unbox(dict(variables))
        params = _flat(variables.get("params", {}))
        state = {
            (*path[:-1], _stored_name(name, path[-1])): leaf
            for name, tree in variables.items()
            if name not in _NOT_STATE
            for path, leaf in _flat(tree).items()
        }
        return params, state

    def run(self, params: Leaves, state: Leaves, x: Any, mode: Pass) -> Result:
        module, args, kwargs = self._call(x, mode.is_training)
        variables: dict[str, Any] = {"params": _nested(params)}
        collections: dict[str, Leaves] = {}
        for path, leaf in state.items():
            name, leaf_name = _collection_of(path[-1])
            collections.setdefault(name, {})[(*path[:-1], leaf_name)] = leaf
        variables |= {name: _nested(leaves) for name, leaves in collections.items()}
        rngs = None
        if mode.key is not None:
            params_key, dropout_key = jax.random.split(mode.key)
            # Streams of other names than dropout fall back on that of the parameters.
            rngs = {"params": params_key, "dropout": dropout_key}
        replaced: dict[Path, Any] = {}
        with nn.intercept_methods(_interceptor(mode, replaced)):
            out, updates = module.apply(
                variables,
                *args,
                **kwargs,
                rngs=rngs,
                mutable=[*collections, "intermediates"],
                capture_intermediates=lambda sub, name: (
                    name == "__call__" and tuple(sub.path) in mode.watched
                ),
            )
        calls = _flat(updates.pop("intermediates", {}))
        outputs = {
            path[:-1]: adapter.first_array(values[-1])
            for path, values in calls.items()
            if path[-1] == "__call__"
        }
        after = {
            (*path[:-1], _stored_name(name, path[-1])): leaf
            for name, tree in updates.items()
            for path, leaf in _flat(nn.meta.unbox(tree)).items()
        }
        return Result(out, {**outputs, **replaced}, {**state, **after})

    def _call(self, x: Any, is_training: bool) -> tuple[nn.Module, tuple, dict]:
        """The module and the arguments of its call, in the mode that it takes."""
        args, kwargs = adapter.inputs_of(type(self.module).__call__, x)
        module = self.module
        if self._argument is not None:
            kwargs[self._argument] = adapter.MODE_NAMES[self._argument] is is_training
        elif self._field is not None:
            value = adapter.MODE_NAMES[self._field] is is_training
            module = module.clone(**{self._field: value})
        return module, args, kwargs


def _flat(tree: Mapping[str, Any], path: Path = ()) -> Leaves:
    leaves: Leaves = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, (*path, name))
        else:
            leaves[(*path, name)] = value
    return leaves


def _nested(leaves: Leaves) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (*parents, name), leaf in leaves.items():
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _stored_name(collection: str, leaf: str) -> str:
    return leaf if collection == "batch_stats" else f"{collection}:{leaf}"


def _collection_of(name: str) -> tuple[str, str]:
    collection, separator, leaf = name.partition(":")
    return (collection, leaf) if separator else ("batch_stats", name)


def _interceptor(mode: Pass, originals: dict[Path, Any]) -> Any:
    """Sets every sub-module's mode by its stage, and replaces outputs.

    Args:
      mode: the pass.
      originals: gets the outputs that were replaced, by path.
    """

    def intercept(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = tuple(module.path)
        values = adapter.evaluation_values(module, path, mode)
        args, kwargs = adapter.with_mode(type(module).__call__, args, kwargs, values)
        with _forced(module, values):
            out = call(*args, **kwargs)
        if path not in mode.replaced:
            return out
        originals[path] = adapter.first_array(out)
        return adapter.with_first(out, mode.replaced[path])

    return intercept


@contextlib.contextmanager
def _forced(module: nn.Module, values: dict[str, bool]) -> Iterator[None]:
    """The module's own mode fields at these values, for one call."""
    before = {
        name: getattr(module, name)
        for name in values
        if isinstance(getattr(module, name, None), bool)
    }
    # A bound linen module is frozen; its fields are those of this one call.
    for name in before:
        object.__setattr__(module, name, values[name])
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
