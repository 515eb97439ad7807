"""Pictures: results of a study with their intervals, contact sheets of examples."""

import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.results import format_number, study_tables
from jaxtl.results.settings import Setting
from jaxtl.results.statistics import t_interval

# Okabe & Ito's palette: told apart by readers who don't see all colours.
COLOURS = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#D55E00",
    "#0072B2",
    "#CC79A7",
    "#999999",
)
MARKERS = "osD^vP*X"


def study(groups: Sequence[Setting], path: pathlib.Path, *, title: str = "") -> None:
    """Draws the test metric with 95 % intervals: a grid as lines, else as dots."""
    metric = study_tables.default_metric(groups)
    grid = study_tables.name_grid(groups)
    figure = _dots(groups, metric) if grid is None else _lines(*grid, metric)
    # Over the whole figure: long names of runs leave the axes narrow.
    figure.suptitle(textwrap.fill(title, 90), x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _point(group: Setting, metric: str):
    values = group.raw_values("test", metric) or group.raw_values("val", metric)
    if not values:
        return np.nan, 0.0
    estimate = t_interval(values)
    scale = format_number.metric_factor(metric)
    return scale * estimate.mean, scale * (estimate.half or 0.0)


def _label(metric: str) -> str:
    return f"test {metric}" + (" (%)" if metric in format_number.SHARES else "")


def _lines(lines, columns, cells, metric):
    figure, axis = plt.subplots(figsize=(8.5, 5), layout="constrained")
    for i, line in enumerate(lines):
        there = [j for j, c in enumerate(columns) if (line, c) in cells]
        points = [_point(cells[line, columns[j]], metric) for j in there]
        # Side by side, so that intervals can be read where lines cross.
        shift = (i - (len(lines) - 1) / 2) * 0.025
        axis.errorbar(
            np.array(there) + shift,
            [p[0] for p in points],
            yerr=[p[1] for p in points],
            label=line,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            capsize=3,
            linewidth=1.4,
            markersize=5,
        )
    axis.set_xticks(range(len(columns)), columns)
    axis.set_xlim(-0.4, len(columns) - 0.6)
    axis.set_ylabel(_label(metric))
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    seeds = max(len(group.done) for group in cells.values())
    title = f"95 % interval, {seeds} seeds" if seeds > 1 else "one seed"
    figure.legend(loc="outside right upper", frameon=False, title=title, fontsize=9)
    return figure


def _dots(groups, metric):
    height = 1.2 + 0.35 * len(groups)
    figure, axis = plt.subplots(figsize=(8, height), layout="constrained")
    for i, group in enumerate(groups):
        mean, half = _point(group, metric)
        axis.errorbar(
            mean, i, xerr=half, fmt="o", color=COLOURS[5], capsize=3, markersize=5
        )
    names = [f"{group.labels['run']} (n={len(group.done)})" for group in groups]
    axis.set_yticks(range(len(groups)), names)
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.set_xlabel(f"{_label(metric)}, mean and 95 % interval")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def contact_sheet(
    images: np.ndarray, labels: list[str], path: pathlib.Path, *, title: str = ""
) -> None:
    """Writes a PNG of examples, a row per label.

    Args:
      images: (n, height, width, channels) in any units; each sheet is scaled by its
        own smallest and largest value.
      labels: name of each image's class, in the order of `images`.
      path: where to write.
      title: above the sheet.
    """
    images = np.asarray(images, np.float32)
    low, high = images.min(), images.max()
    images = (images - low) / max(high - low, 1e-9)
    names = list(dict.fromkeys(labels))
    per_row = max(labels.count(name) for name in names)
    figure, axes = plt.subplots(
        len(names),
        per_row,
        figsize=(0.7 * per_row + 1.6, 0.7 * len(names) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for r, name in enumerate(names):
        mine = [i for i, label in enumerate(labels) if label == name]
        for c, i in enumerate(mine):
            grey = images.shape[-1] == 1
            picture = images[i, :, :, 0] if grey else images[i]
            axes[r, c].imshow(picture, cmap="gray" if grey else None, vmin=0, vmax=1)
        axes[r, 0].text(
            -0.25, 0.5, name, ha="right", va="center", transform=axes[r, 0].transAxes
        )
    figure.suptitle(title, x=0.02, ha="left", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def probes(found, path: pathlib.Path, *, title: str = "") -> None:
    """Draws linear probes: of one stage over strengths, of several over stages.

    Args:
      found: {stage: `readout.Probe`}.
      path: where to write.
      title: above the axes.
    """
    first = next(iter(found.values()))
    if len(found) > 1:
        # Leave-one-out chooses, but what is compared is the task's own metric.
        tested = first.metric in first.test or not first.test
        metric = first.metric if tested else next(iter(first.test))
        figure = _over_stages(list(found.values()), metric)
    else:
        figure = _over_strengths(first)
    figure.suptitle(textwrap.fill(title, 90), x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _over_stages(found, metric: str):
    scale, unit = (100.0, " (%)") if metric in format_number.SHARES else (1.0, "")
    figure, axis = plt.subplots(
        figsize=(max(6, 0.7 * len(found) + 3), 4.5), layout="constrained"
    )
    lines = {"val, of the chosen strength": [one.scores[one.best] for one in found]}
    lines["test"] = [one.test for one in found]
    for i, (name, rows) in enumerate(lines.items()):
        if all(metric in row for row in rows):
            values = [scale * row[metric] for row in rows]
            style = {"color": COLOURS[(7, 5)[i]], "marker": MARKERS[i]}
            axis.plot(range(len(found)), values, label=name, **style)
    labels = [f"{one.stage}\n{one.width:,}" for one in found]
    axis.set_xticks(range(len(found)), labels, fontsize=8)
    axis.set_xlabel("stage, width of its features")
    axis.set_ylabel(metric + unit)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def _over_strengths(found):
    metric, order = found.metric, np.argsort(found.path.strengths)
    scale, unit = (100.0, " (%)") if metric in format_number.SHARES else (1.0, "")
    strengths = found.path.strengths[order]
    values = scale * np.array([found.scores[i][metric] for i in order])
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axis.plot(strengths, values, marker="o", color=COLOURS[5], label=found.stage)
    chosen = scale * found.scores[found.best][metric]
    label = f"chosen, {found.strength:.2g}"
    if metric in found.test:
        label += f": test {scale * found.test[metric]:.4g}{unit}"
    axis.plot(found.strength, chosen, "*", color=COLOURS[1], ms=15, label=label)
    axis.set_xscale("log")
    axis.set_xlabel("strength of the penalty ½·strength·‖W‖²")
    of_train = metric in ("loo", "gcv")
    axis.set_ylabel(("train " if of_train else "val ") + metric + unit)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def learning_rates(curve, path: pathlib.Path, *, title: str = "") -> None:
    """Draws losses over rising learning rates, with the rates that they suggest.

    Args:
      curve: an `lr_finder.LearningRateCurve`.
      path: where to write.
      title: above the axes.
    """
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axis.plot(curve.rates, curve.raw, color=COLOURS[7], linewidth=0.8, alpha=0.6)
    axis.plot(curve.rates, curve.losses, color=COLOURS[5], linewidth=2)
    found = curve.suggestion
    marks = [(curve.steepest, "steepest fall", COLOURS[4], "o")]
    marks += [(curve.tenth, "lowest loss / 10", COLOURS[3], "D")]
    for rate, name, colour, marker in marks if found is not None else ():
        loss = np.interp(np.log(rate), np.log(curve.rates), curve.losses)
        label = f"{name}: {rate:.1e}"
        axis.axvline(rate, color=colour, linewidth=1, linestyle=":")
        axis.plot(rate, loss, marker, color=colour, markersize=7, label=label)
    # The explosion at the end would flatten everything before it.
    low, high = curve.raw.min(), curve.losses[: np.argmin(curve.losses) + 1].max()
    room = max(high - low, 1e-3 * abs(high), 1e-9)
    axis.set_ylim(low - 0.05 * room, high + 0.25 * room)
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss (grey: batches, blue: smoothed)")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if found is None:
        axis.text(0.02, 0.04, "the loss never falls", transform=axis.transAxes)
    else:
        said = f"to begin with: {found:.1e}"
        axis.legend(loc="lower left", frameon=False, title=said, alignment="left")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def wise_ft(curve, path: pathlib.Path, *, title: str = "") -> None:
    """Draws a metric against α, with θ₀, the fine-tuned and the chosen weights marked.

    Args:
      curve: an `interpolation.Curve`.
      path: where to write.
      title: above the axes.
    """
    name, share = curve.monitor, curve.monitor in format_number.SHARES
    values = (100.0 if share else 1.0) * np.array([m[name] for m in curve.metrics])
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axis.plot(curve.alphas, values, "-", color=COLOURS[5], linewidth=1.6)
    axis.plot(curve.alphas, values, ".", color=COLOURS[5], markersize=6)
    start = "θ₀" + (", fine-tuned " + ", ".join(curve.fresh) if curve.fresh else "")
    chosen = f"chosen on val, α = {curve.best:g}"
    # The chosen one as a ring, which hides neither end where it is one of them.
    marks = [(0.0, start, "s", COLOURS[7], 8, "full")]
    marks += [(1.0, "fine-tuned", "D", COLOURS[4], 8, "full")]
    marks += [(curve.best, chosen, "o", COLOURS[0], 17, "none")]
    for alpha, label, marker, colour, size, fill in marks:
        if alpha in curve.alphas:
            value = values[curve.alphas.index(alpha)]
            style = {"markersize": size, "fillstyle": fill, "linestyle": "none"}
            axis.plot(alpha, value, marker, color=colour, label=label, **style)
    axis.set_xlabel("α, weights (1 − α)·θ₀ + α·θ")
    axis.set_ylabel(f"{curve.split} {name}" + (" (%)" if share else ""))
    if curve.distance > 0:
        scale = (lambda a: a * curve.distance, lambda d: d / curve.distance)
        axis.secondary_xaxis("top", functions=scale).set_xlabel("‖θ − θ₀‖")
    axis.grid(alpha=0.3)
    axis.spines["right"].set_visible(False)
    axis.legend(loc="best", frameon=False, markerscale=0.7)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def against(
    groups: Sequence[Setting],
    fact: str,
    path: pathlib.Path,
    *,
    metric: str | None = None,
) -> None:
    """Draws the test metric against a number of every run: dots are seeds, marks means.

    Args:
      groups: the settings; those named "column/row" share a panel per column.
      fact: a number of result.json, such as "drift" or "flops_per_step".
      path: where to write.
      metric: None takes what the runs were chosen by.

    Raises:
      UserError: no run stores that number.
    """
    metric = metric or study_tables.default_metric(groups)
    panels: dict[str, list] = {}
    for group in groups:
        name = pathlib.PurePath(group.labels["run"])
        points = [
            (r[fact], (r.get("test") or r.get("val", {})).get(metric))
            for r in (record.result for record in group.done)
            if isinstance(r.get(fact), int | float)
        ]
        points = np.array([p for p in points if p[1] is not None], float)
        if len(points):
            panels.setdefault(name.parent.name, []).append((name.name, points))
    if not panels:
        known = {
            k
            for group in groups
            for record in group.done
            for k, v in record.result.items()
            if isinstance(v, int | float)
        }
        raise UserError(
            f"--against {fact}: no run stores such a number{nearest(fact, known)} "
            f"(known: {', '.join(sorted(known))})."
        )
    count = len(panels)
    figure, axes = plt.subplots(
        1, count, figsize=(1.5 + 4.5 * count, 4.6), squeeze=False, layout="constrained"
    )
    scale = 100.0 if metric in format_number.SHARES else 1.0
    names = list(dict.fromkeys(name for group in panels.values() for name, _ in group))
    for axis, (panel, group) in zip(axes[0], panels.items()):
        for name, points in group:
            i = names.index(name)
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS)]
            axis.plot(points[:, 0], scale * points[:, 1], ".", color=colour, alpha=0.35)
            middle = points.mean(0)
            axis.plot(middle[0], scale * middle[1], marker, color=colour, label=name)
        axis.set_xlabel({"drift": "‖θ − θ₀‖"}.get(fact, fact.replace("_", " ")))
        axis.set_title(panel, loc="left", fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(_label(metric))
    handles = {}
    for axis in axes[0]:
        found, labels = axis.get_legend_handles_labels()
        handles.update(dict(zip(labels, found)))
    figure.legend(
        [handles[n] for n in names],
        names,
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        title="mean; dots: seeds",
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
