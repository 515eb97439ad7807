"""Functions transformed by haiku: pairs of `init` and `apply`."""

from typing import Any

import jax

from jaxtl.core.errors import UserError
from jaxtl.models.wrapping import adapter
from jaxtl.models.wrapping.adapter import Leaves, Pass, Path, Result


class HaikuAdapter:
    """The result of `hk.transform` or `hk.transform_with_state`.

    Its leaves have haiku's own names split at slashes: "mlp/~/linear_0" and "w".
    """

    def __init__(
        self, pair: Any, variables: Any = None, train_argument: str | None = None
    ):
        self._pair = pair
        self._stateful = type(pair).__name__ == "TransformedWithState"
        self._variables = variables
        self.has_weights = variables is not None
        self._argument = train_argument

    def init(self, key: jax.Array, x: Any) -> tuple[Leaves, Leaves]:
        variables = self._variables
        if variables is None:
            # Haiku's moving averages are created in training mode alone.
            variables = self._pair.init(key, x, **self._mode(True))
        params, state = variables if self._stateful else (variables, {})
        return _flat(params), _flat(state)

    def run(self, params: Leaves, state: Leaves, x: Any, mode: Pass) -> Result:
        import haiku as hk

        outputs: dict[Path, Any] = {}

        def intercept(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            module = context.module
            path = tuple(module.module_name.split("/"))
            values = adapter.evaluation_values(module, path, mode)
            call_of_class = type(module).__call__
            args, kwargs = adapter.with_mode(call_of_class, args, kwargs, values)
            out = call(*args, **kwargs)
            if path not in mode.watched:
                return out
            outputs[path] = adapter.first_array(out)
            return adapter.with_first(out, mode.replaced.get(path, outputs[path]))

        states = (_grouped(state),) if self._stateful else ()
        with hk.intercept_methods(intercept):
            result = self._pair.apply(
                _grouped(params), *states, mode.key, x, **self._mode(mode.is_training)
            )
        out, after = result if self._stateful else (result, {})
        return Result(out, outputs, {**state, **_flat(after)})

    def _mode(self, is_training: bool) -> dict[str, bool]:
        if self._argument is None:
            return {}
        if self._argument not in adapter.MODE_NAMES:
            raise UserError(
                f"train_argument={self._argument!r}: expected one of "
                f"{', '.join(adapter.MODE_NAMES)}."
            )
        return {self._argument: adapter.MODE_NAMES[self._argument] is is_training}


def _flat(tree: Any) -> Leaves:
    return {
        (*module.split("/"), name): leaf
        for module, leaves in tree.items()
        for name, leaf in leaves.items()
    }


def _grouped(leaves: Leaves) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for (*module, name), leaf in leaves.items():
        tree.setdefault("/".join(module), {})[name] = leaf
    return tree
