"""Plots of sweeps: their content, by the artists in them, and which are drawn."""

import importlib.resources
import math
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.results import build_summary, records
from jaxtl.results.database import Database, Outcome
from jaxtl.results.labels import value_key
from jaxtl.results.plots import learning_curves, predictions, sweep, sweep_axes
from jaxtl.results.plots.style import BLACK
from jaxtl.results.plots.sweep_view import build_view
from jaxtl.results.records import Record

METHODS = {"full": 0.0, "L2-SP": 0.03, "LoRA": -0.02}
RATES, LABELS, SEEDS = (1e-4, 1e-3, 1e-2), (1, 5, 20), (0, 1, 2)


def details(correct):
    wrong = 10 - correct
    return {
        "split": "test",
        "classes": ["cat", "dog"],
        "confusion": [[correct, wrong], [wrong, correct]],
        "reliability": {
            "count": [0, wrong, correct],
            "confidence": [None, 0.5, 0.9],
            "accuracy": [None, 0.4, 1.0],
        },
    }


def outcome(key, method, rate, labels_per_class, seed):
    val = 0.5 + 0.1 * math.log10(labels_per_class) - 0.02 * (math.log10(rate) + 3) ** 2
    val += METHODS[method] + 0.01 * seed
    curve = [{"step": step, "accuracy": val - 1 / step} for step in (10, 20, 30)]
    result = {
        "val": {"accuracy": val, "nll": 1 - val},
        "test": {"accuracy": val - 0.02, "nll": 1.0},
        "monitor": "accuracy",
        "drift": 1 + seed + rate,
        "seconds": 1.0 + 5 * METHODS[method],
        "trainable_parameters": {"LoRA": 100}.get(method, 10_000),
        "details": details(8),
    }
    return Outcome(key, "done", result, {"val": curve})


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Three methods, three rates, three label counts, three seeds, and a baseline."""
    folder = tmp_path_factory.mktemp("sweep")
    cells, outcomes = [], []
    for method in METHODS:
        for rate in RATES:
            for count in LABELS:
                for seed in SEEDS:
                    key = f"{method} {rate} {count} {seed}"
                    labels = {"method": method, "optim.lr": rate}
                    labels |= {"data.labels_per_class": count, "seed": seed}
                    cells.append((key, labels))
                    outcomes.append(outcome(key, method, rate, count, seed))
    for count in LABELS:
        labels = {"method": "baseline: k-NN", "data.labels_per_class": count, "seed": 0}
        cells.append((f"k-NN {count}", labels))
        result = {"val": {"accuracy": 0.4}, "test": {"accuracy": 0.4}, "seed": 0}
        outcomes.append(Outcome(f"k-NN {count}", "done", result, {}))
    with Database(folder, create=True) as database:
        database.set_meta(doc="A sweep", file="sweep.py")
        database.add(cells)
        database.finish(outcomes)
    return records.read([folder])


@pytest.fixture
def view(collection):
    return build_view(collection, build_summary.summarize(collection))


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written: name of the file -> figure."""
    saved = {}
    for module in (sweep, sweep_axes, learning_curves, predictions):

        def save(figure, path, title, *marks, original=module.save):
            saved[path.name] = figure
            return original(figure, path, title, *marks)

        monkeypatch.setattr(module, "save", save)
    return saved


def find_line(axes, label):
    [line] = [line for line in axes.get_lines() if line.get_label() == label]
    return line


def test_all_plots_of_a_full_sweep_are_drawn(collection, tmp_path):
    paths = sweep.draw_all(collection, build_summary.summarize(collection), tmp_path)
    assert [path.name for path in paths] == [
        "overview.png",
        "against-data.labels_per_class.png",
        "against-optim.lr.png",
        "map-optim.lr-data.labels_per_class.png",
        "learning-curves.png",
        "against-drift.png",
        "against-seconds.png",
        "against-trainable_parameters.png",
        "confusion.png",
        "reliability.png",
    ]
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[1] == 1050  # a page scales it down to 600 pixels, never up
        assert 0.005 < (pixels < 128).mean() < 0.6
        text = path.with_suffix(".svg").read_text()
        title = re.search("<dc:title>(.*)</dc:title>", text).group(1)
        assert re.search(r"\b3 seeds|1–3 seeds", title), title


def test_svg_is_the_same_for_the_same_results(view, tmp_path):
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = sweep.overview(view, tmp_path / name / "x.png")
        texts.append(path.with_suffix(".svg").read_text())
    assert texts[0] == texts[1]


def test_a_tuned_axis_shows_val_means_per_method_and_panel(view, tmp_path, figures):
    sweep_axes.against_axis(view, "optim.lr", tmp_path / "x.png")
    all_axes = figures["x.png"].axes
    assert [axes.get_title("left") for axes in all_axes[:3]] == [
        f"labels per class: {count}" for count in LABELS
    ]
    first, _, third = all_axes[:3]
    assert first.get_ylabel() == "val accuracy (%)"
    expected = [
        100 * (0.5 - 0.02 * (math.log10(rate) + 3) ** 2 + 0.04) for rate in RATES
    ]
    line = find_line(first, "L2-SP")
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-9)
    ticks = [tick.get_text() for tick in third.get_xticklabels()]
    assert ticks == ["1e-4", "0.001", "0.01"]
    # The baseline has no rate, so it is a horizontal line.
    np.testing.assert_allclose(find_line(first, "baseline: k-NN").get_ydata(), 40.0)


def test_a_condition_shows_test_at_the_rate_chosen_on_val(view, tmp_path, figures):
    name = "data.labels_per_class"
    path = sweep_axes.against_axis(view, name, tmp_path / "x.png")
    [axes] = figures["x.png"].axes
    expected = [100 * (0.49 + 0.1 * math.log10(count)) for count in LABELS]
    line = find_line(axes, "full")
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-9)
    assert axes.get_ylabel() == "test accuracy (%)"
    svg = path.with_suffix(".svg").read_text()
    assert "other settings chosen on val" in svg


def test_intervals_are_students(view, tmp_path, figures):
    sweep_axes.against_axis(view, "data.labels_per_class", tmp_path / "x.png")
    [axes] = figures["x.png"].axes
    bars = axes.containers[0].lines[2][0].get_segments()
    low, high = stats.t.interval(0.95, 2, 0.49, stats.sem([0.48, 0.49, 0.50]))
    np.testing.assert_allclose(bars[0][:, 1], [100 * low, 100 * high], rtol=1e-6)


def test_test_is_not_drawn_where_the_summary_compares_on_val(collection, tmp_path):
    summary = build_summary.summarize(collection, split="val")
    for path in sweep.draw_all(collection, summary, tmp_path):
        if path.stem not in ("confusion", "reliability"):
            title = re.search("<dc:title>(.*)<", path.with_suffix(".svg").read_text())
            assert "test" not in title.group(1).lower(), path


def test_zero_is_left_of_a_logarithmic_axis():
    scale = sweep_axes.axis_scale((0, 0.01, 0.1, 1.0))
    positions = [scale.positions[value_key(v)] for v in (0, 0.01, 0.1, 1.0)]
    np.testing.assert_allclose(positions, [-3, -2, -1, 0])
    assert scale.zero == -3
    assert [text for _, text in scale.ticks] == ["0", "0.01", "0.1", "1"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1, 2, 3), [1, 2, 3]),
        ((-1.0, 0.0, 100.0), [-1, 0, 100]),
        ((1, 4, 16), [0, math.log10(4), math.log10(16)]),
        (("head", "last", "all"), [0, 1, 2]),
        ((True, False, 1), [0, 1, 2]),
    ],
)
def test_values_are_placed_on_an_axis(values, expected):
    scale = sweep_axes.axis_scale(values)
    assert scale.zero is None
    positions = [scale.positions[value_key(value)] for value in values]
    np.testing.assert_allclose(positions, expected)


def test_many_ticks_are_thinned_and_zero_stays():
    values = (0, *np.logspace(-4, 2, 30).tolist())
    texts = [text for _, text in sweep_axes.axis_scale(values).ticks]
    assert len(texts) <= 10
    assert "0" in texts


def test_heat_map_shows_mean_val_and_frames_the_best(view, tmp_path, figures):
    sweep_axes.heat_map(view, "optim.lr", "data.labels_per_class", tmp_path / "x.png")
    axes = next(
        axes
        for axes in figures["x.png"].axes
        if axes.get_title("left").startswith("full")
    )
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[1, 2] == f"{100 * (0.51 + 0.1 * math.log10(20)):.1f}"
    assert texts[0, 0] == "49.0"
    [frame] = axes.patches
    assert frame.get_x() + 0.47 == pytest.approx(1)
    assert frame.get_y() + 0.46 == pytest.approx(2)


def test_learning_curves_have_the_steps_that_all_seeds_reached(tmp_path, figures):
    def record(seed, steps):
        curve = [{"step": s, "accuracy": s / 100 + seed / 10} for s in steps]
        return Record(
            labels={"method": "full", "seed": seed},
            result={"val": {"accuracy": 0.5}, "monitor": "accuracy"},
            curve={"val": curve},
        )

    collection = records.collect([record(0, (10, 20, 30)), record(2, (10, 20))])
    learning_curves.learning_curves(build_view(collection), tmp_path / "x.png")
    [axes] = figures["x.png"].axes
    line = find_line(axes, "full")
    np.testing.assert_array_equal(line.get_xdata(), [10, 20])
    np.testing.assert_allclose(line.get_ydata(), [20, 30])


def test_curves_have_a_line_per_rate_where_nothing_is_compared(tmp_path, figures):
    cells = []
    for rate in RATES:
        for seed in SEEDS:
            done = outcome("", "full", rate, 5, seed)
            labels = {"optim.lr": rate, "seed": seed}
            cells.append(Record(labels=labels, result=done.result, curve=done.curve))
    collection = records.collect(cells)
    paths = sweep.draw_all(collection, build_summary.summarize(collection), tmp_path)
    names = [path.stem for path in paths]
    assert "against-optim.lr" in names
    assert "learning-curves" in names
    assert "overview" not in names
    [axes] = figures["learning-curves.png"].axes
    labels = [line.get_label() for line in axes.get_lines()]
    assert labels == ["0.0001", "0.001", "0.01"]


def test_details_of_seeds_are_added():
    seeds = [Record(labels={}, result={"details": details(c)}) for c in (8, 6)]
    pooled = predictions.pooled_details(seeds)
    np.testing.assert_array_equal(pooled["confusion"], [[14, 6], [6, 14]])
    np.testing.assert_array_equal(pooled["reliability"]["count"], [0, 6, 14])
    np.testing.assert_allclose(
        pooled["reliability"]["accuracy"], [math.nan, 0.4, 1.0], equal_nan=True
    )


def test_seeds_of_other_classes_are_refused():
    renamed = details(6) | {"classes": ["cat", "cow"]}
    seeds = [Record(labels={}, result={"details": d}) for d in (details(8), renamed)]
    with pytest.raises(UserError, match="same classes"):
        predictions.pooled_details(seeds)


def test_reliability_shows_the_calibration_error(tmp_path):
    # 4 of 20 in the middle bin, off by 0.1; 16 in the last, off by 0.1.
    seeds = [Record(labels={}, result={"details": details(8)})] * 2
    pooled = predictions.pooled_details(seeds)
    path = predictions.reliability(pooled, tmp_path / "x.png", setting="full")
    assert "ECE 10.0 %, 2 seeds pooled" in path.with_suffix(".svg").read_text()


def test_a_hundred_classes_fit(tmp_path):
    pooled = {
        "split": "test",
        "classes": [f"a long name {i}" for i in range(100)],
        "confusion": np.eye(100, dtype=int) * 7,
        "n": 1,
    }
    path = predictions.confusion(pooled, tmp_path / "c")
    text = path.with_suffix(".svg").read_text()
    assert "100.0 % of 700 right</dc:title>" in text  # one seed is not added up


def luminance(rgb):
    rgb = np.asarray(rgb)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_shares_can_be_read_in_their_cells_on_a_light_and_a_dark_page(
    figures, tmp_path
):
    shares = [1, 10, 25, 50, 60, 70, 75, 76, 77, 78, 85, 100]
    counts = np.diag(shares) + np.roll(np.diag(100 - np.array(shares)), 1, axis=1)
    classes = [str(share) for share in shares]
    pooled = {"split": "test", "classes": classes, "confusion": counts, "n": 1}
    predictions.confusion(pooled, tmp_path / "c.png")
    axes = figures["c.png"].axes[0]
    [image] = axes.images
    assert {text.get_text() for text in axes.texts} >= set(classes)
    style = importlib.resources.files("jaxtl.results").joinpath("assets/page.css")
    light, dark = style.read_text().split("color-scheme: dark", 1)
    for css in (light, dark):
        colors = dict(re.findall(r"--(plot|ink|paper): ([#\w]+)", css))
        ink = to_rgb(colors.get("plot", colors["ink"]).replace("var", colors["ink"]))
        paper = np.array(to_rgb(colors["paper"]))
        for text in axes.texts:
            *rgb, opacity = image.cmap(image.norm(int(text.get_text())))
            cell = opacity * np.array(rgb) + (1 - opacity) * paper
            color = text.get_color()
            color = ink if color == BLACK else to_rgb(color)
            low, high = sorted([luminance(cell), luminance(color)])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (css[:40], text)


def test_shares_of_examples_end_at_100_percent(figures, tmp_path):
    seeds = [Record(labels={}, result={"details": details(8)})]
    predictions.reliability(predictions.pooled_details(seeds), tmp_path / "r.png")
    lower = figures["r.png"].axes[1]
    assert max(lower.get_yticks()) <= 100 < lower.get_ylim()[1]


def test_diverged_failed_and_waiting_cells_are_left_out(tmp_path):
    def record(method, weight, seed):
        labels = {"method": method, "terms.l2sp.weight": weight, "seed": seed}
        if seed == 2:
            return Record(labels=labels, status="failed", error="it diverged")
        nll = math.nan if weight == 1.0 else weight
        return Record(labels=labels, result={"val": {"nll": nll}, "monitor": "nll"})

    cells = [
        record(m, w, s) for m in ("a", "b") for w in (0.0, 0.1, 1.0) for s in SEEDS
    ]
    cells.append(Record(labels={"method": "a", "seed": 9}, status="waiting"))
    collection = records.collect(cells)
    paths = sweep.draw_all(collection, build_summary.summarize(collection), tmp_path)
    names = [path.name for path in paths]
    assert names == ["overview.png", "against-terms.l2sp.weight.png"]


def test_a_line_has_the_same_color_in_every_plot(view, tmp_path, figures):
    sweep.against_fact(view, "drift", tmp_path / "x.png")
    sweep_axes.against_axis(view, "optim.lr", tmp_path / "y.png")
    for name in METHODS:
        all_axes = [figures[file].axes[0] for file in ("x.png", "y.png")]
        assert len({find_line(axes, name).get_color() for axes in all_axes}) == 1


@pytest.mark.parametrize(("axis", "name"), [("a/../b c<", "a-..-b-c"), ("//", "axis")])
def test_an_odd_axis_makes_a_plain_file_name(axis, name, tmp_path):
    cells = [
        Record(
            labels={axis: value, "seed": 0},
            result={"val": {"nll": float(value)}, "monitor": "nll"},
        )
        for value in (1, 2, 3)
    ]
    paths = sweep.draw_all(records.collect(cells), None, tmp_path)
    assert f"against-{name}.png" in [path.name for path in paths]
