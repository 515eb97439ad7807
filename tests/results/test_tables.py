"""Tables, sentences and files of a report."""

import csv
import io
import re

import numpy as np
import pytest
from rich.console import Console

from jaxtl.cli import main
from jaxtl.results import findings, records, tables, writers
from jaxtl.results.build_summary import summarize
from jaxtl.results.database import Database, Outcome

MEANS = {"scratch": 0.6, "full": 0.8, "A&B_50%": 0.85, "lost": 0.5}


@pytest.fixture
def folder(tmp_path):
    """A sweep: four methods, two sizes, two rates, three seeds; one cell failed."""
    rng, cells, outcomes = np.random.default_rng(0), [], []
    for method, mean in MEANS.items():
        for size in (5, 50):
            for lr in (0.001, 0.01):
                for seed in range(3):
                    labels = {"method": method, "data.labels_per_class": size}
                    labels |= {"optim.lr": lr, "seed": seed}
                    value = mean + 0.002 * size - lr + rng.normal(0, 0.003)
                    result = {
                        "val": {"accuracy": value},
                        "test": {"accuracy": value - 0.02},
                        "monitor": "accuracy",
                        "drift": 1.5,
                        "seconds": 0.25,
                        "trainable_parameters": 1234,
                        "versions": {"jax": "0"},
                    }
                    key = str(len(cells))
                    cells.append((key, labels))
                    outcomes.append(Outcome(key, "done", result, {}))
    outcomes[-1] = outcomes[-1]._replace(status="failed", error="no, diverged")
    with Database(tmp_path, create=True) as database:
        database.set_meta(doc="A study of methods.\n\nMore.")
        database.add(cells)
        database.finish(outcomes)
    return tmp_path


@pytest.fixture
def summary(folder):
    return summarize(records.read([folder]))


def parse(markdown):
    """Splits a Markdown table into its rows of cells, the heading first."""
    lines = [line for line in markdown.strip().splitlines() if "---" not in line]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_main_table_has_a_row_per_compared_setting(summary):
    head, *body = parse(writers.markdown(tables.main_table(summary)))
    assert head == [
        *("method", "labels_per_class", "test accuracy %", "val accuracy %"),
        *("chosen on val", "seeds", "− full", "p", "verdict", "drift"),
        *("trainable", "s/run", "remarks"),
    ]
    assert len(body) == 8
    rows = {(row[0], row[1]): dict(zip(head, row)) for row in body}
    best = rows["A&B_50%", "50"]
    estimate = next(r.test for r in summary.rows if r.name.startswith("A&B_50%, l"))
    assert best["chosen on val"] == "lr=0.001"
    assert best["test accuracy %"].startswith("**")
    assert best["trainable"] == "1,234"
    assert best["verdict"] == "better"
    text = f"{100 * estimate.mean:.1f} ± {100 * estimate.half:.1f}"
    assert rows["A&B_50%", "5"]["test accuracy %"] == f"**{text}**"
    assert rows["lost", "5"]["remarks"] == "loses to from-scratch"
    assert rows["full", "5"]["p"] == ""


def test_the_grid_shows_methods_by_the_other_axis(summary):
    head, *body = parse(writers.markdown(tables.method_grid(summary)))
    assert head == ["method", "5", "50"]
    assert [row[0] for row in body] == list(MEANS)
    assert [["**" in c for c in row] for row in body] == [
        [False] * 3,
        [False] * 3,
        [False, True, True],
        [False] * 3,
    ]


def test_the_table_of_all_settings_has_no_test_results(summary):
    table = tables.settings_table(summary)
    assert len(table.rows) == 16
    assert not any("test" in name for name in table.columns)
    assert len(table.bold) == 8
    assert any(row[4] == "2 (1 failed)" for row in table.rows)
    short = tables.shortened(table, 3)
    assert [row[0] for row in short.rows] == ["A&B_50%", "A&B_50%", "full"]
    assert short.title.endswith("(the best 3 of 16 rows)")
    assert (0, 3) in short.bold
    assert (1, 3) not in short.bold  # the other rate


def test_a_narrow_terminal_leaves_columns_out_rather_than_cutting_text(summary):
    table = tables.main_table(summary)

    def printed(width):
        out = io.StringIO()
        Console(file=out, width=width).print(writers.fitted_rich_table(table, width))
        return out.getvalue()

    wide, narrow = printed(250), printed(120)
    assert "s/run" in wide
    assert "s/run" not in narrow
    assert "…" not in wide + narrow
    table = tables.TextTable(title="[bold]", columns=("[red]",), rows=(("[blue]",),))
    assert all(word in printed(40) for word in ("[bold]", "[red]", "[blue]"))


def test_latex_is_escaped_and_has_as_many_cells_as_columns(summary):
    text = writers.latex(tables.main_table(summary))
    assert r"A\&B\_50\%" in text
    assert r"$\pm$" in text
    assert not re.search(r"(?<!\\)[%_#]", re.sub(r"\$[^$]*\$", "", text))
    [alignment] = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 9
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(alignment)}
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1
    escaped = writers.latex(tables.TextTable(title="\\^~{}", columns=("",), rows=()))
    assert r"\textbackslash{}\textasciicircum{}\textasciitilde{}\{\}" in escaped


def test_markdown_escapes_characters_that_would_end_a_cell():
    table = tables.TextTable(title="", columns=("a|b",), rows=(("x*y",),))
    assert parse(writers.markdown(table)) == [["a\\|b"], ["x\\*y"]]


def test_the_csv_of_settings_has_test_results_of_the_chosen_ones(summary):
    rows = list(csv.DictReader(io.StringIO(writers.settings_csv(summary))))
    assert len(rows) == 16
    chosen = [row for row in rows if row["chosen"] == "1"]
    assert len(chosen) == 8
    assert all((row["test_mean"] != "") == (row["chosen"] == "1") for row in rows)
    full = next(r for r in summary.rows if r.name == "full, labels_per_class=5")
    [row] = [
        r for r in chosen if (r["method"], r["data.labels_per_class"]) == ("full", "5")
    ]
    assert float(row["test_mean"]) == full.test.mean
    assert float(row["val_low"]) == full.val.low
    assert {r["verdict"] for r in chosen} == {"worse", "better", ""}


def test_the_csv_of_cells_has_a_line_per_record(folder):
    collection = records.read([folder])
    rows = list(csv.DictReader(io.StringIO(writers.cells_csv(collection))))
    assert len(rows) == 48
    for row, record in zip(rows, collection.records):
        assert row["method"] == record.labels["method"]
        if record.status == "done":
            assert float(row["test.accuracy"]) == record.value("test", "accuracy")
    assert rows[-1]["status"] == "failed"
    assert rows[-1]["error"] == "no, diverged"


def test_conclusions_and_notes_are_sentences(summary):
    conclusions = "\n".join(findings.conclusions(summary))
    assert "Highest mean test accuracy: A&B_50%, labels_per_class=5" in conclusions
    assert (
        "Against full, paired by seed, better: A&B_50%, labels_per_class=5"
        in conclusions
    )
    assert re.search(
        r"Negative transfer: lost, labels_per_class=5 loses to from-scratch, "
        r"−10\.\d ± \d\.\d points \(p ",
        conclusions,
    )
    notes = "\n".join(findings.notes(summary))
    assert "47 of 48 cells are done." in notes
    assert "1 cell failed: lost, labels_per_class=50: no, diverged" in notes
    assert "optim.lr was chosen for each line by the best mean val accuracy" in notes
    assert "adjusted by Holm over 6 comparisons" in notes


def test_notes_tell_that_wilcoxon_finds_nothing_with_few_seeds(folder):
    summary = summarize(records.read([folder]), test="wilcoxon")
    assert {r.comparison.verdict for r in summary.rows if r.comparison} == {"tie"}
    notes = " ".join(findings.notes(summary))
    assert "Wilcoxon's test can't find a difference" in notes


def test_report_writes_its_files(folder, capsys, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "deep"
    assert main.main(["report", str(folder), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "A study of methods." in output
    assert "only the chosen settings were looked at on test" in output
    text = (out / "report.md").read_text()
    assert text.startswith("# A study of methods.")
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (out / name).stat().st_size > 0
    for name in ("report.tex", "settings.csv", "cells.csv"):
        assert (out / name).exists()
    assert main.main(["report", str(folder), "--out", str(out), "--baseline", "x"]) == 1
    assert "method has no value 'x'" in capsys.readouterr().err


def test_report_compares_the_axes_given(folder, capsys):
    arguments = ["report", str(folder), "--compare", "lr", "--split", "val"]
    assert main.main([*arguments, "--interval", "bootstrap"]) == 0
    output = capsys.readouterr().out
    assert "method, data.labels_per_class were chosen for each line" in output
    assert "percentile bootstrap" in output
    assert (folder / "report" / "report.md").exists()
