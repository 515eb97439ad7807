"""Dense layers seen from within: what they read, and the gradient at their output.

A dense layer y_t = a_t W + b that runs at the places t of an example (one place, or
tokens, or positions of an image) has the gradients Σ_t a_t δ_tᵀ by W and Σ_t δ_t by b,
δ_t being the gradient at y_t. So a and δ say all about a layer's gradients, example by
example, and are far smaller than these.
"""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core import types
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.terms.base import Setup


def paths(params: PyTree) -> tuple[str, ...]:
    """Returns the paths of the dense layers: a (in, out) kernel, at most a bias beside.

    `params` may hold arrays or their shapes.
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


def visible(setup: Setup, asked: str) -> None:
    """Raises UserError where the model does not show its dense layers.

    Args:
      setup: what a term is checked against.
      asked: what needs them, for the message ("terms.x.estimator='dense'").
    """
    if setup.program.network.taps is None:
        raise UserError(
            f"{asked} reads the inputs of the model's dense layers, and this model, a "
            "pair of plain functions, does not show them."
        )


def watched(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    layers: Iterable[str],
    stop: str | None = None,
) -> tuple[jax.Array, Mapping[str, jax.Array], Callable]:
    """Runs the network in evaluation mode and watches some of its dense layers.

    Args:
      network: a network with `taps`.
      params, stats, x, stop: as for `Network.apply`.
      layers: paths of the layers to watch; those that the pass does not reach are
        left out.

    Returns:
      outputs, (batch, outputs), one vector per example (`core.vectors`).
      inputs: path -> a, (batch, places, in).
      pull: (batch, outputs) -> {path: δ, (batch, places, out)}, the gradient of the
        inner product with the outputs.
    """

    def run(nudges):
        out, inputs = network.taps(params, stats, x, nudges, stop=stop)
        return types.vectors(out.logits), inputs

    _, shapes = jax.eval_shape(run, {})
    kernels = trees.flatten(params)
    nudges = {}
    for path in (p for p in layers if p in shapes):
        kernel, found = kernels[f"{path}/kernel"], shapes[path]
        dtype = jnp.result_type(found.dtype, kernel.dtype)
        nudges[path] = jnp.zeros((*found.shape[:-1], kernel.shape[-1]), dtype)
    outputs, back, inputs = jax.vjp(run, nudges, has_aux=True)

    def pull(direction):
        return {p: _places(d) for p, d in back(direction)[0].items()}

    return outputs, {p: _places(inputs[p]) for p in nudges}, pull


def _places(x: jax.Array) -> jax.Array:
    """Returns (batch, ..., width) as (batch, places, width), float32 or wider."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
