"""One layer's attention and its gradient by three kernels: a part of `gpu.py`."""

import dataclasses
import functools
import statistics
from collections.abc import Callable

import gpu_networks
import jax
import jax.numpy as jnp
import timing
from jax.experimental.pallas.ops.gpu import attention as pallas_attention

from jaxtl.core import compilation

STEPS = 20  # of one dispatch: a loop on the device, as in a run


@dataclasses.dataclass(frozen=True)
class Shape:
    """Queries, keys and values of one layer, each (batch, length, heads, width)."""

    name: str
    batch: int
    length: int
    heads: int = 12
    width: int = 64
    causal: bool = False

    def arrays(self) -> tuple[jax.Array, ...]:
        size = (self.batch, self.length, self.heads, self.width)
        keys = jax.random.split(jax.random.key(0), 3)
        return tuple(jax.random.normal(key, size, jnp.bfloat16) for key in keys)


SHAPES = (
    Shape("GPT-2", 16, 1024, causal=True),
    Shape("BERT-base", 64, 256),
    Shape("ViT-B/16", 128, 197),
)


def by_xla(shape: Shape, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """As jaxtl's networks: a mask of real keys, and of earlier ones."""
    visible = jnp.ones((shape.batch, 1, 1, shape.length), bool)
    if shape.causal:
        visible &= jnp.tril(jnp.ones((shape.length, shape.length), bool))
    return jax.nn.dot_product_attention(q, k, v, mask=visible)


def by_cudnn(shape: Shape, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """cuDNN's fused kernels, with the number of real keys of each sequence."""
    lengths = jnp.full((shape.batch,), shape.length, jnp.int32)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=shape.causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


def by_pallas(shape: Shape, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """jax's Pallas kernels; padding to a multiple of 64 is a segment of its own."""
    segments = jnp.ones((shape.batch, shape.length), jnp.int32)
    padding = -shape.length % 64
    if padding:
        around = ((0, 0), (0, padding), (0, 0), (0, 0))
        q, k, v = (jnp.pad(x, around) for x in (q, k, v))
        segments = jnp.pad(segments, ((0, 0), (0, padding)))
    out = pallas_attention.mha(
        q, k, v, segments, sm_scale=shape.width**-0.5, causal=shape.causal
    )
    return out[:, : shape.length]


WAYS = {"XLA": by_xla, "cuDNN": by_cudnn, "Pallas": by_pallas}


def _loop(attend: Callable, arrays: tuple[jax.Array, ...]) -> Callable[[], object]:
    """A function that takes `STEPS` gradients, each by what the last one changed."""

    def total(arrays: tuple[jax.Array, ...]) -> jax.Array:
        return attend(*arrays).astype(jnp.float32).sum()

    def body(_: jax.Array, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        grads = jax.grad(total)(arrays)
        return tuple((x + 1e-3 * g).astype(x.dtype) for x, g in zip(arrays, grads))

    def many(arrays: tuple[jax.Array, ...], n: jax.Array) -> tuple[jax.Array, ...]:
        return jax.lax.fori_loop(0, n, body, arrays)

    steps = jnp.int32(STEPS)
    options = compilation.options(jax.devices()[0].platform)
    program = jax.jit(many).lower(arrays, steps).compile(options)
    return lambda: jax.block_until_ready(program(arrays, steps))


def attention(quick: bool) -> list[timing.Row]:
    """Milliseconds of one layer's attention and its gradient."""
    rows = []
    for shape in SHAPES:
        if quick:
            shape = dataclasses.replace(shape, batch=2, length=16)
        arrays, loops, refused = shape.arrays(), {}, {}
        for name, way in WAYS.items():
            try:
                loops[name] = _loop(functools.partial(way, shape), arrays)
            except Exception as error:  # a kernel that this device or shape has not
                refused[name] = f"no: {str(error).strip().splitlines()[0][:60]}"
        times = timing.alternate(loops, gpu_networks.rounds(quick)).clock
        medians = {k: 1e3 * statistics.median(v) / STEPS for k, v in times.items()}
        rows.append(
            {
                "layer of": f"{shape.name}, {shape.batch} × {shape.length}",
                **{f"{name}, ms": (medians | refused)[name] for name in WAYS},
                **{
                    f"XLA / {k}": medians["XLA"] / v
                    for k, v in medians.items()
                    if k != "XLA"
                },
            }
        )
    return rows
