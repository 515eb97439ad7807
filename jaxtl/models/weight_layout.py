"""How the files of other libraries name and store what our trees hold.

A family lists its tensors as rules, one per tensor, made by plain loops over its own
stages. The same rules read a file into our trees and write it back, bit for bit.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest


def _transposed(*axes: int) -> tuple[Callable, Callable]:
    back = tuple(int(i) for i in np.argsort(axes))
    return (lambda x: x.transpose(axes)), (lambda x: x.transpose(back))


# name -> (from the file to our layout, back). Kernels of ours are (…, in, out).
TRANSFORMS: dict[str, tuple[Callable, Callable]] = {
    "same": (lambda x: x, lambda x: x),
    "linear": _transposed(1, 0),  # torch Linear: (out, in)
    "conv": _transposed(2, 3, 1, 0),  # torch Conv2d: (out, in, height, width)
    "depthwise": _transposed(0, 1, 3, 2),  # Keras: (height, width, channels, 1)
    "pointwise": (lambda x: x[0, 0], lambda x: x[None, None]),  # 1×1 as a matrix
}


# Means and deviations of ImageNet's colours, which most image models are trained with.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class Rule(NamedTuple):
    """One tensor: its name in the file, its path in our tree, and how it turns.

    Attributes:
      source: name in the file.
      path: "stage/…/leaf"; leaves named `mean` and `var` are statistics.
      how: a key of `TRANSFORMS`.
    """

    source: str
    path: str
    how: str = "same"

    @property
    def is_stat(self) -> bool:
        return self.path.rsplit("/", 1)[-1] in ("mean", "var")


@dataclasses.dataclass(frozen=True)
class WeightLayout:
    """All tensors of one architecture, in the naming of one library.

    Attributes:
      rules: one per tensor.
      ignored: regular expressions (whole name) of tensors that the architecture has
        no use for: counters, buffers that can be computed.
      prefixes: leading parts of names that a file may have or lack ("module.").
      stem: path of the kernel that reads the image's channels, "" for none.
      mean, std: what such weights expect images in [0, 1] to be normalised with; ()
        where they are no image model's.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    stem: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def linear(source: str, path: str, bias: bool = True) -> list[Rule]:
    """Rules of a torch Linear."""
    rules = [Rule(f"{source}.weight", f"{path}/kernel", "linear")]
    return rules + [Rule(f"{source}.bias", f"{path}/bias")] * bias


def conv(source: str, path: str, bias: bool = False) -> list[Rule]:
    """Rules of a torch Conv2d."""
    rules = [Rule(f"{source}.weight", f"{path}/kernel", "conv")]
    return rules + [Rule(f"{source}.bias", f"{path}/bias")] * bias


def norm(source: str, path: str) -> list[Rule]:
    """Rules of a torch LayerNorm."""
    return [
        Rule(f"{source}.weight", f"{path}/scale"),
        Rule(f"{source}.bias", f"{path}/bias"),
    ]


def batch_norm(source: str, path: str) -> list[Rule]:
    """Rules of a torch BatchNorm2d, without its counter."""
    return [
        *norm(source, path),
        Rule(f"{source}.running_mean", f"{path}/mean"),
        Rule(f"{source}.running_var", f"{path}/var"),
    ]


def keras_batch_norm(source: str, path: str) -> list[Rule]:
    """Rules of a Keras BatchNormalization."""
    names = {
        "gamma": "scale",
        "beta": "bias",
        "moving_mean": "mean",
        "moving_variance": "var",
    }
    return [Rule(f"{source}/{k}", f"{path}/{v}") for k, v in names.items()]


# torch counts the batches that a BatchNorm saw; nothing in a forward pass reads it.
COUNTERS = r".*num_batches_tracked"

# Hugging Face's names of activations -> ours.
ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def activation_name(name: str) -> str:
    """Returns our name of an activation in a config.json."""
    if name not in ACTIVATIONS:
        raise UserError(
            f"config.json: the activation {name!r} is unknown"
            f"{nearest(name, ACTIVATIONS)} (known: {', '.join(ACTIVATIONS)})."
        )
    return ACTIVATIONS[name]
