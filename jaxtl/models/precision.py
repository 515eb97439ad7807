"""Networks that compute in half precision."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.lazy_leaf import is_lazy
from jaxtl.core.types import Network, Output, PyTree


@functools.cache
def compute_in(network: Network, dtype: str) -> Network:
    """The network computing in `dtype`; parameters and logits stay float32."""
    if dtype == "float32":
        return network

    def apply(params: PyTree, stats: PyTree, x: Any, **settings: Any) -> Output:
        out = network.apply(_lower(params, dtype), stats, _lower(x, dtype), **settings)
        new_stats = jax.tree.map(
            lambda new, old: new.astype(old.dtype), out.stats, stats
        )
        return Output(_to_float32(out.logits), out.features, new_stats)

    return dataclasses.replace(network, apply=apply)


def _lower(tree: PyTree, dtype: str) -> PyTree:
    """Casts float32 leaves to `dtype`; others stay as they are."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x,
        tree,
        is_leaf=is_lazy,
    )


def _to_float32(tree: PyTree) -> PyTree:
    """Casts floating leaves to float32.

    The output of a pass that stops before the head may be Tokens, whose mask stays.
    """
    return jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        tree,
    )
