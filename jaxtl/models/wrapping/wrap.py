"""`wrap`: modules of one's own, of any library, as networks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxtl.core.errors import UserError, short_repr
from jaxtl.core.tensor_rules import TensorRules
from jaxtl.core.types import Network
from jaxtl.models.wrapping import adapter
from jaxtl.models.wrapping.linen_adapter import LinenAdapter
from jaxtl.models.wrapping.module_network import network_of
from jaxtl.models.wrapping.plain_functions import network_of_functions
from jaxtl.models.wrapping.stage_layout import Stages, parse_stages


@dataclasses.dataclass(frozen=True, eq=False)
class WrappedModule(Network):
    """The network of a module of one's own; a stored run makes it again from these.

    Attributes:
      module, stage_paths, variables, train_argument: as `wrap` takes them.
    """

    module: Any
    stage_paths: Stages | None = None
    variables: Any = None
    train_argument: str | None = None
    stages: tuple[str, ...] = dataclasses.field(init=False)
    init: Callable = dataclasses.field(init=False)
    apply: Callable = dataclasses.field(init=False)
    reduce: Callable | None = dataclasses.field(init=False)
    taps: Callable | None = dataclasses.field(init=False)
    can_start: bool = dataclasses.field(init=False)
    no_start: str = dataclasses.field(init=False)
    specialize: Callable | None = dataclasses.field(init=False)
    weights: Callable | None = dataclasses.field(init=False)
    tensor_rules: TensorRules | None = dataclasses.field(init=False)

    def __post_init__(self):
        network = _network(
            self.module, self.stage_paths, self.variables, self.train_argument
        )
        for field in dataclasses.fields(Network):
            object.__setattr__(self, field.name, getattr(network, field.name))

    def __repr__(self) -> str:
        return f"wrap({short_repr(self.module)}, {self.stage_paths!r})"


def wrap(
    module: Any,
    stages: Stages | None = None,
    *,
    variables: Any = None,
    train_argument: str | None = None,
) -> Network:
    """Makes a network of a module of one's own: linen, nnx, equinox, haiku, functions.

    Batch statistics, dropout and other state and randomness are carried: a stage that
    trains has its sub-modules in training mode, any other stage in evaluation mode.
    The mode is set where the module takes it, as an argument of its call or an
    attribute (`train`, `training`, `is_training`, `deterministic`, `inference`,
    `use_running_average`).

    Args:
      module: one of
        - a linen module;
        - an nnx module, or a function of `rngs` that builds one (its class, say);
        - an equinox module of one example, a pair (module, state) as
          `eqx.nn.make_with_state` returns it, or a function of `key` that builds one;
        - the result of `hk.transform` or `hk.transform_with_state`;
        - a pair of pure functions (init, apply), see `network_of_functions`.
        A built module brings its weights, which are then the initial ones; a stored run
        of it is loaded with exp=, while a class or a function is stored by its name.
      stages: paths of sub-modules in the order in which they run, the head last
        ("stem", "blocks/0", "blocks/1", "fc"), or {stage: path or paths}. Together they
        hold every array of the module. A stage's feature is the output of its last
        sub-module that runs. One stage "head" if left out. Of a pair of functions the
        top-level keys of the parameters.
      variables: of a linen module the variables that it starts with, of a haiku
        function the parameters or (parameters, state); initialized by seed if left out.
      train_argument: the argument by which a haiku function takes its mode.

    Returns:
      A network with features by stage. It takes `start` and `stop` where each stage
      reads the output of the one before alone, which the first example shows.

    Raises:
      UserError: nothing that can be wrapped, stages that are no list of paths.
    """
    return WrappedModule(module, stages, variables, train_argument)


def foreign(
    init: Callable[..., Any],
    apply: Callable[..., Any],
    stages: tuple[str, ...] | None = None,
) -> Network:
    """The network of a pair of pure functions: `wrap((init, apply), stages)`.

    Args:
      init: `(key, x) -> params`, or `-> (params, state)`, see `network_of_functions`.
      apply: the function of parameters and inputs, see `network_of_functions`.
      stages: top-level keys of the parameters in order, the head last; None for one
        stage "head".

    Returns:
      The network, with features by stage where `apply` returns them.
    """
    return wrap((init, apply), stages)


def _network(
    module: Any, stages: Stages | None, variables: Any, train_argument: str | None
) -> Network:
    if isinstance(module, Network):
        raise UserError("wrap: this is a tl.Network already; use it as it is.")
    if _is_pair(module):
        if isinstance(stages, Mapping):
            raise UserError(
                "stages: a pair of functions takes the top-level keys of its "
                "parameters in order, such as stages=('body', 'head')."
            )
        return network_of_functions(*module, None if stages is None else tuple(stages))
    return network_of(_adapter(module, variables, train_argument), parse_stages(stages))


def _is_pair(value: Any) -> bool:
    return type(value) in (tuple, list) and len(value) == 2 and all(map(_is_fn, value))


def _is_fn(value: Any) -> bool:
    return callable(value) and not _library(value)


def _library(value: Any) -> str:
    """The library that an instance's class comes from, "" for no known one."""
    bases = {f"{c.__module__}.{c.__name__}" for c in type(value).__mro__}
    if isinstance(value, nn.Module):
        return "linen"
    if "flax.nnx.module.Module" in bases:
        return "nnx"
    if "equinox._module._module.Module" in bases or any(
        b.startswith("equinox.") and b.endswith(".Module") for b in bases
    ):
        return "equinox"
    if type(value).__name__ in ("Transformed", "TransformedWithState"):
        return "haiku"
    return ""


def _adapter(module: Any, variables: Any, train_argument: str | None) -> Any:
    model, state = module, None
    if isinstance(module, tuple) and len(module) == 2 and not _library(module):
        model, state = module
    library = _library(model)
    if variables is not None and library not in ("linen", "haiku"):
        raise UserError("variables: only linen modules and haiku functions take them.")
    if library == "linen":
        return LinenAdapter(model, variables)
    if library == "haiku":
        from jaxtl.models.wrapping.haiku_adapter import HaikuAdapter

        return HaikuAdapter(model, variables, train_argument)
    if library == "nnx" or _takes(model, "rngs"):
        from jaxtl.models.wrapping.nnx_adapter import NnxAdapter

        return NnxAdapter(model)
    if library == "equinox" or _takes(model, "key"):
        from jaxtl.models.wrapping.equinox_adapter import EquinoxAdapter

        return EquinoxAdapter(model, state)
    raise UserError(
        f"wrap: {short_repr(module)} is no module of flax linen, flax nnx or equinox, "
        "no function of `rngs` or `key` that builds one, no result of hk.transform and "
        "no pair (init, apply)."
    )


def _takes(build: Callable[..., Any], name: str) -> bool:
    return callable(build) and adapter.has_parameter(build, name)
