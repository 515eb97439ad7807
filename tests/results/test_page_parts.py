"""Parts of the report's page: its plots' markup, its table of outcomes, its rows."""

import matplotlib
import pytest
from matplotlib.figure import Figure

from jaxtl.results import build_summary, records
from jaxtl.results.inline_svg import inline_svg
from jaxtl.results.outcome_table import outcome_table
from jaxtl.results.plots import panels, point_labels, style
from jaxtl.results.plots.point_labels import Mark
from jaxtl.results.pretraining import pretraining_records
from jaxtl.results.records import Record
from jaxtl.results.statistics import t_interval


def record(name, seed, accuracy, **facts):
    result = {"val": {"accuracy": accuracy}, "test": {"accuracy": accuracy}}
    labels = {"run": name, "seed": seed}
    return Record(labels=labels, result=result | {"monitor": "accuracy"}, **facts)


def test_a_run_that_others_start_from_on_other_data_is_no_competitor():
    source = record("source", 0, 0.99, key="s/source/seed0", data="fonts")
    runs = [
        record(name, seed, 0.5 + 0.01 * seed, data="digits", init="s/source/seed0")
        for name in ("full", "L2-SP")
        for seed in range(3)
    ]
    probe = record("probe", 0, 0.6, key="s/probe/seed0", data="digits")
    then = record("then", 0, 0.6, data="digits", init="s/probe/seed0")
    collection = records.collect([source, *runs, probe, then])
    assert pretraining_records([source, *runs, probe, then]) == [source]
    summary = build_summary.summarize(collection)
    assert "source" not in [row.name for row in summary.rows]
    assert [row.name for row in summary.pretraining] == ["source"]
    assert summary.total == len(collection.records)


def test_outcomes_say_best_ties_and_too_few_seeds():
    rows = {"full": (0.80, 0.81, 0.82), "near": (0.8, 0.81, 0.825)}
    rows |= {"bad": (0.1, 0.11, 0.12), "lucky": (0.99,)}
    runs = [record(n, i, v) for n, values in rows.items() for i, v in enumerate(values)]
    table = outcome_table(build_summary.summarize(records.collect(runs)))
    words = {row[0]: row[-1] for row in table.rows}
    assert words["near"] == "best mean, tied"
    assert words["full"] == "tied with the best"
    assert words["bad"] == "worse than the best"
    assert words["lucky"] == "too few seeds to tell, though better"
    assert {table.rows[i][0] for i, _ in table.bold} == {"near", "full"}


@matplotlib.rc_context(style.SETTINGS)
def test_markup_of_two_plots_shares_no_id_and_has_the_colors_of_the_page(tmp_path):
    texts = []
    for name in ("a", "b"):
        figure = Figure()
        figure.subplots().set_title("<script>x</script> #000000")
        path = panels.save(figure, tmp_path / name, "title")
        texts.append(inline_svg(path.with_suffix(".svg").read_text(), name, "<title>"))
    for text in texts:
        assert "<script" not in text
        assert "#000000</text>" in text  # a name is no color
        assert "stroke: currentColor" in text
        assert "var(--paper)" in text
        assert "<style" not in text
    ids = [{part.split('"')[0] for part in text.split('id="')[1:]} for text in texts]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5,), None),
        ((0.5, 0.6), None),
        ((0.5, 0.5, 0.5), None),
        ((0.5, 0.9, 1.0), (80.0, 20.0)),  # cut at 100 %: half of 65.7 on both sides
    ],
)
def test_only_intervals_of_three_seeds_are_drawn_and_end_at_100(values, expected):
    arms = style.interval_arms(t_interval(values), "accuracy")
    if expected is None:
        assert arms is None
    else:
        assert arms[1] == pytest.approx(100 - 100 * sum(values) / len(values))
        assert arms[0] == pytest.approx(100 * t_interval(values).half)


def test_equal_names_have_equal_styles_and_32_names_different_ones():
    names = [f"m{i}" for i in range(32)]
    styles = style.line_styles(names)
    assert styles == style.line_styles(reversed(names))
    assert len({tuple(look.values()) for look in styles.values()}) == 32


def test_text_on_any_color_is_readable():
    steps = [i / 8 for i in range(9)]

    def luminance(rgb):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for rgb in ((r, g, b) for r in steps for g in steps for b in steps):
        dark = style.text_color(rgb) == style.DARK_TEXT
        high, low = (luminance(rgb), 0.0) if dark else (1.0, luminance(rgb))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_labels_of_crowded_marks_overlap_nothing():
    figure = Figure(figsize=(5.6, 3))
    axes = figure.subplots()
    points = [
        (i / 10 + j / 300, (i * 7 % 5) / 5, f"m{j}") for i in range(6) for j in range(4)
    ]
    marks = [Mark(axes, x, y, name) for x, y, name in points]
    axes.set(xlim=(-0.5, 1), ylim=(-0.5, 1.5))
    labels = point_labels.draw(figure, marks)
    assert len(labels) >= 4
    boxes = [point_labels.text_box(label) for label in labels]
    frame = axes.get_window_extent()
    places = [axes.transData.transform((mark.x, mark.y)) for mark in marks]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*place) for place in places)
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1  # noqa: PT018
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1  # noqa: PT018
