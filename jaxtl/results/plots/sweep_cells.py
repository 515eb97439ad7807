"""Pictures of a sweep's cells: how they learned, where the winner errs, what it claims.

And what all pictures of a sweep share: frames, legends, saving. They are read in a
column of a page, 600 pixels wide.
"""

import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxtl.core.errors import UserError
from jaxtl.results.plots import view as plots_view
from jaxtl.results.plots.base import COLOURS, MARKERS
from jaxtl.results.plots.view import View
from jaxtl.results.statistics import t_interval

WIDE = 7.0  # inches, of which 600 px leave 86 px each
_STYLES = ("-", "--", ":", "-.")
MOST = 16  # lines
_CROWD = 6  # more bands than these hide each other


def style(i: int) -> dict:
    """Returns colour, marker and dashes of the i-th line; each of 32 differs."""
    turn = i // len(COLOURS)
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[(i + turn) % len(MARKERS)],
        "linestyle": _STYLES[turn % len(_STYLES)],
    }


def frames(titles: Sequence[str], *, share_x: bool = True):
    """Returns (figure, axes): a panel per title, two in a row, with shared y."""
    count = max(len(titles), 1)
    columns, rows = min(count, 2), math.ceil(count / 2)
    figure = Figure(figsize=(WIDE, 1.4 + 3.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=share_x)
    flat = list(grid.flat)
    for axis in flat[count:]:
        axis.set_axis_off()
    for axis, title in zip(flat, titles):
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, flat[:count]


def outer_labels(axes, x: str, y: str) -> None:
    """Names x below the lowest panels and y beside the left ones."""
    for i, axis in enumerate(axes):
        if i + 2 >= len(axes):
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
        if i % 2 == 0:
            axis.set_ylabel(y)


def legend(figure, axes, title: str = "") -> None:
    """Puts one legend of all panels below them; none for a single unnamed line."""
    handles: dict = {}
    for axis in axes:
        found, names = axis.get_legend_handles_labels()
        handles.update(zip(names, found))
    handles.pop("", None)
    if handles:
        shown = {
            textwrap.shorten(n, 40, placeholder="…"): h for n, h in handles.items()
        }
        columns = max(1, min(4, 84 // (max(map(len, shown)) + 7)))
        rows = math.ceil(len(shown) / columns)
        figure.set_figheight(figure.get_figheight() + 0.19 * max(rows - 2, 0))
        figure.legend(
            shown.values(),
            shown.keys(),
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            fontsize=9,
            title=title or None,
            alignment="left",
        )


def save(figure, path: pathlib.Path, title: str) -> pathlib.Path:
    """Writes PNG and SVG under a title; returns the PNG's path."""
    figure.suptitle(textwrap.fill(title, 78), x=0.01, ha="left", fontsize=11)
    path = pathlib.Path(path).with_suffix(".png")
    figure.savefig(path, dpi=150)
    # The same results give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(
            path.with_suffix(".svg"), metadata={"Date": None, "Title": title}
        )
    return path


def learning_curves(view: View, path: pathlib.Path) -> pathlib.Path | None:
    """Draws the val metric over steps: mean and 95 % band over seeds.

    A line per value of the compared axis (where there is none: of the first condition
    or tuned axis), at its setting that is best on val; a panel per condition. Steps
    that not all seeds reached are left out.

    Returns:
      the PNG's path, None where no curve has two evaluations.
    """
    if view.line is None and (others := (*view.conditions, *view.tuned)):
        view = view.lined(others[0])
    names = list(view.lines(view.records, MOST))
    drawn, panels = [], []
    for condition in view.panels():
        lines = view.lines(view.within(condition))
        panel = []
        for i, name in enumerate(names):
            best = view.chosen(lines.get(name, ()))
            curve = _curve(best, view.metric)
            if curve is not None and len(curve[0]) > 1:
                panel.append((i, name, curve))
                drawn.append(best)
        if panel:
            panels.append((plots_view.said(condition), panel))
    if not panels:
        return None
    figure, frame = frames([title for title, _ in panels])
    for axis, (_, panel) in zip(frame, panels):
        for i, name, (steps, values) in panel:
            _band(axis, steps, view.factor * values, name, i, len(panel))
    outer_labels(frame, "training steps", view.label("val"))
    legend(figure, frame, plots_view.name(view.line) if view.line else "")
    several = max(map(len, drawn)) > 1
    band = ", mean" + (" and 95 % band" * _banded(panels)) if several else ""
    title = f"Learning curves: val {view.metric}{band}, {plots_view.seeds(drawn)}"
    return save(figure, path, title + ("; settings chosen on val" * bool(view.tuned)))


def _banded(panels) -> bool:
    return any(len(panel) <= _CROWD for _, panel in panels)


def _curve(records, metric: str):
    """Returns (steps, values (seeds, steps)) of the steps that all seeds have."""
    found = [
        {row["step"]: row[metric] for row in r.curve.get("val", ()) if metric in row}
        for r in records
    ]
    found = [seed for seed in found if seed]
    if not found:
        return None
    steps = sorted(set.intersection(*map(set, found)))
    values = [[_float(seed[s]) for s in steps] for seed in found]
    return np.array(steps), np.array(values, float)


def _float(value) -> float:
    return math.nan if value is None else float(value)


def _band(axis, steps, values, name, i, count):
    estimates = [t_interval(v) for v in values.T]
    mean = np.array([e.mean for e in estimates])
    half = np.array([e.half or 0.0 for e in estimates])
    look = style(i)
    every = max(1, len(steps) // 8)
    axis.plot(
        steps, mean, label=name, markevery=every, markersize=4, linewidth=1.5, **look
    )
    if count <= _CROWD:
        low, high = mean - half, mean + half
        axis.fill_between(
            steps, low, high, color=look["color"], alpha=0.15, linewidth=0
        )


def details(records) -> Mapping:
    """Returns the details of one setting with its seeds' counts added up.

    Confusions add; a bin's confidence and accuracy are means weighted by its counts.

    Raises:
      UserError: seeds that don't have the same classes.
    """
    found = [r.result["details"] for r in records if r.result.get("details")]
    if not found:
        return {}
    if any(d["classes"] != found[0]["classes"] for d in found):
        raise UserError("the seeds of one setting don't have the same classes.")
    pooled = {"split": found[0]["split"], "classes": found[0]["classes"]}
    pooled["n"] = len(found)
    pooled["confusion"] = np.sum([d["confusion"] for d in found], axis=0)
    bins = [d["reliability"] for d in found if d.get("reliability")]
    if bins:
        counts = np.array([b["count"] for b in bins], float)
        total = counts.sum(0)
        pooled["reliability"] = {"count": total}
        for part in ("confidence", "accuracy"):
            means = [[0.0 if v is None else v for v in b[part]] for b in bins]
            sums = (counts * np.array(means, float)).sum(0)
            empty = np.full_like(sums, np.nan)
            mean = np.divide(sums, total, out=empty, where=total > 0)
            pooled["reliability"][part] = mean
    return pooled


def confusion(found: Mapping, path: pathlib.Path, *, of: str = "") -> pathlib.Path:
    """Draws a confusion matrix: shares of each true class, counts where they fit.

    Args:
      found: `details` of a setting.
      path: where to write.
      of: the setting in words.
    """
    counts = np.asarray(found["confusion"], float)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    k, names = len(counts), [textwrap.shorten(str(c), 14) for c in found["classes"]]
    size = min(WIDE, max(4.5, 1.8 + 0.48 * k))
    figure = Figure(figsize=(WIDE, size), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    if k <= 12:
        for i, j in np.ndindex(k, k):
            if counts[i, j]:
                shown = f"{100 * shares[i, j]:.0f}"
                colour = "white" if shares[i, j] > 0.5 else "black"
                place = {"ha": "center", "va": "center", "fontsize": 8}
                axis.text(j, i, "<1" if shown == "0" else shown, color=colour, **place)
    every = max(1, math.ceil(k / 25))
    long = max(map(len, names)) > 3
    axis.set_xticks(
        range(0, k, every), names[::every], rotation=90 if long else 0, fontsize=8
    )
    axis.set_yticks(range(0, k, every), names[::every], fontsize=8)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    figure.colorbar(picture, ax=axis, label="share of the true class (%)", shrink=0.8)
    accuracy = counts.trace() / max(counts.sum(), 1)
    title = f"Confusion on {found['split']}{of and ', ' + of}: {100 * accuracy:.1f} % "
    title += f"of {counts.sum():,.0f} right, {found['n']} seed(s) added up"
    return save(figure, path, title.replace("seed(s)", _seeds(found["n"])))


def _seeds(n: int) -> str:
    return "seeds" if n > 1 else "seed"


def reliability(found: Mapping, path: pathlib.Path, *, of: str = "") -> pathlib.Path:
    """Draws accuracy against confidence by bins, above how many examples lie in each.

    ECE in the title is of the pooled seeds: Σ_b n_b / N · |accuracy_b − confidence_b|.

    Args:
      found: `details` of a setting.
      path: where to write.
      of: the setting in words.
    """
    bins = found["reliability"]
    counts, confidence = np.asarray(bins["count"]), np.asarray(bins["confidence"])
    accuracy, there = np.asarray(bins["accuracy"]), np.asarray(bins["count"]) > 0
    edges = np.linspace(0, 100, len(counts) + 1)
    shares = 100 * counts / max(counts.sum(), 1)
    error = float(np.sum((shares * np.abs(accuracy - confidence))[there]))
    figure = Figure(figsize=(WIDE, 5.6), layout="constrained")
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    upper.plot([0, 100], [0, 100], color=COLOURS[7], linestyle="--", label="calibrated")
    x, y = 100 * confidence[there], 100 * accuracy[there]
    upper.plot(x, y, "o-", color=COLOURS[5], label="bins", markersize=5)
    upper.vlines(x, np.minimum(x, y), np.maximum(x, y), color=COLOURS[4], alpha=0.6)
    upper.set_ylabel("accuracy in the bin (%)")
    upper.set_ylim(0, 102)
    upper.legend(frameon=False, loc="upper left")
    lower.bar(edges[:-1], shares, width=np.diff(edges), align="edge", color=COLOURS[2])
    lower.set_ylabel("examples (%)")
    lower.set_xlabel("confidence: largest predicted probability (%)")
    lower.set_xlim(0, 101)
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    title = f"Reliability on {found['split']}{of and ', ' + of}: ECE {error:.1f} %, "
    return save(figure, path, f"{title}{found['n']} {_seeds(found['n'])} pooled")
