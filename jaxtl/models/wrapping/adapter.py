"""What a library's modules look like to jaxtl: leaves by path, and one forward pass."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Path = tuple[str, ...]
Leaves = dict[Path, Any]

# Names by which modules of all libraries take their mode -> the value in training mode.
MODE_NAMES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
    "use_running_average": False,
}


class Pass(NamedTuple):
    """The settings of one forward pass.

    Attributes:
      is_training: whether any stage is in training mode.
      trains: path of a sub-module -> whether it is in training mode.
      keeps_statistics: path of a sub-module -> whether it keeps its statistics although
        it trains.
      key: of dropout and other randomness, None for a pass without.
      watched: paths of the sub-modules whose outputs are reported.
      replaced: path of a watched sub-module -> what its caller gets in place of its
        output (of its first element, if that is a tuple).
    """

    is_training: bool
    trains: Callable[[Path], bool]
    keeps_statistics: Callable[[Path], bool]
    key: jax.Array | None
    watched: frozenset[Path]
    replaced: Mapping[Path, Any]


class Result(NamedTuple):
    """The result of one forward pass.

    Attributes:
      out: the module's output.
      outputs: path -> output, of the watched sub-modules that ran.
      state: the non-learned state after the pass.
    """

    out: Any
    outputs: dict[Path, Any]
    state: Leaves


class ModuleAdapter(Protocol):
    """A module as pure functions of its leaves.

    Attributes:
      has_weights: whether the module came with weights of its own.
    """

    has_weights: bool

    def init(self, key: jax.Array, x: Any) -> tuple[Leaves, Leaves]:
        """Initial parameters and state; weights that the module came with, if any."""

    def run(self, params: Leaves, state: Leaves, x: Any, mode: Pass) -> Result:
        """One forward pass; leaves of paths that the module lacks are not read."""


def mode_argument(call: Callable[..., Any]) -> str | None:
    """The parameter of a call that sets the module's mode, None for none."""
    names = _parameters(call)
    return next((name for name in MODE_NAMES if name in names), None)


def has_parameter(call: Callable[..., Any], name: str) -> bool:
    """Whether a function names this parameter."""
    return name in _parameters(call)


def _parameters(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        # A class of nnx or equinox takes (*args, **kwargs): its metaclass does.
        function = call.__init__ if isinstance(call, type) else call
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def inputs_of(call: Callable[..., Any], x: Any) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword arguments of a call for these inputs.

    A dict of inputs whose names are all parameters of the call is passed by name.
    """
    if isinstance(x, Mapping) and set(x) <= set(_parameters(call)):
        return (), dict(x)
    return (x,), {}


def mode_values(module: Any, path: Path, mode: Pass) -> dict[str, bool]:
    """Mode name -> its value for a sub-module in this pass."""
    trains, keeps = mode.trains(path), mode.keeps_statistics(path)
    is_norm = "Norm" in type(module).__name__
    values = {}
    for name, in_training in MODE_NAMES.items():
        reads_batch = is_norm or name == "use_running_average"
        is_on = trains and not (keeps and reads_batch)
        values[name] = in_training if is_on else not in_training
    return values


def attribute_values(module: Any, path: Path, mode: Pass) -> dict[str, bool]:
    """The mode attributes that a module has, with their values in this pass.

    An attribute that is None waits for a value, as that of nnx's attention.
    """
    own = vars(module)
    values = mode_values(module, path, mode).items()
    return {
        name: value
        for name, value in values
        if name in own and (own[name] is None or isinstance(own[name], bool))
    }


def evaluation_values(module: Any, path: Path, mode: Pass) -> dict[str, bool]:
    """Those mode values of a sub-module that are not those of training."""
    values = mode_values(module, path, mode)
    return {n: value for n, value in values.items() if value is not MODE_NAMES[n]}


def with_mode(
    call: Callable[..., Any], args: tuple, kwargs: dict, values: Mapping[str, bool]
) -> tuple[tuple, dict]:
    """The arguments of a method's call with the mode among them at these values."""
    if not values:
        return args, kwargs
    names = [*_parameters(call)][1:]

    def value_of(name: str, value: Any) -> Any:
        return values[name] if isinstance(value, bool) and name in values else value

    positional = [value_of(name, value) for name, value in zip(names, args)]
    keywords = {name: value_of(name, value) for name, value in kwargs.items()}
    return (*positional, *args[len(names) :]), keywords


def first_array(out: Any) -> Any:
    """The first element of an output that is a tuple, such as (output, state)."""
    return out[0] if isinstance(out, tuple | list) else out


def with_first(out: Any, first: Any) -> Any:
    """An output with another first element, if it is a tuple; else that element."""
    if not isinstance(out, tuple | list):
        return first
    if hasattr(out, "_fields"):
        return type(out)(first, *out[1:])
    return type(out)([first, *out[1:]])
