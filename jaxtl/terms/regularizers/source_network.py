"""The source as a function: its passes, and its own head on other features."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxtl.core import compilation
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Batch, Network, Output, PyTree, Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup


def needs_head(setup: Setup, term: str, trained: bool = False) -> None:
    """Raises if the source brings no head (of parameters that could be trained)."""
    checks.sourced(setup)
    # A head that is tied to the embeddings has no parameters of its own.
    if setup.program.source_network is None or (trained and setup.source.head is None):
        raise UserError(
            f"terms.{setup.name}: {term} reads the outputs of the source's own head, "
            "and this source brings none; start from weights that keep their head "
            "(the model may get a new one: init=…(…, reset='head'))."
        )


def kept(setup) -> bool:
    """Returns whether the model's head is the source's, for a `Setup` or a context."""
    head = setup.program.network.stages[-1]
    known = trees.flatten({head: (setup.source.params or {}).get(head)})
    return set(trees.flatten({head: setup.params.get(head)})) <= set(known)


def network(setup: Setup) -> tuple[Network, PyTree, PyTree]:
    """Returns the source as (network, whole parameters, statistics), its head on it.

    A source without a head has the model's; stop before it then.
    """
    params = trees.fill(setup.source.params, setup.params)
    params = setup.program.base_params(params)
    stats = trees.fill(setup.source.stats, setup.stats)
    found = (
        setup.program.source_network
        or setup.program.base_network
        or setup.program.network
    )
    if setup.program.source_network is not None and setup.source.head is not None:
        params = {**params, found.stages[-1]: setup.source.head}
    return found, params, stats


def passes(
    setup: Setup, stream: str, stop: str | None = None
) -> Iterator[tuple[Output, Batch]]:
    """Yields (the source's pass in evaluation mode, batch) over a stream's data."""
    found, params, stats = network(setup)

    def apply(params, stats, x):
        return found.apply(params, stats, x, stop=stop)

    run = jax.jit(apply, compiler_options=compilation.options())
    for batch in setup.batches(stream):
        yield run(params, stats, batch["x"]), batch


def head_logits(context, head: PyTree, stream: str, train: bool = False) -> jax.Array:
    """Returns the logits of a head of the source's shape on the model's features.

    Args:
      context: of the step; its training pass is shared.
      head: the head's parameters.
      stream: name of the stream.
      train: run it in training mode, if the model's head is (its dropout).
    """
    last = context.program.network.stages[-1]
    feature = context.forward(stream).features[context.program.network.stages[-2]]
    return context.program.source_network.apply(
        {**context.params, last: head},
        context.stats,
        feature,
        start=last,
        train=context.program.train_stages if train else (),
        key=context.key if train else None,
    ).logits


def head_init(setup: Setup) -> PyTree:
    """Returns a copy of the source's head, to be a term's own parameters."""
    return trees.copy(setup.source.head)


def mean(values: jax.Array, feature) -> jax.Array:
    """Returns the mean over examples, or over the real tokens of a batch.

    Args:
      values: (batch,), or (batch, length) where outputs are per token.
      feature: what the head read; its mask tells which tokens are real.
    """
    if values.ndim < 2 or not isinstance(feature, Tokens):
        return jnp.mean(values)
    mask = feature.mask.astype(values.dtype)
    return jnp.sum(values * mask) / jnp.maximum(mask.sum(), 1.0)
