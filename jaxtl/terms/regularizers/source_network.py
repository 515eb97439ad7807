"""The source as a function: its forward passes, and its head on other features."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import compilation
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Batch, Network, Output, PyTree, Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import Context, View
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean


def check_head(setup: Setup, term: str, trained: bool = False) -> None:
    """Raises if the source brings no head.

    Args:
      setup: what the term is checked against.
      term: name of the term's class, for the message.
      trained: whether the head must have parameters of its own, to be trained.
    """
    checks.sourced(setup)
    # A head that is tied to the embeddings has no parameters of its own.
    if setup.program.source_network is None or (trained and setup.source.head is None):
        raise UserError(
            f"terms.{setup.name}: {term} reads the outputs of the source's own head, "
            "and this source brings none; start from weights that keep their head "
            "(the model may get a new one: init=…(…, reset='head'))."
        )


def has_source_head(context: View | Context | Setup) -> bool:
    """Whether every parameter of the model's head has a source.

    Args:
      context: of the step, or the setup.
    """
    head = context.program.network.stages[-1]
    source_paths = trees.flatten({head: (context.source.params or {}).get(head)})
    return set(trees.flatten({head: context.params.get(head)})) <= set(source_paths)


def source_model(setup: Setup) -> tuple[Network, PyTree, PyTree]:
    """The source as (network, all parameters, statistics), with its own head.

    A source without a head gets the model's head; its passes must stop before it.
    """
    params = trees.fill(setup.source.params, setup.params)
    params = setup.program.base_params(params)
    stats = trees.fill(setup.source.stats, setup.stats)
    network = (
        setup.program.source_network
        or setup.program.base_network
        or setup.program.network
    )
    if setup.program.source_network is not None and setup.source.head is not None:
        params = {**params, network.stages[-1]: setup.source.head}
    return network, params, stats


def source_passes(
    setup: Setup, stream: str, stop: str | None = None
) -> Iterator[tuple[Output, Batch]]:
    """Yields (the source's pass in evaluation mode, batch) over a stream's data.

    Args:
      setup: of the experiment.
      stream: name of the stream.
      stop: the stage after which the pass ends, None for the head.
    """
    network, params, stats = source_model(setup)

    def apply(params: PyTree, stats: PyTree, x: PyTree) -> Output:
        return network.apply(params, stats, x, stop=stop)

    run = jax.jit(apply, compiler_options=compilation.default_options())
    for batch in setup.batches(stream):
        yield run(params, stats, batch["x"]), batch


def head_logits(
    context: View, head: PyTree, stream: str, train: bool = False
) -> jax.Array:
    """Logits of a head of the source's shape on the model's features.

    Args:
      context: of the step; its training pass is shared.
      head: the head's parameters.
      stream: name of the stream.
      train: whether the head runs in training mode (dropout) if the model's does.

    Returns:
      (batch, outputs of the source).
    """
    *_, feature_stage, last = context.program.network.stages
    feature = context.forward(stream).features[feature_stage]
    return context.program.source_network.apply(
        {**context.params, last: head},
        context.stats,
        feature,
        start=last,
        train=context.program.train_stages if train else (),
        key=context.key if train else None,
    ).logits


def head_init(setup: Setup) -> PyTree:
    """A copy of the source's head, the initial value of a term's parameters."""
    return trees.copy(setup.source.head)


def mean_over_tokens(
    values: jax.Array, feature: Any, mean: WeightedMean = weighted_mean
) -> jax.Array:
    """The mean over examples, or over the real tokens of a batch.

    Args:
      values: (batch,), or (batch, length) where outputs are per token.
      feature: the head's input; if it is Tokens, its mask marks the real tokens.
      mean: over tokens; `View.mean` where a batch is cut.

    Returns:
      A scalar.
    """
    if values.ndim < 2 or not isinstance(feature, Tokens):
        return jnp.mean(values)
    return mean(values, feature.mask.astype(values.dtype))
