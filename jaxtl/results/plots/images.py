"""Contact sheets of a data set's images."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxtl.results.plots.style import save_figure


def contact_sheet(
    images: np.ndarray,
    labels: Sequence[str],
    path: pathlib.Path,
    *,
    title: str = "",
) -> None:
    """Draws examples, with a row per label.

    Args:
      images: (n, height, width, channels) in any units; each sheet is scaled by its
        own smallest and largest value.
      labels: name of each image's class, in the order of `images`.
      path: of the PNG.
      title: above the sheet.
    """
    images = np.asarray(images, np.float32)
    low, high = images.min(), images.max()
    images = (images - low) / max(high - low, 1e-9)
    rows: dict[str, list[np.ndarray]] = {}
    for image, label in zip(images, labels):
        rows.setdefault(label, []).append(image)
    columns = max(map(len, rows.values()))
    size = (0.7 * columns + 1.6, 0.7 * len(rows) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (label, examples) in zip(grid, rows.items()):
        for axes, image in zip(row, examples):
            gray = image.shape[-1] == 1
            pixels = image[:, :, 0] if gray else image
            axes.imshow(pixels, cmap="gray" if gray else None, vmin=0, vmax=1)
        place = {"ha": "right", "va": "center", "transform": row[0].transAxes}
        row[0].text(-0.25, 0.5, label, **place)
    figure.suptitle(title, x=0.02, ha="left", fontsize=10)
    save_figure(figure, path, dpi=120)
