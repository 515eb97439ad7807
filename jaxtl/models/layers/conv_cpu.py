"""Algorithms for convolutions on CPU: the value and the gradients.

XLA's CPU backend is slow at four things, which are computed here in another way; the
results are the same up to rounding (benchmarks/convolutions.py measures the factors):

- the gradient by the kernel, where channels are few. Over slices of the batch small
  enough for the cache, and for each row i of the kernel,

      dK[i, j, c, o] = Σ_p x[p + (i, j), c] · g[p, o]

  is one matrix product of the input's pixels, shifted by every j, with the gradient's;
- few channels in or out. Groups of neighboring output columns become channels: a wider
  kernel of shifted copies of the weights, applied with a wider stride;
- windows that tile the image: the convolution is then a matrix product;
- a group per channel: a sum of shifted images, each times its weights.

Products of half precision are summed in float32.
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

# Numbers in the shifted copies of one slice of the batch: 0.8 MB in float32, which a
# core's cache holds.
_SLICE_SIZE = 3 * 2**16
# Pixels below which adding up the slices would cost more than multiplying them.
_SLICE_PIXELS = 256
# Channels, in and out, from which XLA's own gradient by the kernel is the faster one.
_XLA_CHANNELS = 32

PaddingPairs = tuple[tuple[int, int], tuple[int, int]]
Shape = tuple[int, int, int, int]


class ConvWindow(NamedTuple):
    """Placement of the kernel: strides, zeros around the image, channel groups."""

    strides: tuple[int, int]
    padding: PaddingPairs
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
        """Number of output columns that are computed as one with more channels."""
        channels, outputs = self.kernel[2:]
        if outputs <= 4:
            count = 8
        elif channels < 4:
            count = 4 if outputs <= 32 else 2
        else:
            count = 2 if channels < 8 or outputs <= 8 else 1
        return min(count, self.out[2])


def is_supported(shapes: ConvShapes) -> bool:
    """Whether the algorithms here apply: not to cut borders, not to all groups."""
    (rows, sides), groups = shapes.window[1:]
    return min(*rows, *sides) >= 0 and (groups == 1 or shapes.depthwise)


def xla_value(x: jax.Array, kernel: jax.Array, window: ConvWindow) -> jax.Array:
    """The convolution by XLA's own operation."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def xla_input_gradient(
    g: jax.Array, kernel: jax.Array, shapes: ConvShapes
) -> jax.Array:
    """Gradient by the input: the transpose of `xla_value` in x."""
    like = jax.ShapeDtypeStruct(shapes.x, g.dtype)
    forward = functools.partial(xla_value, kernel=kernel, window=shapes.window)
    return jax.linear_transpose(forward, like)(g)[0]


def xla_kernel_gradient(x: jax.Array, g: jax.Array, shapes: ConvShapes) -> jax.Array:
    """Gradient by the kernel: the transpose of `xla_value` in the kernel."""
    like = jax.ShapeDtypeStruct(shapes.kernel, g.dtype)
    return jax.linear_transpose(lambda k: xla_value(x, k, shapes.window), like)(g)[0]


def value(x: jax.Array, kernel: jax.Array, shapes: ConvShapes) -> jax.Array:
    """The convolution, (batch, new height, new width, outputs)."""
    window = shapes.window
    if shapes.depthwise:
        products = (
            pixels * as_float32(kernel[i, j, 0]) for i, j, pixels in _shifts(x, shapes)
        )
        return sum(products).astype(x.dtype)
    if shapes.tiles:
        return _fold(x, window.strides) @ kernel.reshape(-1, kernel.shape[3])
    if shapes.columns == 1:
        return xla_value(x, kernel, window)
    return _several_columns(x, kernel, shapes)


def _several_columns(x: jax.Array, kernel: jax.Array, shapes: ConvShapes) -> jax.Array:
    """The convolution, with neighboring output columns as channels of one."""
    (sh, sw), (rows, (low, high)), _ = shapes.window
    (kh, kw, c, o), width, n = shapes.kernel, shapes.out[2], shapes.columns
    shifts = [(sw * i, sw * (n - 1 - i)) for i in range(n)]
    copies = [jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts]
    wide = jnp.stack(copies, 3).reshape(kh, kw + sw * (n - 1), c, n * o)
    count = -(-width // n)
    sides = (low, high + sw * (count * n - width))
    y = xla_value(x, wide, ConvWindow((sh, sw * n), (rows, sides)))
    return y.reshape(*y.shape[:2], count * n, o)[:, :, :width]


def input_gradient(g: jax.Array, kernel: jax.Array, shapes: ConvShapes) -> jax.Array:
    """Gradient by the input, of x's shape; g has the shape of the value."""
    (kh, kw, c, o), window = shapes.kernel, shapes.window
    if shapes.depthwise or shapes.tiles:
        like = jax.ShapeDtypeStruct(shapes.x, g.dtype)
        forward = functools.partial(value, kernel=kernel, shapes=shapes)
        return jax.linear_transpose(forward, like)(g)[0]
    sizes = zip((kh, kw), window.padding)
    pads = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in sizes)
    transposed = ConvShapes(shapes.out, (kh, kw, o, c), ConvWindow((1, 1), pads))
    if window.strides != (1, 1) or not is_supported(transposed):
        return xla_input_gradient(g, kernel, shapes)
    return value(g, kernel[::-1, ::-1].swapaxes(2, 3), transposed)


def kernel_gradient(x: jax.Array, g: jax.Array, shapes: ConvShapes) -> jax.Array:
    """Gradient by the kernel, Σ_p x[p + (i, j), c] · g[p, o], over batch slices."""
    kernel, window = shapes.kernel, shapes.window
    if shapes.tiles:
        x, g = (a.reshape(-1, a.shape[3]) for a in (_fold(x, window.strides), g))
        return _product(x.T, g).reshape(kernel).astype(x.dtype)
    if min(kernel[2:]) >= _XLA_CHANNELS:
        # Without the barrier, x and g would be recomputed while they are transposed.
        return xla_kernel_gradient(*lax.optimization_barrier((x, g)), shapes)
    if shapes.depthwise:
        slice_gradient = _depthwise_gradient
    elif x.size <= g.size:  # the smaller of the two is transposed
        slice_gradient = _gradient_by_channel
    else:
        slice_gradient = _gradient_by_output
    batch, height, width, _ = g.shape
    copies = height * width * kernel[1] * x.shape[3]
    size = max(
        _SLICE_SIZE // max(copies, 1), _SLICE_PIXELS // max(height * width, 1) + 1, 2
    )
    slice_gradient = functools.partial(slice_gradient, shapes=shapes)
    total = _sum_over_slices(slice_gradient, x, g, min(size, max(batch, 1)))
    return total.reshape(kernel).astype(x.dtype)


def _sum_over_slices(
    function: Callable[..., jax.Array], x: jax.Array, g: jax.Array, size: int
) -> jax.Array:
    """Σ function(x_i, g_i) over slices of `size` examples; the last may be smaller."""
    count = len(x) // size
    if count < 2:
        return function(x, g)

    # Slices are cut inside the loop: if x were reshaped, XLA would compute x a second
    # time.
    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        pair = (lax.dynamic_slice_in_dim(a, i * size, size) for a in (x, g))
        return total + function(*pair)

    out = jax.eval_shape(function, x[:size], g[:size])
    total = lax.fori_loop(0, count, add, jnp.zeros(out.shape, out.dtype))
    end = count * size
    return total if end == len(x) else total + function(x[end:], g[end:])


def _fold(x: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """(batch, H, W, c) to (batch, H / h, W / w, h · w · c); borders are cut off."""
    h, w = sides
    if sides == (1, 1):
        return x
    n, height, width, c = x.shape
    rows, columns = height // h, width // w
    x = x[:, : rows * h, : columns * w].reshape(n, rows, h, columns, w, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)


def _shifts(x: jax.Array, shapes: ConvShapes) -> Iterator[tuple[int, int, jax.Array]]:
    """Yields (i, j, input pixels that element (i, j) of the kernel multiplies)."""
    (sh, sw), padding, _ = shapes.window
    (kh, kw), (height, width) = shapes.kernel[:2], shapes.out[1:3]
    x = jnp.pad(as_float32(x), ((0, 0), *padding, (0, 0)))
    for i, j in itertools.product(range(kh), range(kw)):
        bottom, right = i + (height - 1) * sh + 1, j + (width - 1) * sw + 1
        yield i, j, x[:, i:bottom:sh, j:right:sw]


def _gradient_by_channel(x: jax.Array, g: jax.Array, shapes: ConvShapes) -> jax.Array:
    """(kh) products (kw · c, pixels) · (pixels, o): x is transposed."""
    (sh, sw), (rows, sides), _ = shapes.window
    (kh, kw, c, o), (height, width) = shapes.kernel, shapes.out[1:3]
    # Rows before the batch, so that a row's pixels of all images are contiguous.
    x = jnp.pad(x.transpose(3, 1, 0, 2), ((0, 0), rows, (0, 0), sides))
    ends = [j + (width - 1) * sw + 1 for j in range(kw)]
    x = jnp.concatenate([x[..., j:end:sw] for j, end in enumerate(ends)])
    g = g.transpose(1, 0, 2, 3).reshape(-1, o)
    rows_of = [x[:, i : i + (height - 1) * sh + 1 : sh] for i in range(kh)]
    return jnp.stack([_product(pixels.reshape(kw * c, -1), g) for pixels in rows_of])


def _gradient_by_output(x: jax.Array, g: jax.Array, shapes: ConvShapes) -> jax.Array:
    """(kh) products (o, pixels) · (pixels, kw · c): g is transposed."""
    (sh, sw), padding, _ = shapes.window
    (kh, kw, c, o), (height, width) = shapes.kernel, shapes.out[1:3]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    ends = [j + (width - 1) * sw + 1 for j in range(kw)]
    x = jnp.concatenate([x[:, :, j:end:sw] for j, end in enumerate(ends)], -1)
    g = g.transpose(3, 0, 1, 2).reshape(o, -1)
    rows_of = [x[:, i : i + (height - 1) * sh + 1 : sh] for i in range(kh)]
    products = [_product(g, pixels.reshape(-1, kw * c)) for pixels in rows_of]
    return jnp.stack(products).swapaxes(1, 2)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product, summed in float32 or wider."""
    return jnp.matmul(a, b, preferred_element_type=as_float32(a[:0]).dtype)


def _depthwise_gradient(x: jax.Array, g: jax.Array, shapes: ConvShapes) -> jax.Array:
    """Σ over pixels of shifted x times g, for each channel alone."""
    g = as_float32(g)
    rows = g.shape[0] * g.shape[1]
    # XLA's sums over leading axes are slow: rows are added by a product with ones.
    ones = jnp.ones((1, rows), g.dtype)
    sums = [
        (ones @ (pixels * g).reshape(rows, -1)).reshape(-1, g.shape[3]).sum(0)
        for _, _, pixels in _shifts(x, shapes)
    ]
    return jnp.stack(sums)
