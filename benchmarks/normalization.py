"""Time of batch normalization: the precise form against E x² − (E x)².

The value and the gradients of one layer, in training mode, as
`models.layers.batch_norm` computes them and in the one pass without a shift that it had
before. `mean` is that of the inputs in deviations; far from 0 the second pass is due.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import timing

from jaxtl.core import compilation
from jaxtl.models import staged
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.fusion_barrier import fusion_barrier

CALLS = 4  # in a row, since one is too short to be timed
SHAPES = {
    "ResNet-20, stage 1": (128, 32, 32, 16),
    "ResNet-20, stage 3": (128, 8, 8, 64),
    "MobileNet, wide": (32, 28, 28, 64),
    "vectors": (4096, 64),
}


class Layer(nn.Module):
    """The layer as a stage of a network."""

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        return batch_norm.BatchNorm(name="bn")(x, mode)


def precise(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple:
    """The layer's value, and its new running statistics."""
    stats = {"mean": jnp.zeros_like(bias), "var": jnp.ones_like(bias)}
    variables = {
        "params": {"bn": {"scale": scale, "bias": bias}},
        "batch_stats": {"bn": stats},
    }
    return Layer().apply(variables, x, staged.Mode(("bn",)), mutable=["batch_stats"])


def former(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple:
    """The same as E x² − (E x)² and x · k + (bias − mean · k)."""
    x = fusion_barrier(x)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = jnp.maximum((x * x).mean(axes) - mean**2, 0)
    k = scale * jax.lax.rsqrt(variance + 1e-5)
    return x * k + (bias - mean * k), (0.1 * mean, 0.9 + 0.1 * variance)


def work(form: Callable[..., tuple], shape: tuple[int, ...], mean: float):
    """(A function that runs a training step of the form, its temporary bytes)."""
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(mean, 1, shape))
    weights = jnp.float32(rng.normal(size=shape))
    scale, bias = jnp.ones(shape[-1]), jnp.zeros(shape[-1])

    def loss(x, scale, bias):
        y, stats = form(x, scale, bias)
        return jnp.vdot(jax.nn.relu(y), weights), stats

    step = jax.jit(
        jax.grad(loss, (0, 1, 2), has_aux=True),
        compiler_options=compilation.default_options(),
    ).lower(x, scale, bias)
    step = step.compile()
    memory = step.memory_analysis().temp_size_in_bytes

    def repeat() -> None:
        for _ in range(CALLS):
            jax.block_until_ready(step(x, scale, bias))

    return repeat, memory


def measure(name: str, shape: tuple[int, ...], mean: float, rounds: int) -> timing.Row:
    """Measures one row of the table."""
    pairs = {form.__name__: work(form, shape, mean) for form in (precise, former)}
    times = timing.alternate({n: pair[0] for n, pair in pairs.items()}, rounds)
    ratio = functools.partial(timing.ratio, name="precise", against="former")
    return {
        "layer": name,
        "shape": " × ".join(map(str, shape)),
        "mean": mean,
        "former, ms": 1e3 * min(times.clock["former"]) / CALLS,
        "precise, ms": 1e3 * min(times.clock["precise"]) / CALLS,
        "ratio": ratio(times.clock),
        "quartiles": timing.spread(times.clock, "precise", "former"),
        "of CPU time": ratio(times.cpu),
        "temporary, MB": pairs["precise"][1] / 1e6,
        "target": "≤ 1.05" if not mean else "",
    }


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    shapes = {"vectors": (64, 8)} if options.quick else SHAPES
    rounds = 3 if options.quick else 15
    rows = [
        measure(name, shape, mean, rounds)
        for name, shape in shapes.items()
        for mean in (0.0, 1000.0)
    ]
    timing.report("Batch normalization alone", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
