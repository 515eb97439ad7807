"""A second network as a term's own: beside the model, of the same kind, unlike it."""

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.types import Output, PyTree
from jaxtl.terms.base import Setup


def init(key: jax.Array, setup: Setup, stream: str, noise: float) -> PyTree:
    """Returns the second network's trainable parameters, None at frozen places.

    A parameter that was loaded begins at its loaded value plus `noise` times its own
    standard deviation times a standard normal draw (two equal networks that see the
    same batches would stay equal); any other begins at a draw of its own.

    Args:
      key: PRNG key.
      setup: of the experiment; `setup.program.trainable_mask` says what is trainable.
      stream: whose inputs the network takes.
      noise: of loaded parameters with two axes or more.
    """
    x = next(iter(setup.batches(stream)))["x"]
    x = jax.tree.map(lambda values: values[:1], x)
    fresh, _ = jax.jit(setup.program.network.init)(jax.random.fold_in(key, 0), x)
    loaded = trees.flatten(setup.source.params)
    paths = sorted(trees.flatten(setup.params))
    keys = dict(zip(paths, jax.random.split(jax.random.fold_in(key, 1), len(paths))))
    drawn = trees.flatten(fresh)

    def begin(path, leaf):
        if path not in loaded:
            return drawn.get(path, leaf)
        if leaf.ndim < 2:
            return leaf
        draw = jax.random.normal(keys[path], leaf.shape, leaf.dtype)
        return leaf + noise * jnp.std(leaf) * draw

    made = trees.map_with_path(begin, setup.params)
    return trees.partition(made, setup.program.trainable_mask)[0]


def params(context) -> PyTree:
    """Returns the second network's whole tree: frozen parameters are the model's."""
    shared = jax.lax.stop_gradient(context.params)
    return trees.fill(trees.like(shared, context.term_params), shared)


def forward(context, stream: str, stats: PyTree, key: jax.Array) -> Output:
    """Returns the training-mode pass of a stream's batch, from cached features where
    these are the second network's as well."""
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
