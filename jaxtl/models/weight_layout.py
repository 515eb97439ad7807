"""Weight layouts: how the files of other libraries name and store a model's leaves.

A model family lists its tensors as rules, one per tensor, in plain loops over its
stages. The same rules read a file into jaxtl's trees and write it back, bit for bit.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


def _transposed(*axes: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """A transposition and its inverse."""
    inverse = tuple(int(i) for i in np.argsort(axes))
    return (lambda x: x.transpose(axes)), (lambda x: x.transpose(inverse))


def _without(*axes: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """What takes out axes of one element each, and its inverse.

    An axis of several elements is a ValueError: none of them may get lost.
    """
    return (lambda x: x.squeeze(axes)), (lambda x: np.expand_dims(x, axes))


def _with(*axes: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The inverse of `_without`: it adds the axes."""
    forward, inverse = _without(*axes)
    return inverse, forward


# name -> (from the file's layout to jaxtl's, its inverse). jaxtl's kernels are
# (…, in, out).
TRANSFORMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "same": (lambda x: x, lambda x: x),
    "linear": _transposed(1, 0),  # torch Linear: (out, in)
    # torch Linear, or a Conv2d of 1×1 in its place; written as Linear
    "linear_or_conv": (lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T),
    "conv": _transposed(2, 3, 1, 0),  # torch Conv2d: (out, in, height, width)
    "conv1d": _transposed(2, 1, 0),  # torch Conv1d: (out, in, length)
    "depthwise": _transposed(0, 1, 3, 2),  # Keras: (height, width, channels, 1)
    "pointwise": _without(0, 1),  # Keras: (1, 1, in, out)
    "last_axis": _without(0, 1, 2),  # (1, 1, 1, n)
    "leading": _with(0),
    "first": _without(0),
    "vector": _with(0, 1),
    # torch Conv2d of 1×1 as a matrix: (out, in, 1, 1)
    "conv1x1": (lambda x: x.squeeze((2, 3)).T, lambda x: x.T[:, :, None, None]),
}
_FLATTENED = "flattened:"  # before a number of channels


def transform(name: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """A transform and its inverse.

    Args:
      name: a key of `TRANSFORMS`, or "flattened:64": a torch Linear whose input is an
        image of 64 channels. torch flattens (channels, height, width), jaxtl (height,
        width, channels).
    """
    if not name.startswith(_FLATTENED):
        return TRANSFORMS[name]
    channels = int(name.removeprefix(_FLATTENED))

    def forward(x: Any) -> Any:
        return x.reshape(len(x), channels, -1).transpose(2, 1, 0).reshape(-1, len(x))

    def inverse(x: Any) -> Any:
        units = x.shape[-1]
        return x.reshape(-1, channels, units).transpose(2, 1, 0).reshape(units, -1)

    return forward, inverse


# Means and standard deviations of the colors that image models are trained with:
# ImageNet's, CLIP's, or halves, which scale images to [−1, 1].
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class Rule(NamedTuple):
    """One tensor: its name in the file, its path in the tree, and its transform.

    Attributes:
      source: name in the file; "name[1]" is the second of the equal parts along the
        first axis that the tensor of this name joins.
      path: "stage/…/leaf"; leaves named `mean` and `var` are statistics.
      transform: as `transform` takes it.
    """

    source: str
    path: str
    transform: str = "same"

    @property
    def is_stat(self) -> bool:
        """Whether the leaf is one of BatchNorm's statistics."""
        return self.path.rsplit("/", 1)[-1] in ("mean", "var")


@dataclasses.dataclass(frozen=True)
class WeightLayout:
    """All tensors of one architecture, in the naming of one library.

    Attributes:
      rules: one per tensor.
      ignored: regular expressions (whole name) of tensors that the architecture has
        no use for: counters, buffers that can be computed.
      unused: likewise, of parts that the model does not have: heads of other tasks.
      prefixes: leading parts of names that a file may have or lack ("module.").
      renames: (regular expression, replacement) of parts of names that other versions
        of the library wrote.
      modules: (regular expression, replacement) of parts of the names that modules have
        in newer versions of the library, whose files keep the older names.
      copies: name -> path of the leaf that a tensor repeats: it stands in for a leaf
        that the file lacks, and must be equal to one that the file has.
      duplicates: name -> path of the leaf that a tensor holds as well, though no pass
        of the library reads it there: it is written, and not read.
      optional: stages that stay at their initial values where the file has no tensor
        of them, as in the library.
      stem: path of the kernel that reads the image's channels, "" for none.
      mean, std: normalization of images in [0, 1] that such weights expect; () for
        models that read no images.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    duplicates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ()
    stem: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def joined(self) -> dict[str, int]:
        """Name of each tensor that joins the sources of rules -> their number."""
        names = (rule.source.partition("[") for rule in self.rules)
        return dict(collections.Counter(name for name, bracket, _ in names if bracket))


def linear(source: str, path: str, bias: bool = True, channels: int = 1) -> list[Rule]:
    """Rules of a torch Linear; `channels` of the image that its input flattens."""
    kind = "linear" if channels == 1 else f"{_FLATTENED}{channels}"
    rules = [Rule(f"{source}.weight", f"{path}/kernel", kind)]
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


def squeeze_excite(source: str, path: str, names: tuple[str, str]) -> list[Rule]:
    """Rules of a squeeze-and-excitation of two torch 1×1 convolutions."""
    return [
        rule
        for name, layer in zip(names, ("reduce", "expand"))
        for rule in (
            Rule(f"{source}.{name}.weight", f"{path}/{layer}/kernel", "conv1x1"),
            Rule(f"{source}.{name}.bias", f"{path}/{layer}/bias"),
        )
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


# torch counts the batches of each BatchNorm; no forward pass reads the counters.
COUNTERS = r".*num_batches_tracked"
