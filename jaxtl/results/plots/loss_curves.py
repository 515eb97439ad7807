"""The losses of one run over its steps: of training batches, and on val."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxtl.results.plots.panels import WIDTH, save
from jaxtl.results.plots.style import BLACK, SETTINGS, VERMILION, open_axes

_ON_VAL = ("nll", "label_nll", "token_nll", "mse")  # losses among the metrics
_SMOOTHED = 40  # logged steps above which a running mean is drawn over them


@matplotlib.rc_context(SETTINGS)
def loss_curves(
    curve: Mapping[str, Any], chosen: int | None, path: pathlib.Path
) -> pathlib.Path | None:
    """Draws the losses, and the step of the chosen checkpoint.

    Args:
      curve: as `Record.curve`.
      chosen: that step; None draws no line.
      path: of the PNG.

    Returns:
      the PNG's path, None without two logged steps.
    """
    steps = np.asarray(curve.get("step", ()), float)
    losses = np.array([math.nan if x is None else x for x in curve.get("loss", ())])
    if len(steps) < 2:
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    is_long = len(steps) > _SMOOTHED
    axes.plot(
        steps, losses, color=BLACK, alpha=0.3 if is_long else 1, label="train batches"
    )
    if is_long:
        width = max(3, len(steps) // 20)
        mean = np.convolve(losses, np.ones(width) / width, "valid")
        label = f"mean of {width} logged steps"
        axes.plot(steps[width - 1 :], mean, color=BLACK, label=label)
    rows = curve.get("val", ())
    name = next((n for n in _ON_VAL if any(n in row for row in rows)), None)
    if name is not None:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        x, y = zip(*points) if points else ((), ())
        axes.plot(x, y, "o-", color=VERMILION, markersize=4, label=f"{name} on val")
    if chosen:
        label = f"chosen: step {chosen:,}"
        axes.axvline(chosen, color=VERMILION, linestyle=":", label=label)
    axes.set_xlabel("training steps")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    open_axes(axes)
    return save(figure, path, "Losses over the steps of training")
