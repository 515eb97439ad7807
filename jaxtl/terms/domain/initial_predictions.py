"""Predictions of the initial model for all examples of a stream."""

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree, vectors
from jaxtl.terms.base import Setup


def predict_stream(
    setup: Setup, stream: str, stage: str | None = None
) -> dict[str, jax.Array]:
    """Runs the initial model over a stream once, in evaluation mode.

    Args:
      setup: the setup that a term is initialized with.
      stream: name of the stream.
      stage: stage whose features are returned too, one vector per example; None returns
        no features.

    Returns:
      {"probabilities": (examples, outputs), "seen": (examples,) bools} and with a stage
      {"features": (examples, width)}, float32, in the order of the data set's rows;
      zeros in rows that the stream does not contain.
    """
    apply = setup.program.network.apply

    @jax.jit
    def forward(params: PyTree, stats: PyTree, x: PyTree) -> dict[str, jax.Array]:
        output = apply(params, stats, x)
        results = {"probabilities": jax.nn.softmax(vectors(output.logits))}
        if stage is not None:
            results["features"] = vectors(output.features[stage])
        return results

    count = setup.examples[stream]
    table: dict[str, jax.Array] = {}
    for batch in setup.batches(stream):
        results = forward(setup.params, setup.stats, batch["x"])
        results["seen"] = jnp.ones(len(batch["row"]), bool)
        for name, values in results.items():
            zeros = jnp.zeros((count, *values.shape[1:]), values.dtype)
            table[name] = table.get(name, zeros).at[batch["row"]].set(values)
    return table
