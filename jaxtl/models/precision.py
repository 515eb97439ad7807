"""Runs a network in half precision."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxtl.core.types import Network, Output


@functools.cache
def compute_in(network: Network, dtype: str) -> Network:
    """Returns the network computing in `dtype`; parameters and logits keep float32."""
    if dtype == "float32":
        return network

    def lower(tree):
        return jax.tree.map(
            lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree
        )

    def widen(tree):  # Tokens where a pass stops before the head
        return jax.tree.map(
            lambda x: (
                x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
            ),
            tree,
        )

    def apply(params, stats, x, **settings) -> Output:
        out = network.apply(lower(params), stats, lower(x), **settings)
        keep = jax.tree.map(lambda new, old: new.astype(old.dtype), out.stats, stats)
        return Output(widen(out.logits), out.features, keep)

    return dataclasses.replace(network, apply=apply)
