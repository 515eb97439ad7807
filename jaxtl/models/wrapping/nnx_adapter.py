"""Modules of flax nnx."""

import contextvars
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from jaxtl.models.wrapping import adapter
from jaxtl.models.wrapping.adapter import Leaves, Pass, Path, Result

# Output of a watched sub-module -> what its caller gets, in the pass that runs.
_VISIT: contextvars.ContextVar[Callable[[Any, Any], Any]] = contextvars.ContextVar(
    "visit"
)


class NnxAdapter:
    """An nnx module with its weights, or a function of `rngs` that builds one.

    `nnx.Param` are its parameters; every other variable but the random state (batch
    statistics, caches) is its state. The random state is drawn anew from the key of
    each pass.
    """

    def __init__(self, source: Any):
        self.has_weights = isinstance(source, nnx.Module)
        self._source = source
        module = source
        if not self.has_weights:
            module = nnx.eval_shape(lambda: source(nnx.Rngs(0)))
        self._graph, state = nnx.split(module)
        self._variables = {_named(p): (p, v) for p, v in nnx.to_flat_state(state)}
        self._call = type(module).__call__
        self._argument = adapter.mode_argument(self._call)

    def init(self, key: jax.Array, x: Any) -> tuple[Leaves, Leaves]:
        module = self._source if self.has_weights else self._source(nnx.Rngs(key))
        values = {
            _named(path): variable.get_value()
            for path, variable in nnx.to_flat_state(nnx.state(module))
        }
        params = {p: x for p, x in values.items() if self._is_param(p)}
        return params, {p: x for p, x in values.items() if self._is_state(p)}

    def run(self, params: Leaves, state: Leaves, x: Any, mode: Pass) -> Result:
        module = self._merged({**params, **state}, mode.key)
        sub_modules = {_named(p): sub for p, sub in nnx.iter_modules(module)}
        for path, sub in sub_modules.items():
            for name, value in adapter.attribute_values(sub, path, mode).items():
                setattr(sub, name, value)
        watched = {p: m for p, m in sub_modules.items() if p in mode.watched}
        args, kwargs = self._arguments(x, mode)
        out, outputs = _watched_call(module, args, kwargs, watched, mode.replaced)
        after = dict(nnx.to_flat_state(nnx.state(module)))
        new_state = {
            _named(p): variable.get_value()
            for p, variable in after.items()
            if self._is_state(_named(p))
        }
        return Result(out, outputs, new_state)

    def _arguments(self, x: Any, mode: Pass) -> tuple[tuple, dict[str, Any]]:
        args, kwargs = adapter.inputs_of(self._call, x)
        if self._argument is not None:
            value = adapter.MODE_NAMES[self._argument] is mode.is_training
            kwargs[self._argument] = value
        if adapter.has_parameter(self._call, "rngs"):
            key = jax.random.key(0) if mode.key is None else mode.key
            kwargs["rngs"] = nnx.Rngs(key)
        return args, kwargs

    def _is_param(self, path: Path) -> bool:
        return isinstance(self._variables[path][1], nnx.Param)

    def _is_state(self, path: Path) -> bool:
        if path not in self._variables:
            return False
        return not isinstance(self._variables[path][1], nnx.Param | nnx.RngState)

    def _merged(self, leaves: Leaves, key: jax.Array | None) -> Any:
        """The module with these leaves, its random state drawn from the key."""
        flat = []
        for index, (path, (own_path, variable)) in enumerate(self._variables.items()):
            if isinstance(variable, nnx.RngKey):
                base = jax.random.key(0) if key is None else key
                value = jax.random.fold_in(base, index)
                shape = variable.get_value().shape
                value = jax.random.split(value, shape) if shape else value
            elif isinstance(variable, nnx.RngState):
                count = variable.get_value()
                value = jax.numpy.zeros(count.shape, count.dtype)
            else:
                value = leaves[path]
            flat.append((own_path, variable.replace(value)))
        return nnx.merge(self._graph, nnx.from_flat_state(flat))


def _named(path: tuple[Any, ...]) -> Path:
    return tuple(map(str, path))


def _watched_call(
    module: Any,
    args: tuple,
    kwargs: dict[str, Any],
    watched: Mapping[Path, Any],
    replaced: Mapping[Path, Any],
) -> tuple[Any, dict[Path, Any]]:
    """(A module's output, the outputs of its watched sub-modules by path)."""
    outputs: dict[Path, Any] = {}
    path_of = {id(sub): path for path, sub in watched.items()}
    classes = {path: type(sub) for path, sub in watched.items()}

    def visit(sub: Any, out: Any) -> Any:
        path = path_of[id(sub)]
        outputs[path] = adapter.first_array(out)
        return adapter.with_first(out, replaced.get(path, outputs[path]))

    token = _VISIT.set(visit)
    try:
        for sub in watched.values():
            object.__setattr__(sub, "__class__", _visited(type(sub)))
        return module(*args, **kwargs), outputs
    finally:
        for path, sub in watched.items():
            object.__setattr__(sub, "__class__", classes[path])
        _VISIT.reset(token)


@functools.cache
def _visited(cls: type) -> type:
    """A subclass whose calls go through the visit of the pass that runs."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _VISIT.get()(self, cls.__call__(self, *args, **kwargs))

    return type(cls)(cls.__name__, (cls,), {"__call__": call})
