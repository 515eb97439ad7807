"""Two-dimensional convolution that is fast on CPU, too.

On GPU and TPU it is `lax.conv_general_dilated` and its transposes, nothing else; on CPU
`conv_cpu` has quicker ways. Which of the two is decided when a program is lowered.

With cotangents g, the value x ∗ K, the gradient by the input g ⋆ K and the gradient by
the kernel x ⋆ g are three bilinear maps, and the derivatives of each are the other two.
So they are three primitives of JAX: forward mode, reverse mode and either over the
other work, to any order, and take the quick ways all along.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxtl.core.errors import UserError, nearest
from jaxtl.models.layers import conv_cpu
from jaxtl.models.layers.conv_cpu import ConvShapes, ConvWindow, Pairs


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | tuple[int, int] = 1,
    padding: str | int | Pairs = "SAME",
    groups: int = 1,
) -> jax.Array:
    """Convolves images (in truth correlates, as every deep learning library).

    Args:
      x: (batch, height, width, channels).
      kernel: (kernel height, kernel width, channels / groups, outputs), of x's dtype.
      strides: of the window, per axis or for both.
      padding: "SAME", "VALID", zeros on all sides, or ((top, bottom), (left, right)).
      groups: groups that channels and outputs are divided into.

    Returns:
      (batch, new height, new width, outputs).
    """
    _check(x, kernel, groups)
    strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
    pairs = _pairs(padding, x.shape[1:3], kernel.shape[:2], strides)
    case = ConvShapes(x.shape, kernel.shape, ConvWindow(strides, pairs, groups))
    if not conv_cpu.is_supported(case):
        return conv_cpu.xla_value(x, kernel, case.window)
    return _value.bind(x, kernel, case=case)


class Conv(nn.Module):
    """A convolution layer; parameters and their initial values are `nn.Conv`'s.

    Attributes:
      features: output channels.
      kernel: height and width of the kernel.
      strides: of the window, per axis or for both.
      padding: as `conv` takes it.
      groups: groups that channels and features are divided into.
      use_bias: add one number per feature.
      kernel_init: initializer of the kernel.
    """

    features: int
    kernel: tuple[int, int]
    strides: int | tuple[int, int] = 1
    padding: str | int | Pairs = "SAME"
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel)
        y = conv(x, kernel, self.strides, self.padding, self.groups)
        if not self.use_bias:
            return y
        zeros = nn.initializers.zeros_init()
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        return y + bias.astype(y.dtype)


def _check(x, kernel, groups: int) -> None:
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


def _pairs(padding, image, kernel, strides) -> Pairs:
    """Returns the zeros around an image: ((top, bottom), (left, right))."""
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


def _primitive(name: str, shape: Callable, plain: Callable, quick: Callable):
    """Returns a primitive: `quick` on CPU, `plain` elsewhere.

    Args:
      name: of the primitive, as programs print it.
      shape: Case -> shape of the result.
      plain: (a, b, case) -> result, in XLA's own operations.
      quick: the same for CPU.
    """
    primitive = Primitive(f"conv_{name}")

    def evaluate(a, b, case):
        return primitive.bind(a, b, case=case)

    def abstract(a, _, case):
        return jax.core.ShapedArray(shape(case), a.dtype)

    def batch(args, axes, case):
        one = functools.partial(plain, case=case)
        return jax.vmap(one, axes)(*args), 0

    primitive.def_impl(jax.jit(evaluate, static_argnames="case"))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    by_cpu = mlir.lower_fun(quick, multiple_results=False)
    mlir.register_lowering(primitive, by_cpu, platform="cpu")
    return primitive


def _plain(x, kernel, case: ConvShapes):
    return conv_cpu.xla_value(x, kernel, case.window)


_value = _primitive("value", lambda c: c.out, _plain, conv_cpu.value)
_by_input = _primitive(
    "input_gradient",
    lambda c: c.x,
    conv_cpu.xla_input_gradient,
    conv_cpu.input_gradient,
)
_by_kernel = _primitive(
    "kernel_gradient",
    lambda c: c.kernel,
    conv_cpu.xla_kernel_gradient,
    conv_cpu.kernel_gradient,
)

# What a primitive of (a, b) is transposed to, by a and by b: ct is in its result's
# place, and the places of x, K and g tell which of the three is left.
ad.defbilinear(
    _value,
    lambda ct, x, kernel, case: _by_input.bind(ct, kernel, case=case),
    lambda ct, x, kernel, case: _by_kernel.bind(x, ct, case=case),
)
ad.defbilinear(
    _by_input,
    lambda ct, g, kernel, case: _value.bind(ct, kernel, case=case),
    lambda ct, g, kernel, case: _by_kernel.bind(ct, g, case=case),
)
ad.defbilinear(
    _by_kernel,
    lambda ct, x, g, case: _by_input.bind(g, ct, case=case),
    lambda ct, x, g, case: _value.bind(x, ct, case=case),
)
