"""MultiMNIST: two overlapping digits in one image, a task for each."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import paths, task_outputs
from jaxtl.data.dataset import MULTITASK, Data, Table
from jaxtl.data.sources import array_files

_SIDE, _CANVAS, _SHIFT = 28, 36, 6
_DIGITS = tuple("0123456789")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiMNIST(Data):
    """Pairs of MNIST digits, one at the top left and one at the bottom right.

    Each image of a split is paired with one of the same split, drawn at random. Both
    lie on 36×36 pixels, the second 6 pixels below and to the right of the first; a
    pixel has the larger of both values. The whole is brought to 28×28 (the nearest
    pixel) and its largest value to 255. The tasks are "left" and "right", ten classes
    each. Train and test are MNIST's own.

    Attributes:
      path: `.npz` with x_train, y_train, x_test and y_test, (n, 28, 28) uint8.
      pairs_seed: of the drawn pairs.

    References:
      Sabour, Frosst & Hinton, Dynamic Routing Between Capsules, NeurIPS 2017; Sener &
      Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018,
      section 5.1, and the program of the authors (github.com/isl-org/
      MultiObjectiveOptimization, multi_mnist_loader.py).
    """

    path: str = dataclasses.field(default="mnist.npz", kw_only=False)
    pairs_seed: int = 0

    def read(self) -> Table:
        """Pairs the images of train and of test."""
        path = paths.find(self.path, "MultiMNIST.path")
        entries = array_files.open_arrays(path)
        x, left, right, splits, first = [], [], [], {}, 0
        for index, split in enumerate(("train", "test")):
            images = array_files.entry(entries, f"x_{split}", path, "MultiMNIST.path")
            digits = array_files.entry(entries, f"y_{split}", path, "MultiMNIST.path")
            if images.shape[1:] != (_SIDE, _SIDE) or images.dtype != np.uint8:
                raise UserError(
                    f"MultiMNIST.path: x_{split} of {path.name} is {images.dtype} of "
                    f"shape {images.shape}; expected uint8 of shape (n, 28, 28)."
                )
            rng = np.random.default_rng([self.pairs_seed, index])
            others = rng.integers(0, len(images), len(images))
            x.append(overlaid(images, images[others]))
            left.append(digits)
            right.append(digits[others])
            splits[split] = np.arange(first, first + len(images))
            first += len(images)
        labels = {
            task: task_outputs.of_array(
                np.concatenate(part), "classification", _DIGITS, f"MultiMNIST {task}"
            )
            for task, part in (("left", left), ("right", right))
        }
        y, names, _ = task_outputs.packed(labels, "MultiMNIST")
        return Table(
            x=np.concatenate(x)[..., None],
            y=y,
            class_names=names,
            task=MULTITASK,
            splits=splits,
        )


def overlaid(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Images of two digits, uint8 (n, 28, 28).

    Args:
      left: (n, 28, 28) uint8, put at the top left of 36×36 pixels.
      right: the same, `_SHIFT` pixels below and to the right of it.
    """
    canvas = np.zeros((len(left), _CANVAS, _CANVAS), np.uint8)
    canvas[:, :_SIDE, :_SIDE] = left
    part = canvas[:, _SHIFT : _SHIFT + _SIDE, _SHIFT : _SHIFT + _SIDE]
    np.maximum(part, right, out=part)
    nearest = ((np.arange(_SIDE) + 0.5) * _CANVAS / _SIDE).astype(int)
    largest = np.maximum(canvas.max((1, 2), keepdims=True), 1).astype(np.float64)
    small = canvas[:, nearest][:, :, nearest] * (255.0 / largest)
    return (small + 0.5).astype(np.uint8)
