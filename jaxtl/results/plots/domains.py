"""Pictures of two domains' features, before and after: PCA and t-SNE, and by class."""

import math
import pathlib

import numpy as np
from matplotlib.figure import Figure

from jaxtl.results.plots.base import COLOURS

MOST = 500  # examples of each domain that are drawn
CLASSES = 15  # classes that are drawn, those apart most
_ROW = 5  # classes side by side
_WIDTHS = 50  # principal components that t-SNE sees
# Told apart by colour and by shape.
_SOURCE = {"marker": "o", "facecolors": "none", "edgecolors": COLOURS[5]}
_TARGET = {"marker": "^", "color": COLOURS[4], "linewidths": 0}


def draw(found, folder: pathlib.Path, *, seed: int = 0) -> list:
    """Writes features.png, and classes.png where the domains share classes.

    Args:
      found: a `diagnosis.Diagnosis`.
      folder: an existing one.
      seed: of t-SNE, and of the examples that are drawn.

    Returns:
      The files.
    """
    rng = np.random.default_rng(seed)
    picks = [
        np.sort(rng.permutation(len(y))[:MOST])
        for y in (found.source_labels, found.target_labels)
    ]
    sides = {"before": found.before, "after": found.after}
    points = {name: _points(side, picks, seed) for name, side in sides.items()}
    made = {folder / "features.png": _features(found, sides, points)}
    if found.class_names:
        labels = [
            y[pick]
            for y, pick in zip((found.source_labels, found.target_labels), picks)
        ]
        made[folder / "classes.png"] = _classes(found, points, labels)
    for path, figure in made.items():
        figure.savefig(path, dpi=150)
    return [*made]


def _points(side, picks, seed: int) -> dict:
    """Returns {"PCA": (source, target), "t-SNE": …} of (n, 2) places, and shares."""
    from sklearn import decomposition, manifold

    source, target = side.source[picks[0]], side.target[picks[1]]
    x = np.concatenate([source, target]).astype(np.float64)
    components = min(_WIDTHS, x.shape[1], len(x))
    pca = decomposition.PCA(components, random_state=seed)
    reduced = pca.fit_transform(x)
    if components == 1:
        reduced = np.column_stack([reduced, np.zeros(len(x))])
    # t-SNE takes no more neighbours than there are; its start fixes its orientation.
    tsne = manifold.TSNE(
        perplexity=min(30.0, (len(x) - 1) / 3), init="pca", random_state=seed
    )
    # A collapsed feature has no spread to start from.
    scale = reduced.std() or 1.0
    places = {"PCA": reduced[:, :2], "t-SNE": tsne.fit_transform(reduced / scale)}
    cut = {name: (xy[: len(source)], xy[len(source) :]) for name, xy in places.items()}
    return {**cut, "shares": np.nan_to_num(pca.explained_variance_ratio_)}


def _scatter(axis, pair, *, size: float = 14, label=None) -> None:
    for xy, style, name in zip(pair, (_SOURCE, _TARGET), label or (None, None)):
        alpha = 0.75 if style is _SOURCE else 0.6
        axis.scatter(xy[:, 0], xy[:, 1], s=size, alpha=alpha, label=name, **style)


def _bare(axis) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color("#BBBBBB")


def _features(found, sides, points) -> Figure:
    figure = Figure(figsize=(9.5, 8.8), layout="constrained")
    axes = figure.subplots(2, 2)
    for row, (name, side) in zip(axes, sides.items()):
        said = (
            f"{name}: A-distance {side.distance.distance:.2f}, "
            f"MMD² {side.discrepancy.mmd:.3g}, p {side.discrepancy.p_text}"
        )
        for axis, kind in zip(row, ("PCA", "t-SNE")):
            _scatter(axis, points[name][kind], label=(found.source, found.target))
            _bare(axis)
            axis.set_title(said if axis is row[0] else kind, loc="left", fontsize=10)
        shares = [*points[name]["shares"][:2], 0.0]
        row[0].set_xlabel(f"PCA 1, {100 * shares[0]:.0f} % of variance", fontsize=9)
        row[0].set_ylabel(f"PCA 2, {100 * shares[1]:.0f} %", fontsize=9)
        row[1].set_xlabel("t-SNE 1", fontsize=9)
        row[1].set_ylabel("t-SNE 2", fontsize=9)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    title = f"features of {found.stage}: {found.source} and {found.target}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _classes(found, points, labels) -> Figure:
    """t-SNE once more, a column per class: its examples over all others in grey."""
    order = [found.class_names.index(b.name) for b, _ in found.rising()][:CLASSES]
    blocks = math.ceil(len(order) / _ROW)
    columns = min(_ROW, len(order))
    size = (2.1 * columns + 0.5, 4.3 * blocks + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, label in enumerate(order):
        for j, name in enumerate(("before", "after")):
            axis = axes[2 * (i // _ROW) + j, i % _ROW]
            axis.set_axis_on()
            pair = points[name]["t-SNE"]
            rest = np.concatenate([xy[y != label] for xy, y in zip(pair, labels)])
            axis.scatter(rest[:, 0], rest[:, 1], s=3, color="#DDDDDD", linewidths=0)
            mine = [xy[y == label] for xy, y in zip(pair, labels)]
            _scatter(axis, mine, size=11, label=(found.source, found.target))
            _bare(axis)
            shift = getattr(found, name).classes[label].shift
            value = "–" if math.isnan(shift) else f"{shift:.2f}"
            text = f"{found.class_names[label][:18]}, " if j == 0 else ""
            axis.set_title(f"{text}{name}: {value}", fontsize=8.5, loc="left")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    left = len(found.class_names) - len(order)
    title = f"t-SNE of {found.stage} by class; the number: shift in deviations"
    title += f" ({left} classes with less left out)" if left else ""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure
