"""Inputs of dense layers, and the gradients at their outputs.

A dense layer y_t = a_t W + b that runs at the positions t of an example (one position,
or tokens, or positions of an image) has the gradients Σ_t a_t δ_tᵀ by W and Σ_t δ_t by
b, δ_t being the gradient at y_t. So a and δ determine a layer's gradients, example by
example, and are far smaller than these.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core import types
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.terms.base import Setup


class WatchedLayers(NamedTuple):
    """A forward pass with some of its dense layers.

    Attributes:
      outputs: (batch, outputs), one vector per example (`core.types.vectors`).
      inputs: path -> a, (batch, positions, in).
      pull: (batch, outputs) -> {path: δ, (batch, positions, out)}, the gradient of the
        inner product with the outputs.
    """

    outputs: jax.Array
    inputs: Mapping[str, jax.Array]
    pull: Callable[[jax.Array], dict[str, jax.Array]]


def paths(params: PyTree) -> tuple[str, ...]:
    """Paths of the dense layers: modules with an (in, out) kernel and at most a bias.

    Args:
      params: arrays or their shapes.
    """
    modules: dict[str, dict] = {}
    for path, leaf in trees.flatten(params).items():
        module, _, name = path.rpartition("/")
        modules.setdefault(module, {})[name] = leaf
    return tuple(
        module
        for module, leaves in modules.items()
        if "kernel" in leaves
        and set(leaves) <= {"kernel", "bias"}
        and len(leaves["kernel"].shape) == 2
    )


def check_visible(setup: Setup, field: str) -> None:
    """Raises UserError if the model does not give access to its dense layers.

    Args:
      setup: what a term is checked against.
      field: what needs them, for the message ("terms.x.estimator='dense'").
    """
    if setup.program.network.taps is None:
        raise UserError(
            f"{field} reads the inputs of the model's dense layers, and this model, "
            "made of plain functions or of other models, gives no access to them."
        )


def watch(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    layers: Iterable[str],
    stop: str | None = None,
) -> WatchedLayers:
    """Runs the network in evaluation mode and keeps some of its dense layers.

    Args:
      network: a network with `taps`.
      params, stats, x, stop: as for `Network.apply`.
      layers: paths of the layers; those that the pass does not reach are left out.
    """

    def run(nudges: PyTree) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        assert network.taps is not None, "check_visible was not called"
        out, inputs = network.taps(params, stats, x, nudges, stop=stop)
        return types.vectors(out.logits), inputs

    _, input_shapes = jax.eval_shape(run, {})
    leaves = trees.flatten(params)
    nudges = {}
    for path in layers:
        if path in input_shapes:
            kernel, inputs = leaves[f"{path}/kernel"], input_shapes[path]
            dtype = jnp.result_type(inputs.dtype, kernel.dtype)
            nudges[path] = jnp.zeros((*inputs.shape[:-1], kernel.shape[-1]), dtype)
    outputs, vjp, inputs = jax.vjp(run, nudges, has_aux=True)

    def pull(direction: jax.Array) -> dict[str, jax.Array]:
        return {path: _by_position(d) for path, d in vjp(direction)[0].items()}

    inputs = {path: _by_position(inputs[path]) for path in nudges}
    return WatchedLayers(outputs, inputs, pull)


def _by_position(x: jax.Array) -> jax.Array:
    """(batch, ..., width) as (batch, positions, width), float32 or wider."""
    return trees.as_float32(x.reshape(x.shape[0], -1, x.shape[-1]))
