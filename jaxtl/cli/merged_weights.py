"""Weights that `jaxtl wise` and `jaxtl soup` compute: their test and their file."""

import pathlib
from typing import TYPE_CHECKING, Union

from jaxtl.cli import formatting
from jaxtl.core import console
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from jaxtl.analysis.weight_space import Soup, WiseFTCurve
    from jaxtl.training.run import Run


def check_save_path(path: pathlib.Path | None) -> None:
    """Checks, before any work, that nothing lies where weights are to be written.

    Raises:
      UserError: the path exists.
    """
    if path is not None and path.exists():
        raise UserError(
            f"--out {path}: it exists already and is not overwritten; choose another."
        )


def print_test_metric(name: str, merged: Union["WiseFTCurve", "Soup"]) -> None:
    """Prints the monitored metric on test, where it was measured.

    Args:
      name: of the weights: "the soup".
      merged: the weights and their metrics.
    """
    if merged.test is not None:
        value = formatting.metric_cell(merged.test, merged.monitor)
        print(f"test {merged.monitor} of {name}: {value}")


def save(
    path: pathlib.Path | None, run: "Run", merged: Union["WiseFTCurve", "Soup"]
) -> None:
    """Writes weights, and prints how an experiment loads them.

    Args:
      path: a folder that does not exist; None writes nothing.
      run: whose preprocessing the weights need.
      merged: the weights.
    """
    if path is None:
        return
    from jaxtl.analysis import weight_space

    weight_space.save(path, run, merged.params, merged.stats)
    loader = f"init=tl.pretrained.FromCheckpoint({str(path)!r})"
    console.print_written(path, hint=f"read the weights with {loader}")
