"""Time of single convolutions: jaxtl's, XLA's own and torch's.

The layers of a LeNet, a ResNet-20 and a MobileNet, one by one: the value and both
gradients as `layers/conv_cpu.py` computes them, as XLA does under the same compiler
options (`layers/conv.py` outside the CPU), and as torch does. One compiled call each, a
few in a row, in turn.
"""

import functools
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
from torch.nn import functional as F
from torch.nn import grad as torch_grad

from jaxtl.core import compilation, devices
from jaxtl.models.layers import conv_cpu
from jaxtl.models.layers.conv_cpu import ConvShapes, ConvWindow

CALLS = 8  # in a row, since one is too short to be timed


class Layer(NamedTuple):
    """A convolution with kernel² weights that keeps the image's size."""

    name: str
    side: int
    channels: int
    outputs: int
    kernel: int = 3
    groups: int = 1
    batch: int = 128

    @property
    def case(self) -> ConvShapes:
        """Shapes of the inputs and of the kernel."""
        pad, inputs = self.kernel // 2, self.channels // self.groups
        return ConvShapes(
            (self.batch, self.side, self.side, self.channels),
            (self.kernel, self.kernel, inputs, self.outputs),
            ConvWindow((1, 1), ((pad, pad), (pad, pad)), self.groups),
        )


LAYERS = (
    Layer("LeNet, first", 28, 1, 32, kernel=5),
    Layer("LeNet, second", 14, 32, 48, kernel=5),
    Layer("ResNet-20, stem", 32, 3, 16),
    Layer("ResNet-20, stage 1", 32, 16, 16),
    Layer("ResNet-20, stage 2", 16, 32, 32),
    Layer("ResNet-20, stage 3", 8, 64, 64),
    Layer("MobileNet, depthwise", 28, 64, 64, groups=64, batch=32),
    Layer("MobileNet, pointwise", 28, 64, 64, kernel=1, batch=32),
)


def works(layer: Layer):
    """{operation: {library: a function that computes it}} of a layer."""
    case, pad, groups = layer.case, layer.kernel // 2, layer.groups
    rng = np.random.default_rng(0)
    shapes = case.x, case.kernel, case.out
    x, kernel, g = (rng.normal(size=s).astype(np.float32) for s in shapes)
    tx, tg = (torch.tensor(a.transpose(0, 3, 1, 2).copy()) for a in (x, g))
    tk = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
    options = {"padding": pad, "groups": groups}

    def compiled(f, *arrays):
        options = compilation.default_options()
        run = jax.jit(lambda *a: f(*a, case), compiler_options=options)
        arrays = [jnp.asarray(a) for a in arrays]
        return lambda: run(*arrays).block_until_ready()

    def plain(x, kernel, case):
        return conv_cpu.xla_value(x, kernel, case.window)

    return {
        "value": {
            "jaxtl": compiled(conv_cpu.value, x, kernel),
            "XLA": compiled(plain, x, kernel),
            "torch": lambda: F.conv2d(tx, tk, **options),
        },
        "by input": {
            "jaxtl": compiled(conv_cpu.input_gradient, g, kernel),
            "XLA": compiled(conv_cpu.xla_input_gradient, g, kernel),
            "torch": lambda: torch_grad.conv2d_input(tx.shape, tk, tg, **options),
        },
        "by kernel": {
            "jaxtl": compiled(conv_cpu.kernel_gradient, x, g),
            "XLA": compiled(conv_cpu.xla_kernel_gradient, x, g),
            "torch": lambda: torch_grad.conv2d_weight(tx, tk.shape, tg, **options),
        },
    }


def measure(layer: Layer, rounds: int) -> list[timing.Row]:
    """Measures one layer's rows of the table."""
    rows = []
    for operation, functions in works(layer).items():
        calls = {n: functools.partial(_repeat, f) for n, f in functions.items()}
        clock = timing.alternate(calls, rounds).clock
        ms = {name: 1e3 * statistics.median(t) / CALLS for name, t in clock.items()}
        rows.append(
            {
                "layer": layer.name,
                "kernel": " × ".join(map(str, layer.case.kernel)),
                "what": operation,
                "jaxtl, ms": ms["jaxtl"],
                "XLA, ms": ms["XLA"],
                "torch, ms": ms["torch"],
                "XLA / jaxtl": timing.ratio(clock, "XLA", "jaxtl"),
                "torch / jaxtl": timing.ratio(clock, "torch", "jaxtl"),
            }
        )
    return rows


def _repeat(function: Callable[[], object]) -> None:
    for _ in range(CALLS):
        function()


def main(argv=None) -> list[list[timing.Row]]:
    options = timing.options(__doc__, argv)
    torch.set_num_threads(devices.core_count())
    layers = [LAYERS[0]._replace(batch=2)] if options.quick else LAYERS
    rounds = 3 if options.quick else 9
    rows = [row for layer in layers for row in measure(layer, rounds)]
    timing.report("Convolutions alone, on CPU", [rows], options.json)
    return [rows]


if __name__ == "__main__":
    main()
