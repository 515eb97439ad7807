"""What makes a row of linen modules a staged network.

A family subclasses `Staged`, names its stages in `stages` and builds one module per
stage in `setup` with `self.add(name, module)`. Each stage is a `Stage`: a module whose
`__call__(x, mode)` asks `mode` what is in training.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.tree import as_float32
from jaxtl.core.types import Network, Output
from jaxtl.models.layers.fusion_barrier import fusion_barrier
from jaxtl.models.weight_layout import WeightLayout

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "elu": nn.elu,
    "identity": lambda x: x,
}

FLOATS = ("float32", "bfloat16", "float16", "float64")


def activation(name: str) -> Callable:
    """Returns the activation function of that name."""
    if name not in ACTIVATIONS:
        raise UserError(
            f"activation={name!r} is unknown{nearest(name, ACTIVATIONS)} "
            f"(known: {', '.join(ACTIVATIONS)})."
        )
    return ACTIVATIONS[name]


@dataclasses.dataclass(frozen=True)
class Mode:
    """Which stages train, and which modules within them keep their statistics.

    `stochnorm` is that of `Staged`.
    """

    train: tuple[str, ...] = ()
    frozen_stats: tuple[str, ...] = ()
    stochnorm: float = 0.0

    def dropout(self, module: nn.Module) -> bool:
        """Returns whether dropout in this module is on."""
        return module.path[0] in self.train

    def statistics(self, module: nn.Module) -> bool:
        """Returns whether this module uses and updates batch statistics."""
        inside = "/".join(module.path) + "/"
        held = any(inside.startswith(path + "/") for path in self.frozen_stats)
        return module.path[0] in self.train and not held


class Dropout(nn.Module):
    """Dropout that asks the mode whether it is on."""

    rate: float

    @nn.compact
    def __call__(self, x, mode: Mode):
        if self.rate == 0.0:
            return x
        return nn.Dropout(self.rate, deterministic=not mode.dropout(self))(x)


class Staged(nn.Module):
    """A network as an ordered row of named stages; the last is `head`.

    Attributes:
      outputs: width of the head; None lets the data decide when the experiment is
        set up.
      dtype: dtype of the computation ("bfloat16"); None takes that of the parameters.
        Statistics and softmax stay in float32, the last stage returns float32.
      param_dtype: dtype in which parameters are stored and trained.
      remat: recompute each stage in the backward pass instead of keeping its inner
        activations.
      stochnorm: probability with which each channel of each BatchNorm is normalised
        by its moving statistics in place of the batch's, in training mode alone (Kou
        et al., Stochastic Normalization, NeurIPS 2020; there 0.5, and 1 − p). The
        moving ones follow the batch as ever; 0 is plain BatchNorm.
    """

    outputs: int | None = None
    dtype: str | None = None
    param_dtype: str = "float32"
    remat: bool = False
    stochnorm: float = 0.0

    @property
    def stages(self) -> tuple[str, ...]:
        raise TypeError(f"{type(self).__name__} names no stages")

    def layouts(self) -> dict[str, WeightLayout]:
        """Returns the known file layouts of this architecture, the usual one first."""
        return {}

    def reduction(self) -> Callable | None:
        """Returns what the head begins with, without parameters (`Network.reduce`)."""
        return None

    def adapt(self, path: str, x: Any) -> Any:
        """Returns a leaf read from a file as this model wants it (image sizes, say)."""
        return x

    def add(self, name: str, module: nn.Module) -> None:
        """Registers a stage under its own name (linen would prefix dict entries)."""
        setattr(self, name, module)

    def __call__(self, x, mode: Mode = Mode(), start=None, stop=None):
        def run(module, x):
            return module(x, mode)

        run = nn.remat(run) if self.remat else run
        features, given = {}, x
        for name in span(self.stages, start, stop):
            x = fusion_barrier(run(getattr(self, name), x))
            if 0 in getattr(x, "shape", ())[1:]:
                raise UserError(
                    f"inputs of shape {tuple(given.shape)} are too small for "
                    f"{type(self).__name__}: nothing is left of them at {name!r}."
                )
            features[name] = x
        return x, features

    def pure(self) -> Network:
        """Returns the pair of pure functions that the rest of the house sees."""
        return _pure(self)


def span(stages: tuple[str, ...], start: str | None, stop: str | None):
    """Returns the stages from `start` to `stop`, both included."""
    for field, name in (("start", start), ("stop", stop)):
        if name is not None and name not in stages:
            raise UserError(
                f"{field}={name!r} is no stage{nearest(name, stages)} "
                f"(stages: {', '.join(stages)})."
            )
    first = stages.index(start) if start else 0
    last = stages.index(stop) + 1 if stop else len(stages)
    if first >= last:
        raise UserError(f"start={start!r} comes after stop={stop!r} in {stages}.")
    return stages[first:last]


def _floating_dtype(field: str, name: str):
    """Returns the floating dtype of that name."""
    if name not in FLOATS:
        raise UserError(
            f"{field}={name!r} is no floating dtype{nearest(name, FLOATS)} "
            f"(known: {', '.join(FLOATS)})."
        )
    return jnp.dtype(name)


def cast_tree(tree, dtype):
    """Returns the tree with its floating leaves in another dtype."""

    def leaf(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, tree)


@functools.cache
def _pure(module: Staged) -> Network:
    param_dtype = _floating_dtype("param_dtype", module.param_dtype)
    # None leaves the values their dtype: float64 stays float64 in an exact check.
    asked = module.dtype or (None if param_dtype == jnp.float32 else param_dtype.name)
    dtype = asked and _floating_dtype("dtype", asked)
    if not 0.0 <= module.stochnorm <= 1.0:
        raise UserError(f"stochnorm={module.stochnorm}: expected a number in [0, 1].")

    def init(key, x):
        # Every collection is initialised in evaluation mode: no key but the
        # parameters' is needed and statistics start at their initial values.
        variables = dict(module.init(key, x))
        params = cast_tree(variables["params"], param_dtype)
        stats = variables.get("batch_stats", {})
        if module.stochnorm and not stats:
            raise UserError(
                f"stochnorm={module.stochnorm}: {type(module).__name__} has no "
                "BatchNorm here, so it would do nothing; leave it out."
            )
        return params, stats

    def apply(
        params, stats, x, *, train=(), frozen_stats=(), key=None, start=None, stop=None
    ) -> Output:
        # Modules compute in the dtype of what they get, so one cast decides for all.
        if dtype:
            params, x = cast_tree((params, x), dtype)
        variables = {"params": params, "batch_stats": stats}
        (out, features), new = module.apply(
            variables,
            x,
            mode=Mode(tuple(train), tuple(frozen_stats), module.stochnorm),
            start=start,
            stop=stop,
            rngs=None if key is None else {"dropout": key},
            mutable=["batch_stats"],
        )
        if dtype and module.stages[-1] in features:
            out = features[module.stages[-1]] = as_float32(out)
        # Stages that did not run return no statistics: keep theirs.
        return Output(out, features, {**stats, **new.get("batch_stats", {})})

    def taps(params, stats, x, nudges, *, stop=None):
        inputs, watch = _watch(nudges)
        # What is recomputed in the backward pass can't be shown outside of it.
        plain = _pure(module.clone(remat=False)) if module.remat else network
        with nn.intercept_methods(watch):
            out = plain.apply(params, stats, x, stop=stop)
        return out, inputs

    network = Network(module.stages, init, apply, module.reduction(), taps)
    return network


def _watch(nudges):
    """Returns {path: input of a dense layer}, to be filled, and its interceptor."""
    inputs = {}

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        module = context.module
        if not isinstance(module, nn.Dense) or context.method_name != "__call__":
            return out
        path = "/".join(module.path)
        if path in inputs:
            raise UserError(f"the dense layer {path!r} runs twice in one pass.")
        inputs[path] = args[0]
        # The dtype of the pass stays what it would be without nudges.
        return out + nudges[path].astype(out.dtype) if path in nudges else out

    return inputs, watch


def global_average_pool(x: jax.Array) -> jax.Array:
    """Global average pooling of (batch, H, W, C); what is (batch, C) stays as it is."""
    return x.mean((1, 2)) if x.ndim == 4 else x


def max_pool(x: jax.Array) -> jax.Array:
    """2×2 max pooling with stride 2 of (batch, H, W, C); odd borders are cut off.

    Pairwise maxima of strided slices: on CPU the gradient of `nn.max_pool` is more than
    ten times slower. Where values tie, the gradient is split between them.
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :height, :width]
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def foreign(
    init: Callable, apply: Callable, stages: tuple[str, ...] | None = None
) -> Network:
    """Makes a network of any pure `(init, apply)` pair, of whatever library.

    Args:
      init: `(key, x) -> params`, a dict whose top-level keys are the stages.
      apply: `(params, x) -> logits`, without state or randomness.
      stages: the keys of `params` in order, the head last; a single stage "head" that
        holds everything if left out.

    Returns:
      A `Network`. It offers no features, and no `start`/`stop`.
    """

    names = stages or ("head",)

    def wrapped_init(key, x):
        params = init(key, x)
        return (params if stages else {"head": params}), {}

    def wrapped_apply(
        params, stats, x, *, train=(), frozen_stats=(), key=None, start=None, stop=None
    ):
        if start is not None or stop not in (None, names[-1]):
            raise UserError(
                "this model is a plain (init, apply) pair and can't start or stop at "
                f"a stage (asked for start={start!r}, stop={stop!r})."
            )
        out = apply(params if stages else params["head"], x)
        return Output(out, {names[-1]: out}, stats)

    return Network(names, wrapped_init, wrapped_apply, can_start=False)
