"""Pictures of sweeps: what they show, by the artists in them, and which are drawn."""

import math
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.results import build_summary, records
from jaxtl.results.database import Database, Outcome
from jaxtl.results.plots import sweep, sweep_axes, sweep_cells
from jaxtl.results.plots import view as plots_view
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


def outcome(key, method, rate, labels, seed):
    val = 0.5 + 0.1 * math.log10(labels) - 0.02 * (math.log10(rate) + 3) ** 2
    val += METHODS[method] + 0.01 * seed
    rows = [{"step": s, "accuracy": val - 1 / s} for s in (10, 20, 30)]
    result = {
        "val": {"accuracy": val, "nll": 1 - val},
        "test": {"accuracy": val - 0.02, "nll": 1.0},
        "monitor": "accuracy",
        "drift": 1 + seed + rate,
        "seconds": 1.0 + 5 * METHODS[method],
        "trainable_parameters": {"LoRA": 100}.get(method, 10_000),
        "details": details(8),
    }
    return Outcome(key, "done", result, {"val": rows})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three methods, three rates, three label counts, three seeds, and a baseline."""
    where = tmp_path_factory.mktemp("sweep")
    cells, done = [], []
    for method in METHODS:
        for rate in RATES:
            for labels in LABELS:
                for seed in SEEDS:
                    key = f"{method} {rate} {labels} {seed}"
                    named = {"method": method, "optim.lr": rate}
                    named |= {"data.labels_per_class": labels, "seed": seed}
                    cells.append((key, named))
                    done.append(outcome(key, method, rate, labels, seed))
    for labels in LABELS:
        named = {"method": "baseline: k-NN", "data.labels_per_class": labels, "seed": 0}
        cells.append((f"k-NN {labels}", named))
        result = {"val": {"accuracy": 0.4}, "test": {"accuracy": 0.4}, "seed": 0}
        done.append(Outcome(f"k-NN {labels}", "done", result, {}))
    with Database(where, create=True) as database:
        database.set_meta(doc="A sweep", file="sweep.py")
        database.add(cells)
        database.finish(done)
    return where


@pytest.fixture(scope="module")
def collection(folder):
    return records.read([folder])


@pytest.fixture
def view(collection):
    return plots_view.view(collection, build_summary.summarise(collection))


@pytest.fixture
def figures(monkeypatch):
    """Catches figures on their way to the disk: path's name -> figure."""
    caught = {}
    save = sweep_cells.save

    def catching(figure, path, title):
        caught[path.name] = figure
        return save(figure, path, title)

    monkeypatch.setattr(sweep_cells, "save", catching)
    return caught


def line(axis, label):
    [found] = [x for x in axis.get_lines() if x.get_label() == label]
    return found


def test_all_pictures_of_a_full_sweep(collection, tmp_path):
    paths = sweep.draw_all(collection, build_summary.summarise(collection), tmp_path)
    assert [p.name for p in paths] == [
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
        assert pixels.shape[1] == 1050  # 600 px are a reduction, never a blow-up
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


def test_against_rates_has_val_means_per_method_and_panel(view, tmp_path, figures):
    sweep_axes.against_axis(view, "optim.lr", tmp_path / "x.png")
    first, *_ = axes = figures["x.png"].axes
    assert [a.get_title("left") for a in axes[:3]] == [
        f"labels per class: {n}" for n in LABELS
    ]
    assert first.get_ylabel() == "val accuracy (%)"
    drawn = line(first, "L2-SP")
    wanted = [100 * (0.5 - 0.02 * (math.log10(r) + 3) ** 2 + 0.04) for r in RATES]
    np.testing.assert_allclose(drawn.get_ydata(), wanted, rtol=1e-9)
    assert [t.get_text() for t in axes[2].get_xticklabels()] == [
        "1e-4",
        "0.001",
        "0.01",
    ]
    # The baseline knows no rate: a level line.
    np.testing.assert_allclose(line(first, "baseline: k-NN").get_ydata(), 40.0)


def test_against_labels_is_test_at_the_rate_chosen_on_val(view, tmp_path, figures):
    name = "data.labels_per_class"
    path = sweep_axes.against_axis(view, name, tmp_path / "x.png")
    [axis] = figures["x.png"].axes
    drawn = line(axis, "full")
    wanted = [100 * (0.49 + 0.1 * math.log10(n)) for n in LABELS]
    np.testing.assert_allclose(drawn.get_ydata(), wanted, rtol=1e-9)
    assert axis.get_ylabel() == "test accuracy (%)"
    svg = path.with_suffix(".svg").read_text()
    assert "other settings chosen on val" in svg


def test_intervals_are_students(view, tmp_path, figures):
    sweep_axes.against_axis(view, "data.labels_per_class", tmp_path / "x.png")
    [axis] = figures["x.png"].axes
    bars = axis.containers[0].lines[2][0].get_segments()
    low, high = stats.t.interval(0.95, 2, 0.49, stats.sem([0.48, 0.49, 0.50]))
    np.testing.assert_allclose(bars[0][:, 1], [100 * low, 100 * high], rtol=1e-6)


def test_test_is_not_drawn_where_the_summary_compares_on_val(collection, tmp_path):
    summary = build_summary.summarise(collection, split="val")
    for path in sweep.draw_all(collection, summary, tmp_path):
        if path.stem not in ("confusion", "reliability"):
            title = re.search("<dc:title>(.*)<", path.with_suffix(".svg").read_text())
            assert "test" not in title.group(1).lower(), path


def test_zero_has_a_place_left_of_a_logarithmic_axis():
    scale = sweep_axes.scale_of((0, 0.01, 0.1, 1.0))
    places = [scale.place[plots_view.key(v)] for v in (0, 0.01, 0.1, 1.0)]
    np.testing.assert_allclose(places, [-3, -2, -1, 0])
    assert scale.zero == -3
    assert [text for _, text in scale.ticks] == ["0", "0.01", "0.1", "1"]


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ((1, 2, 3), [1, 2, 3]),
        ((-1.0, 0.0, 100.0), [-1, 0, 100]),
        ((1, 4, 16), [0, math.log10(4), math.log10(16)]),
        (("head", "last", "all"), [0, 1, 2]),
        ((True, False, 1), [0, 1, 2]),
    ],
)
def test_places_on_an_axis(values, places):
    scale = sweep_axes.scale_of(values)
    assert scale.zero is None
    np.testing.assert_allclose([scale.place[plots_view.key(v)] for v in values], places)


def test_many_ticks_are_thinned_and_zero_stays():
    values = (0, *np.logspace(-4, 2, 30).tolist())
    texts = [text for _, text in sweep_axes.scale_of(values).ticks]
    assert len(texts) <= 10
    assert "0" in texts


def test_heat_map_shows_mean_val_and_frames_the_best(view, tmp_path, figures):
    sweep_axes.heat_map(view, "optim.lr", "data.labels_per_class", tmp_path / "x.png")
    axis = next(
        a for a in figures["x.png"].axes if a.get_title("left").startswith("full")
    )
    texts = {t.get_position(): t.get_text() for t in axis.texts}
    assert texts[1, 2] == f"{100 * (0.51 + 0.1 * math.log10(20)):.1f}"
    assert texts[0, 0] == "49.0"
    [frame] = axis.patches
    assert frame.get_x() + 0.47 == pytest.approx(1)
    assert frame.get_y() + 0.46 == pytest.approx(2)


def test_learning_curves_keep_the_steps_that_all_seeds_reached(tmp_path, figures):
    def record(seed, steps):
        rows = [{"step": s, "accuracy": s / 100 + seed / 10} for s in steps]
        result = {"val": {"accuracy": 0.5}, "monitor": "accuracy"}
        return Record(
            labels={"method": "full", "seed": seed}, result=result, curve={"val": rows}
        )

    rows = (record(0, (10, 20, 30)), record(2, (10, 20)))
    found = records.Collection(records=rows, axes=records.axes(rows))
    sweep_cells.learning_curves(plots_view.view(found), tmp_path / "x.png")
    [axis] = figures["x.png"].axes
    np.testing.assert_array_equal(line(axis, "full").get_xdata(), [10, 20])
    np.testing.assert_allclose(line(axis, "full").get_ydata(), [20, 30])


def test_curves_have_a_line_per_rate_where_nothing_is_compared(tmp_path, figures):
    rows = []
    for rate in RATES:
        for seed in SEEDS:
            done = outcome("", "full", rate, 5, seed)
            labels = {"optim.lr": rate, "seed": seed}
            rows.append(Record(labels=labels, result=done.result, curve=done.curve))
    found = records.Collection(records=tuple(rows), axes=records.axes(rows))
    paths = sweep.draw_all(found, build_summary.summarise(found), tmp_path)
    names = [p.stem for p in paths]
    assert "against-optim.lr" in names
    assert "learning-curves" in names
    assert "overview" not in names
    [axis] = figures["learning-curves.png"].axes
    names = [x.get_label() for x in axis.get_lines()]
    assert names == ["0.0001", "0.001", "0.01"]


def test_details_of_seeds_add_up():
    rows = [Record(labels={}, result={"details": details(c)}) for c in (8, 6)]
    found = sweep_cells.details(rows)
    np.testing.assert_array_equal(found["confusion"], [[14, 6], [6, 14]])
    np.testing.assert_array_equal(found["reliability"]["count"], [0, 6, 14])
    np.testing.assert_allclose(
        found["reliability"]["accuracy"], [math.nan, 0.4, 1.0], equal_nan=True
    )


def test_seeds_of_other_classes_are_refused():
    other = details(6) | {"classes": ["cat", "cow"]}
    rows = [Record(labels={}, result={"details": d}) for d in (details(8), other)]
    with pytest.raises(UserError, match="same classes"):
        sweep_cells.details(rows)


def test_reliability_tells_the_calibration_error(tmp_path):
    # 4 of 20 in the middle bin, off by 0.1; 16 in the last, off by 0.1.
    found = sweep_cells.details([Record(labels={}, result={"details": details(8)})] * 2)
    path = sweep_cells.reliability(found, tmp_path / "x.png", of="full")
    assert "ECE 10.0 %, 2 seeds pooled" in path.with_suffix(".svg").read_text()


def test_a_hundred_classes_fit(tmp_path):
    counts = np.eye(100, dtype=int) * 7
    found = {"split": "test", "classes": [f"a long name {i}" for i in range(100)]}
    path = sweep_cells.confusion(found | {"confusion": counts, "n": 1}, tmp_path / "c")
    assert "100.0 % of 700 right, 1 seed added" in path.with_suffix(".svg").read_text()


def test_diverged_failed_and_waiting_cells_do_no_harm(tmp_path):
    rows = [
        Record(
            labels={"method": m, "terms.l2sp.weight": w, "seed": s},
            status="failed" if s == 2 else "done",
            result={}
            if s == 2
            else {"val": {"nll": math.nan if w == 1.0 else w}, "monitor": "nll"},
            error="the loss is not finite" if s == 2 else "",
        )
        for m in ("a", "b")
        for w in (0.0, 0.1, 1.0)
        for s in SEEDS
    ]
    rows.append(Record(labels={"method": "a", "seed": 9}, status="waiting"))
    found = records.Collection(records=tuple(rows), axes=records.axes(rows))
    paths = sweep.draw_all(found, build_summary.summarise(found), tmp_path)
    assert [p.name for p in paths] == ["overview.png", "against-terms.l2sp.weight.png"]


def test_line_colours_do_not_depend_on_what_a_picture_leaves_out(
    view, tmp_path, figures
):
    sweep.against_fact(view, "drift", tmp_path / "x.png")
    sweep_axes.against_axis(view, "optim.lr", tmp_path / "y.png")
    for name in METHODS:
        colours = {
            line(figures[f].axes[0], name).get_color() for f in ("x.png", "y.png")
        }
        assert len(colours) == 1


def test_an_odd_name_makes_a_plain_file(tmp_path):
    assert sweep._file("a/../b c<") == "a-..-b-c"
    assert sweep._file("//") == "axis"
