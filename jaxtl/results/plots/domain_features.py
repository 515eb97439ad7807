"""Plots of two domains' features before and after training: PCA and t-SNE."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtl.results.plots.style import BLUE, SETTINGS, VERMILION, save_figure

_EXAMPLES = 500  # of each domain that are drawn
_CLASSES = 15  # that are drawn, those with the largest shift
_CLASSES_PER_ROW = 5
_COMPONENTS = 50  # principal components that t-SNE gets
# The domains differ by color and by shape.
_SOURCE = {"marker": "o", "facecolors": "none", "edgecolors": BLUE}
_TARGET = {"marker": "^", "color": VERMILION, "linewidths": 0}

Pair = tuple[np.ndarray, np.ndarray]


class _Projection(NamedTuple):
    """Features of both domains in two dimensions.

    Attributes:
      pca: (source, target), each (examples, 2).
      tsne: likewise.
      variances: shares of the variance that the principal components explain.
    """

    pca: Pair
    tsne: Pair
    variances: np.ndarray


@matplotlib.rc_context(SETTINGS)
def draw(diagnosis: Any, folder: pathlib.Path, *, seed: int = 0) -> list[pathlib.Path]:
    """Draws features.png, and classes.png where the domains have classes in common.

    Args:
      diagnosis: a `domain_shift.Diagnosis`.
      folder: an existing one.
      seed: of t-SNE, and of the sample of examples that are drawn.

    Returns:
      the paths of the files.
    """
    rng = np.random.default_rng(seed)
    domains = (diagnosis.source_labels, diagnosis.target_labels)
    rows = [np.sort(rng.permutation(len(y))[:_EXAMPLES]) for y in domains]
    shifts = {"before": diagnosis.before, "after": diagnosis.after}
    projections = {
        name: _project(shift.source[rows[0]], shift.target[rows[1]], seed)
        for name, shift in shifts.items()
    }
    figures = {folder / "features.png": _features(diagnosis, shifts, projections)}
    if diagnosis.class_names:
        labels = [y[domain_rows] for y, domain_rows in zip(domains, rows)]
        figures[folder / "classes.png"] = _classes(diagnosis, projections, labels)
    for path, figure in figures.items():
        save_figure(figure, path, dpi=150)
    return [*figures]


def _project(source: np.ndarray, target: np.ndarray, seed: int) -> _Projection:
    """Projects features, (examples, width) each, onto two dimensions."""
    from sklearn import decomposition, manifold

    x = np.concatenate([source, target]).astype(np.float64)
    components = min(_COMPONENTS, x.shape[1], len(x))
    pca = decomposition.PCA(components, random_state=seed)
    reduced = pca.fit_transform(x)
    if components == 1:
        reduced = np.column_stack([reduced, np.zeros(len(x))])
    # Perplexity must be below the number of examples; PCA fixes the orientation.
    tsne = manifold.TSNE(
        perplexity=min(30.0, (len(x) - 1) / 3), init="pca", random_state=seed
    )
    scale = reduced.std() or 1.0  # collapsed features have no spread
    embedded = tsne.fit_transform(reduced / scale)
    n = len(source)
    return _Projection(
        pca=(reduced[:n, :2], reduced[n:, :2]),
        tsne=(embedded[:n], embedded[n:]),
        variances=np.nan_to_num(pca.explained_variance_ratio_),
    )


def _scatter(
    axes: Axes, pair: Sequence[np.ndarray], names: tuple[str, str], size: float = 14
) -> None:
    for points, style, name in zip(pair, (_SOURCE, _TARGET), names):
        alpha = 0.75 if style is _SOURCE else 0.6
        axes.scatter(*points.T, s=size, alpha=alpha, label=name, **style)


def _remove_ticks(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#BBBBBB")


def _features(
    diagnosis: Any, shifts: Mapping[str, Any], projections: Mapping[str, _Projection]
) -> Figure:
    """A row before and a row after training; columns PCA and t-SNE."""
    figure = Figure(figsize=(9.5, 8.8), layout="constrained")
    grid = figure.subplots(2, 2)
    names = (diagnosis.source, diagnosis.target)
    for (pca_axes, tsne_axes), (name, shift) in zip(grid, shifts.items()):
        projection = projections[name]
        _scatter(pca_axes, projection.pca, names)
        _scatter(tsne_axes, projection.tsne, names)
        for axes in (pca_axes, tsne_axes):
            _remove_ticks(axes)
        measures = (
            f"{name}: A-distance {shift.distance.distance:.2f}, "
            f"MMD² {shift.discrepancy.mmd:.3g}, p {shift.discrepancy.p_text}"
        )
        pca_axes.set_title(measures, loc="left", fontsize=10)
        tsne_axes.set_title("t-SNE", loc="left", fontsize=10)
        variances = [*projection.variances[:2], 0.0]
        pca_axes.set_xlabel(
            f"PCA 1, {100 * variances[0]:.0f} % of variance", fontsize=9
        )
        pca_axes.set_ylabel(f"PCA 2, {100 * variances[1]:.0f} %", fontsize=9)
        tsne_axes.set_xlabel("t-SNE 1", fontsize=9)
        tsne_axes.set_ylabel("t-SNE 2", fontsize=9)
    _legend(figure, grid[0, 0])
    title = f"features of {diagnosis.stage}: {names[0]} and {names[1]}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)


def _classes(
    diagnosis: Any,
    projections: Mapping[str, _Projection],
    labels: Sequence[np.ndarray],
) -> Figure:
    """t-SNE with a column per class: its examples in color over all others in gray."""
    shifted = [
        diagnosis.class_names.index(before.name) for before, _ in diagnosis.rising()
    ]
    drawn = shifted[:_CLASSES]
    blocks = math.ceil(len(drawn) / _CLASSES_PER_ROW)
    columns = min(_CLASSES_PER_ROW, len(drawn))
    size = (2.1 * columns + 0.5, 4.3 * blocks + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, label in enumerate(drawn):
        for j, name in enumerate(("before", "after")):
            axes = grid[2 * (i // _CLASSES_PER_ROW) + j, i % _CLASSES_PER_ROW]
            axes.set_axis_on()
            _class_panel(axes, diagnosis, projections[name].tsne, labels, label)
            shift = getattr(diagnosis, name).classes[label].shift
            value = "–" if math.isnan(shift) else f"{shift:.2f}"
            text = f"class {diagnosis.class_names[label][:18]}, " if j == 0 else ""
            axes.set_title(f"{text}{name}: {value}", fontsize=8.5, loc="left")
    _legend(figure, grid[0, 0])
    omitted = len(diagnosis.class_names) - len(drawn)
    title = f"t-SNE of {diagnosis.stage} by class, with shifts in standard deviations"
    title += f" ({omitted} classes with less left out)" if omitted else ""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _class_panel(
    axes: Axes, diagnosis: Any, pair: Pair, labels: Sequence[np.ndarray], label: int
) -> None:
    background = [points[y != label] for points, y in zip(pair, labels)]
    axes.scatter(*np.concatenate(background).T, s=3, color="#DDDDDD", linewidths=0)
    members = [points[y == label] for points, y in zip(pair, labels)]
    _scatter(axes, members, (diagnosis.source, diagnosis.target), size=11)
    _remove_ticks(axes)
