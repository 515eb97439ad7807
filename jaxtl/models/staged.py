"""Staged networks: linen models as an ordered row of named stages.

A model family subclasses `Staged`, names its stages in `stages`, and builds one module
per stage in `setup` with `self.add(name, module)`. The `__call__(x, mode)` of a stage's
module asks `mode` which of its layers are in training mode.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core import token_ids
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.tensor_rules import TensorRules
from jaxtl.core.tree import as_float32
from jaxtl.core.types import Network, Output, PyTree
from jaxtl.models import example_kinds
from jaxtl.models.layers.fusion_barrier import fusion_barrier
from jaxtl.models.weight_layout import WeightLayout

FLOATS = ("float32", "bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class Mode:
    """What is in training mode during one forward pass.

    Attributes:
      train: names of the stages in training mode.
      frozen_stats: paths of modules that keep their statistics although their stage
        trains.
      stochnorm: probability of the moving statistics, see `Staged`.
    """

    train: tuple[str, ...] = ()
    frozen_stats: tuple[str, ...] = ()
    stochnorm: float = 0.0

    def dropout(self, module: nn.Module) -> bool:
        """Whether dropout in a module is on.

        Args:
          module: bound, so that its path begins with its stage.

        Returns:
          True where its stage is in training mode.
        """
        return module.path[0] in self.train

    def statistics(self, module: nn.Module) -> bool:
        """Whether a module uses and updates the batch's own statistics.

        Args:
          module: a BatchNorm, bound, so that its path begins with its stage.

        Returns:
          True where its stage is in training mode and no path of `frozen_stats` covers
          it.
        """
        inside = "/".join(module.path) + "/"
        frozen = any(inside.startswith(path + "/") for path in self.frozen_stats)
        return module.path[0] in self.train and not frozen


class Dropout(nn.Module):
    """Dropout, on where the mode says that the module's stage trains.

    Attributes:
      rate: share of the values that are set to 0, the others divided by 1 − rate.
      axes: along these a draw holds for all values; (1, 2) drops whole channels.
    """

    rate: float
    axes: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        if self.rate == 0.0:
            return x
        return nn.Dropout(
            self.rate, broadcast_dims=self.axes, deterministic=not mode.dropout(self)
        )(x)


class Staged(nn.Module):
    """A network as an ordered row of named stages; the last is `head`.

    Attributes:
      outputs: width of the head; None lets the data decide when the experiment is
        set up.
      dtype: dtype of the computation ("bfloat16"); None takes that of the parameters.
        Statistics and softmax stay in float32, the last stage returns float32.
      param_dtype: dtype in which parameters are stored and trained.
      remat: recompute each stage in the backward pass instead of storing its inner
        activations.
      stochnorm: probability with which each channel of each BatchNorm is normalized
        by its moving statistics in place of the batch's, in training mode alone (Kou
        et al., Stochastic Normalization, NeurIPS 2020; there 0.5, and 1 − p). The
        moving statistics are updated as usual; 0 is plain BatchNorm.
    """

    outputs: int | None = None
    dtype: str | None = None
    param_dtype: str = "float32"
    remat: bool = False
    stochnorm: float = 0.0

    # What an example must be: "images", "texts", "pairs" (of both) or "arrays" (any but
    # texts and pairs); "" takes all that the stages do.
    READS: ClassVar[str] = ""
    # Whether an example is two texts, each tokenized by itself.
    READS_PAIRS: ClassVar[bool] = False
    # Values of `predict`, of families that have several heads.
    PREDICTS: ClassVar[tuple[str, ...]] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        raise TypeError(f"{type(self).__name__} does not define its stages")

    def layouts(self) -> dict[str, WeightLayout]:
        """File layouts that the family reads and writes, by name, the usual one first.

        Empty for a model whose family lays none down.
        """
        return {}

    def reduction(self) -> Callable[[Any], Any] | None:
        """The head's first part, without parameters (`Network.reduce`), or None."""
        return None

    def tensor_rules(self) -> TensorRules | None:
        """How the layers are split over devices, None where they can't be."""
        return None

    def check_kind(self, shape: Any, owner: str) -> None:
        """Raises UserError for examples that are not of the kind that the model reads.

        Args:
          shape: of one example, or {input: shape}.
          owner: whose examples they are, "data=CSV".
        """
        name = type(self).__name__
        example_kinds.check(name, self.READS, shape, owner)
        if not self.READS_PAIRS and getattr(self, "predict", None) != "choice":
            example_kinds.check_one_text(name, shape, owner)

    def check_inputs(self, x: Any, owner: str) -> None:
        """Raises UserError for inputs, a data set's say, that the model can't read.

        Args:
          x: examples (n, ...), or a dict of them; what is traced is passed over.
          owner: whose inputs they are, for the message.
        """
        token_ids.check_ids(x, self.id_sizes(), owner)

    def check_targets(self, task: str, y: Any, owner: str) -> None:
        """Raises UserError for labels that the model's outputs can't be compared with.

        Args:
          task: of the data.
          y: their labels.
          owner: whose labels they are, for the message.
        """

    def id_sizes(self) -> dict[str, int]:
        """Integer input -> number of the values that the model has rows for."""
        return {}

    def adapt(self, path: str, leaf: Any) -> Any:
        """Converts one leaf of a file to this model's shape; a subclass overrides it.

        Args:
          path: of the leaf in this model, "embeddings/position".
          leaf: as the file has it, of another image size say.

        Returns:
          The leaf in this model's shape; here as it is.
        """
        return leaf

    def add(self, name: str, module: nn.Module) -> None:
        """Registers a stage under its own name (linen would prefix dict entries).

        Args:
          name: of the stage, one of `stages`.
          module: is called as `module(x, mode)`.
        """
        setattr(self, name, module)

    def __call__(
        self,
        x: Any,
        mode: Mode = Mode(),
        start: str | None = None,
        stop: str | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Runs the stages from `start` to `stop`, both included.

        Args:
          x: the input of the stage `start`, the model's inputs if that is None.
          mode: what is in training mode.
          start, stop: names of stages; None for the first and the last.

        Returns:
          The last output, and the output of every stage that ran by its name.
        """

        def run(module: nn.Module, x: Any) -> Any:
            return module(x, mode)

        run = nn.remat(run) if self.remat else run
        features, inputs = {}, x
        for name in stage_range(self.stages, start, stop):
            x = fusion_barrier(run(getattr(self, name), x))
            if 0 in getattr(x, "shape", ())[1:]:
                if not hasattr(inputs, "shape"):
                    raise UserError(
                        f"{type(self).__name__} gives an empty output of shape "
                        f"{tuple(x.shape)} at {name!r}: name its head (predict=) for "
                        "the task of the data, or its number of outputs (outputs=)."
                    )
                raise UserError(
                    f"inputs of shape {tuple(inputs.shape)} are too small for "
                    f"{type(self).__name__}: nothing is left of them at {name!r}."
                )
            features[name] = x
        return x, features

    def pure(self) -> Network:
        """The model as a pair of pure functions; equal models share one `Network`."""
        return _network_of(self)


def stage_range(
    stages: tuple[str, ...], start: str | None, stop: str | None
) -> tuple[str, ...]:
    """The stages from `start` to `stop`, both included; None for the first or last.

    Raises:
      UserError: an unknown stage, or `start` behind `stop`.
    """
    for field, name in (("start", start), ("stop", stop)):
        if name is not None and name not in stages:
            raise UserError(
                f"{field}={name!r} is no stage{nearest(name, stages)} "
                f"(stages: {', '.join(stages)})."
            )
    first = stages.index(start) if start else 0
    end = stages.index(stop) + 1 if stop else len(stages)
    if first >= end:
        raise UserError(f"start={start!r} comes after stop={stop!r} in {stages}.")
    return stages[first:end]


def check_option(field: str, value: str, options: tuple[str, ...]) -> None:
    """Raises UserError where a field's value is none of its options."""
    if value not in options:
        raise UserError(
            f"{field}={value!r} is unknown{nearest(value, options)} "
            f"(known: {', '.join(options)})."
        )


def _floating_dtype(field: str, name: str) -> jnp.dtype:
    """The floating dtype of that name; UserError names the field where it is none."""
    if name not in FLOATS:
        raise UserError(
            f"{field}={name!r} is no floating dtype{nearest(name, FLOATS)} "
            f"(known: {', '.join(FLOATS)})."
        )
    return jnp.dtype(name)


def cast_tree(tree: PyTree, dtype: Any) -> PyTree:
    """Casts the floating leaves of a tree; others stay as they are."""

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


@functools.cache
def _network_of(module: Staged) -> Network:
    param_dtype = _floating_dtype("param_dtype", module.param_dtype)
    # None leaves the values their dtype: float64 stays float64 in an exact check.
    name = module.dtype or (None if param_dtype == jnp.float32 else param_dtype.name)
    dtype = name and _floating_dtype("dtype", name)
    if not 0.0 <= module.stochnorm <= 1.0:
        raise UserError(f"stochnorm={module.stochnorm}: expected a number in [0, 1].")

    def init(key: jax.Array, x: Any) -> tuple[PyTree, PyTree]:
        return _init(module, param_dtype, key, x)

    def apply(
        params, stats, x, *, train=(), frozen_stats=(), key=None, start=None, stop=None
    ) -> Output:
        # Modules compute in the dtype of their inputs, so one cast decides for all.
        if dtype:
            params, x = cast_tree((params, x), dtype)
        (out, features), updates = module.apply(
            {"params": params, "batch_stats": stats},
            x,
            mode=Mode(tuple(train), tuple(frozen_stats), module.stochnorm),
            start=start,
            stop=stop,
            rngs=None if key is None else {"dropout": key},
            mutable=["batch_stats"],
        )
        if dtype and module.stages[-1] in features:
            out = features[module.stages[-1]] = as_float32(out)
        # Stages that did not run return no statistics: theirs stay.
        return Output(out, features, {**stats, **updates.get("batch_stats", {})})

    def taps(params, stats, x, nudges, *, stop=None) -> tuple[Output, dict]:
        inputs, interceptor = _dense_inputs(nudges)
        # What is recomputed in the backward pass can't be shown outside of it.
        plain = _network_of(module.clone(remat=False)) if module.remat else network
        with nn.intercept_methods(interceptor):
            out = plain.apply(params, stats, x, stop=stop)
        return out, inputs

    network = Network(
        module.stages,
        init,
        apply,
        module.reduction(),
        taps,
        tensor_rules=module.tensor_rules(),
    )
    return network


def _init(
    module: Staged, param_dtype: jnp.dtype, key: jax.Array, x: Any
) -> tuple[PyTree, PyTree]:
    """Initial parameters and statistics.

    Every collection is initialized in evaluation mode: no key but the parameters' is
    needed, and statistics start at their initial values.
    """
    try:
        variables = dict(module.init(key, x))
    except TypeError:
        if module.outputs is not None:
            raise
        raise UserError(
            f"{type(module).__name__}: outputs is not set; give the model a number of "
            "outputs (an experiment takes it from the data)."
        ) from None
    params = cast_tree(variables["params"], param_dtype)
    stats = variables.get("batch_stats", {})
    if module.stochnorm and not stats:
        raise UserError(
            f"stochnorm={module.stochnorm}: {type(module).__name__} has no BatchNorm "
            "here, so it would do nothing; leave it out."
        )
    return params, stats


def _dense_inputs(
    nudges: Mapping[str, jax.Array],
) -> tuple[dict[str, jax.Array], Callable[..., Any]]:
    """A dict of the inputs of dense layers by path, and the interceptor that fills it.

    The interceptor also adds to a layer's output the nudge of that path, if any.
    """
    inputs: dict[str, jax.Array] = {}

    def interceptor(
        call: Callable[..., Any], args: tuple, kwargs: dict, context
    ) -> Any:
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

    return inputs, interceptor
