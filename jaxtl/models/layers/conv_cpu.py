"""How the CPU computes a convolution: the value and the gradient by the kernel.

XLA's CPU backend is slow at four things, which are computed here in another way; what
comes out is the same up to rounding (benchmarks/convolutions.py has the factors):

- the gradient by the kernel, where channels are few. Over slices of the batch small
  enough for the cache, and for each row i of the kernel,

      dK[i, j, c, o] = Σ_p x[p + (i, j), c] · g[p, o]

  is one matrix product of the input's pixels, shifted by every j, with the gradient's;
- few channels in or out. Groups of neighbouring output columns become
  channels: a wider kernel of shifted copies of the weights, taken with a wider stride;
- windows that tile the image: this is a matrix product outright;
- a group per channel: a sum of shifted images, each times its weights.

Half precision is summed in single.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxtl.core.tree import as_float32

UNPADDED = ((0, 0), (0, 0))

# Numbers in the shifted copies of one slice of the batch: 0.8 MB in float32, a cache's.
_COPIES = 3 * 2**16
# Pixels below which adding up the slices would cost more than multiplying them.
_PIXELS = 256
# Channels, in and out, from which XLA's own gradient by the kernel is the faster one.
_MANY = 32

Pairs = tuple[tuple[int, int], tuple[int, int]]
Shape = tuple[int, int, int, int]


class ConvWindow(NamedTuple):
    """Where the kernel is put: strides, zeros around the image, channel groups."""

    strides: tuple[int, int]
    padding: Pairs
    groups: int = 1


class ConvShapes(NamedTuple):
    """The shapes of image and kernel, and the window."""

    x: Shape
    kernel: Shape
    window: ConvWindow

    @property
    def out(self) -> Shape:
        """Shape of the value."""
        (sh, sw), (rows, sides), _ = self.window
        kh, kw, _, outputs = self.kernel
        batch, height, width, _ = self.x
        height, width = height + sum(rows) - kh, width + sum(sides) - kw
        return (batch, max(height // sh + 1, 0), max(width // sw + 1, 0), outputs)

    @property
    def depthwise(self) -> bool:
        """Whether every channel is a group with one output."""
        return self.window.groups > 1 and self.kernel[2:] == (1, self.window.groups)

    @property
    def tiles(self) -> bool:
        """Whether the windows tile the image, so that this is a matrix product."""
        strides, padding, groups = self.window
        return groups == 1 and padding == UNPADDED and self.kernel[:2] == strides

    @property
    def columns(self) -> int:
        """How many output columns to compute as one with more channels."""
        channels, outputs = self.kernel[2:]
        if outputs <= 4:
            count = 8
        elif channels < 4:
            count = 4 if outputs <= 32 else 2
        else:
            count = 2 if channels < 8 or outputs <= 8 else 1
        return min(count, self.out[2])


def is_supported(case: ConvShapes) -> bool:
    """Whether there is a way here: not for cut borders, not for all groups."""
    (rows, sides), groups = case.window[1:]
    return min(*rows, *sides) >= 0 and (groups == 1 or case.depthwise)


def xla_value(x, kernel, window: ConvWindow) -> jax.Array:
    """The convolution as XLA has it."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def xla_input_gradient(g, kernel, case: ConvShapes) -> jax.Array:
    """What `plain` is transposed to by x."""
    like = jax.ShapeDtypeStruct(case.x, g.dtype)
    forward = functools.partial(xla_value, kernel=kernel, window=case.window)
    return jax.linear_transpose(forward, like)(g)[0]


def xla_kernel_gradient(x, g, case: ConvShapes) -> jax.Array:
    """What `plain` is transposed to by the kernel."""
    like = jax.ShapeDtypeStruct(case.kernel, g.dtype)
    return jax.linear_transpose(lambda k: xla_value(x, k, case.window), like)(g)[0]


def value(x, kernel, case: ConvShapes) -> jax.Array:
    """Returns (batch, new height, new width, outputs)."""
    window = case.window
    if case.depthwise:
        taps = _shifts(x, case)
        return sum(k * as_float32(kernel[i, j, 0]) for i, j, k in taps).astype(x.dtype)
    if case.tiles:
        return _fold(x, window.strides) @ kernel.reshape(-1, kernel.shape[3])
    if case.columns == 1:
        return xla_value(x, kernel, window)
    return _several_columns(x, kernel, case)


def _several_columns(x, kernel, case: ConvShapes) -> jax.Array:
    """`plain`, with neighbouring output columns as channels of one."""
    (sh, sw), (rows, (left, right)), _ = case.window
    (kh, kw, c, o), width, n = case.kernel, case.out[2], case.columns
    moved = [(sw * i, sw * (n - 1 - i)) for i in range(n)]
    copies = [jnp.pad(kernel, ((0, 0), by, (0, 0), (0, 0))) for by in moved]
    wide = jnp.stack(copies, 3).reshape(kh, kw + sw * (n - 1), c, n * o)
    count = -(-width // n)
    sides = (left, right + sw * (count * n - width))
    y = xla_value(x, wide, ConvWindow((sh, sw * n), (rows, sides)))
    return y.reshape(*y.shape[:2], count * n, o)[:, :, :width]


def input_gradient(g, kernel, case: ConvShapes) -> jax.Array:
    """Returns what g, of the value's shape, is pulled back to: x's shape."""
    (kh, kw, c, o), window = case.kernel, case.window
    if case.depthwise or case.tiles:
        like = jax.ShapeDtypeStruct(case.x, g.dtype)
        forward = functools.partial(value, kernel=kernel, case=case)
        return jax.linear_transpose(forward, like)(g)[0]
    sizes = zip((kh, kw), window.padding)
    pads = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in sizes)
    back = ConvShapes(case.out, (kh, kw, o, c), ConvWindow((1, 1), pads))
    if window.strides != (1, 1) or not is_supported(back):
        return xla_input_gradient(g, kernel, case)
    return value(g, kernel[::-1, ::-1].swapaxes(2, 3), back)


def kernel_gradient(x, g, case: ConvShapes) -> jax.Array:
    """Returns Σ_p x[p + (i, j), c] · g[p, o], slice by slice of the batch."""
    kernel, window = case.kernel, case.window
    if case.tiles:
        x, g = (a.reshape(-1, a.shape[3]) for a in (_fold(x, window.strides), g))
        return _product(x.T, g).reshape(kernel).astype(x.dtype)
    if min(kernel[2:]) >= _MANY:
        # What x and g are computed by would be computed anew while they are transposed.
        return xla_kernel_gradient(*lax.optimization_barrier((x, g)), case)
    if case.depthwise:
        part = _depthwise_gradient
    elif x.size <= g.size:  # one of the two is transposed: the smaller
        part = _gradient_by_channel
    else:
        part = _gradient_by_output
    batch, height, width, _ = g.shape
    copies = height * width * kernel[1] * x.shape[3]
    size = max(_COPIES // max(copies, 1), _PIXELS // max(height * width, 1) + 1, 2)
    part = functools.partial(part, case=case)
    total = _over_slices(part, x, g, min(size, max(batch, 1)))
    return total.reshape(kernel).astype(x.dtype)


def _over_slices(part: Callable, x, g, size: int) -> jax.Array:
    """Σ part(x_i, g_i) over slices of `size` examples; the last may be smaller."""
    count = len(x) // size
    if count < 2:
        return part(x, g)

    # Slices are cut inside the loop: of a reshaped x, XLA computes what comes before
    # it a second time.
    def add(i, total):
        pair = (lax.dynamic_slice_in_dim(a, i * size, size) for a in (x, g))
        return total + part(*pair)

    out = jax.eval_shape(part, x[:size], g[:size])
    total = lax.fori_loop(0, count, add, jnp.zeros(out.shape, out.dtype))
    whole = count * size
    return total if whole == len(x) else total + part(x[whole:], g[whole:])


def _fold(x, sides: tuple[int, int]) -> jax.Array:
    """(batch, H, W, c) to (batch, H / h, W / w, h · w · c); borders are cut off."""
    h, w = sides
    if sides == (1, 1):
        return x
    n, height, width, c = x.shape
    rows, columns = height // h, width // w
    x = x[:, : rows * h, : columns * w].reshape(n, rows, h, columns, w, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)


def _shifts(x, case: ConvShapes) -> Iterator:
    """Yields (i, j, what the output's pixels see at offset (i, j) of the kernel)."""
    (sh, sw), padding, _ = case.window
    (kh, kw), (height, width) = case.kernel[:2], case.out[1:3]
    x = jnp.pad(as_float32(x), ((0, 0), *padding, (0, 0)))
    for i, j in itertools.product(range(kh), range(kw)):
        bottom, right = i + (height - 1) * sh + 1, j + (width - 1) * sw + 1
        yield i, j, x[:, i:bottom:sh, j:right:sw]


def _gradient_by_channel(x, g, case: ConvShapes) -> jax.Array:
    """(kh) products (kw · c, pixels) · (pixels, o): x is transposed."""
    (sh, sw), (rows, sides), _ = case.window
    (kh, kw, c, o), (height, width) = case.kernel, case.out[1:3]
    # Rows before the batch: that a row's pixels of all images lie together.
    x = jnp.pad(x.transpose(3, 1, 0, 2), ((0, 0), rows, (0, 0), sides))
    ends = [j + (width - 1) * sw + 1 for j in range(kw)]
    x = jnp.concatenate([x[..., j:end:sw] for j, end in enumerate(ends)])
    g = g.transpose(1, 0, 2, 3).reshape(-1, o)
    seen = [x[:, i : i + (height - 1) * sh + 1 : sh] for i in range(kh)]
    return jnp.stack([_product(a.reshape(kw * c, -1), g) for a in seen])


def _gradient_by_output(x, g, case: ConvShapes) -> jax.Array:
    """(kh) products (o, pixels) · (pixels, kw · c): g is transposed."""
    (sh, sw), padding, _ = case.window
    (kh, kw, c, o), (height, width) = case.kernel, case.out[1:3]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    ends = [j + (width - 1) * sw + 1 for j in range(kw)]
    x = jnp.concatenate([x[:, :, j:end:sw] for j, end in enumerate(ends)], -1)
    g = g.transpose(3, 0, 1, 2).reshape(o, -1)
    seen = [x[:, i : i + (height - 1) * sh + 1 : sh] for i in range(kh)]
    parts = [_product(g, a.reshape(-1, kw * c)) for a in seen]
    return jnp.stack(parts).swapaxes(1, 2)


def _product(a, b) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=as_float32(a[:0]).dtype)


def _depthwise_gradient(x, g, case: ConvShapes) -> jax.Array:
    """Σ over pixels of shifted x times g, each channel for itself."""
    g = as_float32(g)
    rows = g.shape[0] * g.shape[1]
    # XLA's sums over leading axes are slow: rows are added by a product with ones.
    ones = jnp.ones((1, rows), g.dtype)
    parts = [
        (ones @ (k * g).reshape(rows, -1)).reshape(-1, g.shape[3]).sum(0)
        for _, _, k in _shifts(x, case)
    ]
    return jnp.stack(parts)
