"""What the model thinks of every example of a stream, before a term's first step."""

import jax
import jax.numpy as jnp

from jaxtl.core.types import vectors
from jaxtl.terms.base import Setup


def first_pass(setup: Setup, stream: str, stage: str | None = None):
    """Runs the initial model over a stream once, in evaluation mode.

    Args:
      setup: what a term is initialised with.
      stream: whose examples.
      stage: whose features are kept as well, one vector per example; None keeps none.

    Returns:
      {"probabilities": (examples, outputs), "seen": (examples,) bools} and with a stage
      {"features": (examples, width)}, float32, in the order of the data set's rows;
      zeros where the stream has no such row.
    """
    apply = setup.program.network.apply

    @jax.jit
    def forward(params, stats, x):
        out = apply(params, stats, x)
        found = {"probabilities": jax.nn.softmax(vectors(out.logits))}
        if stage is not None:
            found["features"] = vectors(out.features[stage])
        return found

    count, memory = setup.examples[stream], {}
    for batch in setup.batches(stream):
        found = forward(setup.params, setup.stats, batch["x"])
        found["seen"] = jnp.ones(len(batch["row"]), bool)
        for name, value in found.items():
            blank = jnp.zeros((count, *value.shape[1:]), value.dtype)
            memory[name] = memory.get(name, blank).at[batch["row"]].set(value)
    return memory
