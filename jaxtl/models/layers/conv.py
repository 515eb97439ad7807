"""Two-dimensional convolution that is fast on CPU, too.

On GPU and TPU it is `lax.conv_general_dilated` and its transposes, nothing else; on CPU
it uses the faster algorithms of `conv_cpu`. Which of the two is decided when a program
is lowered.

With cotangents g, the value x ∗ K, the gradient by the input g ⋆ K and the gradient by
the kernel x ⋆ g are three bilinear maps, and the derivatives of each are the other two.
So they are three primitives of JAX: forward mode, reverse mode and either over the
other work, to any order, and all of them use the faster algorithms.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxtl.core.errors import UserError, nearest
from jaxtl.models.layers import conv_cpu
from jaxtl.models.layers.conv_cpu import ConvShapes, ConvWindow, PaddingPairs
from jaxtl.models.layers.dense import broadcast


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | tuple[int, int] = 1,
    padding: str | int | PaddingPairs = "SAME",
    groups: int = 1,
    dilation: int = 1,
) -> jax.Array:
    """Convolves images (strictly a correlation, as in all deep learning libraries).

    Args:
      x: (batch, height, width, channels).
      kernel: (kernel height, kernel width, channels / groups, outputs), of x's dtype.
      strides: of the window, per axis or for both.
      padding: "SAME", "VALID", zeros on all sides, or ((top, bottom), (left, right)).
      groups: groups that channels and outputs are divided into.
      dilation: distance of the pixels that neighboring weights of the kernel see.

    Returns:
      (batch, new height, new width, outputs).

    Raises:
      UserError: shapes, dtypes or groups that don't fit, an unknown padding.
    """
    _check(x, kernel, groups)
    strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
    reach = tuple((side - 1) * dilation + 1 for side in kernel.shape[:2])
    pairs = _padding_pairs(padding, x.shape[1:3], reach, strides)
    if dilation > 1:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pairs,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    shapes = ConvShapes(x.shape, kernel.shape, ConvWindow(strides, pairs, groups))
    if not conv_cpu.is_supported(shapes):
        return conv_cpu.xla_value(x, kernel, shapes.window)
    return _value.bind(x, kernel, shapes=shapes)


class Conv(nn.Module):
    """A convolution layer with the parameters and initial values of `nn.Conv`.

    Attributes:
      features: output channels.
      kernel: height and width of the kernel.
      strides: of the window, per axis or for both.
      padding: as in `conv`.
      groups: groups that channels and features are divided into.
      use_bias: whether a bias per feature is added.
      kernel_init: initializer of the kernel.
      dilation: as in `conv`.
    """

    features: int
    kernel: tuple[int, int]
    strides: int | tuple[int, int] = 1
    padding: str | int | PaddingPairs = "SAME"
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel)
        y = conv(x, kernel, self.strides, self.padding, self.groups, self.dilation)
        if not self.use_bias:
            return y
        zeros = nn.initializers.zeros_init()
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        return y + broadcast(bias.astype(y.dtype), y.shape)


def _check(x: jax.Array, kernel: jax.Array, groups: int) -> None:
    fits = x.ndim == kernel.ndim == 4 and x.shape[3] == kernel.shape[2] * groups
    if not fits or kernel.shape[3] % groups:
        raise UserError(
            f"conv: x of shape {x.shape} and a kernel of shape {kernel.shape} with "
            f"groups={groups} don't fit: expected (batch, height, width, channels) and "
            "(height, width, channels / groups, outputs)."
        )
    if x.dtype != kernel.dtype:
        raise UserError(
            f"conv: x is {x.dtype} and the kernel {kernel.dtype}; expected one dtype."
        )


def _padding_pairs(
    padding: str | int | PaddingPairs,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
) -> PaddingPairs:
    """Numbers of zeros around an image: ((top, bottom), (left, right))."""
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise UserError(
                f"conv: padding={padding!r} is unknown"
                f"{nearest(padding, ('SAME', 'VALID'))} (known: SAME, VALID, an "
                "integer, or ((top, bottom), (left, right)))."
            )
        padding = lax.padtype_to_pads(image, kernel, strides, padding)
    return tuple((int(low), int(high)) for low, high in padding)


def _primitive(
    name: str,
    result_shape: Callable[[ConvShapes], tuple[int, ...]],
    plain: Callable[..., jax.Array],
    on_cpu: Callable[..., jax.Array],
) -> Primitive:
    """Defines a primitive that is lowered to `on_cpu` on CPU and to `plain` elsewhere.

    Args:
      name: of the primitive, behind "conv_" in printed programs.
      result_shape: shape of the result.
      plain: (a, b, shapes) -> result, in XLA's own operations.
      on_cpu: the same for CPU.
    """
    primitive = Primitive(f"conv_{name}")

    def evaluate(a: jax.Array, b: jax.Array, shapes: ConvShapes) -> jax.Array:
        return primitive.bind(a, b, shapes=shapes)

    def abstract(a: Any, _: Any, shapes: ConvShapes) -> jax.core.ShapedArray:
        return jax.core.ShapedArray(result_shape(shapes), a.dtype)

    def batch(args: tuple, axes: tuple, shapes: ConvShapes) -> tuple[jax.Array, int]:
        single = functools.partial(plain, shapes=shapes)
        return jax.vmap(single, axes)(*args), 0

    primitive.def_impl(jax.jit(evaluate, static_argnames="shapes"))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    cpu_lowering = mlir.lower_fun(on_cpu, multiple_results=False)
    mlir.register_lowering(primitive, cpu_lowering, platform="cpu")
    return primitive


def _plain_value(x: jax.Array, kernel: jax.Array, shapes: ConvShapes) -> jax.Array:
    return conv_cpu.xla_value(x, kernel, shapes.window)


_value = _primitive("value", lambda s: s.out, _plain_value, conv_cpu.value)
_input_gradient = _primitive(
    "input_gradient",
    lambda s: s.x,
    conv_cpu.xla_input_gradient,
    conv_cpu.input_gradient,
)
_kernel_gradient = _primitive(
    "kernel_gradient",
    lambda s: s.kernel,
    conv_cpu.xla_kernel_gradient,
    conv_cpu.kernel_gradient,
)

# The transposes of each primitive of (a, b), by a and by b. The cotangent ct takes the
# place of the result, so which of x, K and g are given tells which one is wanted.
ad.defbilinear(
    _value,
    lambda ct, x, kernel, shapes: _input_gradient.bind(ct, kernel, shapes=shapes),
    lambda ct, x, kernel, shapes: _kernel_gradient.bind(x, ct, shapes=shapes),
)
ad.defbilinear(
    _input_gradient,
    lambda ct, g, kernel, shapes: _value.bind(ct, kernel, shapes=shapes),
    lambda ct, g, kernel, shapes: _kernel_gradient.bind(ct, g, shapes=shapes),
)
ad.defbilinear(
    _kernel_gradient,
    lambda ct, x, g, shapes: _input_gradient.bind(g, ct, shapes=shapes),
    lambda ct, x, g, shapes: _value.bind(x, ct, shapes=shapes),
)
