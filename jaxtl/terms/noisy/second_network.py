"""A second network of the model's architecture, whose parameters belong to a term."""

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.types import Output, PyTree
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View


def init(key: jax.Array, setup: Setup, stream: str, noise: float) -> PyTree:
    """Initializes the second network's trainable parameters.

    A loaded parameter with two axes or more gets a standard normal draw times `noise`
    times its own standard deviation, since two equal networks that see the same batches
    would stay equal. A parameter that was not loaded is drawn by the network's
    initializer with another key.

    Args:
      key: PRNG key.
      setup: of the experiment.
      stream: name of the stream whose inputs the network reads.
      noise: in standard deviations of each loaded parameter.

    Returns:
      The tree of parameters, with None in place of every frozen leaf.
    """
    x = next(iter(setup.batches(stream)))["x"]
    x = jax.tree.map(lambda values: values[:1], x)
    fresh, _ = jax.jit(setup.program.network.init)(jax.random.fold_in(key, 0), x)
    loaded_paths = trees.flatten(setup.source.params)
    paths = sorted(trees.flatten(setup.params))
    keys = dict(zip(paths, jax.random.split(jax.random.fold_in(key, 1), len(paths))))
    initial = trees.flatten(fresh)

    def perturb(path: str, leaf: jax.Array) -> jax.Array:
        if path not in loaded_paths:
            return initial.get(path, leaf)
        if leaf.ndim < 2:
            return leaf
        draw = jax.random.normal(keys[path], leaf.shape, leaf.dtype)
        return leaf + noise * jnp.std(leaf) * draw

    tree = trees.map_with_path(perturb, setup.params)
    return trees.partition(tree, setup.program.trainable_mask)[0]


def params(context: View) -> PyTree:
    """The second network's whole parameter tree: frozen parameters are the model's."""
    shared = jax.lax.stop_gradient(context.params)
    return trees.fill(trees.like(shared, context.term_params), shared)


def forward(context: View, stream: str, stats: PyTree, key: jax.Array) -> Output:
    """The second network's training-mode pass of a stream's batch.

    It starts from the cached features where the second network shares all parameters
    below them with the model, and from the inputs otherwise.

    Args:
      context: of the step.
      stream: name of the stream.
      stats: the second network's BatchNorm statistics.
      key: PRNG key of dropout.
    """
    x, start = context.entry(stream)
    settings = {}
    if start is not None:
        stages = context.program.network.stages
        below = stages[: stages.index(start)]
        if any(trees.flatten(context.term_params.get(stage, {})) for stage in below):
            x = context.batches[stream]["x"]
        else:
            settings["start"] = start
    return context.program.network.apply(
        params(context),
        stats,
        x,
        train=context.program.train_stages,
        frozen_stats=context.program.frozen_stats,
        key=key,
        **settings,
    )
