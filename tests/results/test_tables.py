"""Tables, sentences and files of a report, read back as a reader would."""

import csv
import io
import re

import numpy as np
import pytest
from rich.console import Console

from jaxtl.cli import main
from jaxtl.results import findings, records, tables, writers
from jaxtl.results.build_summary import summarise
from jaxtl.results.database import Database, Outcome

MEANS = {"scratch": 0.6, "full": 0.8, "A&B_50%": 0.85, "lost": 0.5}


@pytest.fixture
def folder(tmp_path):
    """Returns a sweep: four methods, two sizes, two rates, three seeds; one failed."""
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
    return summarise(records.read([folder]))


def cells(markdown):
    lines = markdown.strip().splitlines()
    return [
        [c.strip() for c in re.split(r"(?<!\\)\|", x)[1:-1]]
        for x in lines
        if "---" not in x
    ]


def test_main_table_has_what_was_measured(summary):
    head, *body = cells(writers.markdown(tables.main(summary)))
    assert head == [
        *("method", "labels_per_class", "chosen on val", "val accuracy %"),
        *("test accuracy %", "seeds", "− full", "p", "verdict", "drift"),
        *("trainable", "s/run", "remarks"),
    ]
    assert len(body) == 8
    lines = {(row[0], row[1]): dict(zip(head, row)) for row in body}
    best = lines["A&B_50%", "50"]
    line = next(x for x in summary.lines if x.name.startswith("A&B_50%, l"))
    assert best["chosen on val"] == "lr=0.001"
    assert best["test accuracy %"].startswith("**")
    assert best["trainable"] == "1,234"
    assert best["verdict"] == "better"
    mean = f"{100 * line.test.mean:.1f} ± {100 * line.test.half:.1f}"
    assert lines["A&B_50%", "5"]["test accuracy %"] == f"**{mean}**"
    assert lines["lost", "5"]["remarks"] == "loses to from-scratch"
    assert lines["full", "5"]["p"] == ""


def test_grid_shows_methods_by_the_other_axis(summary):
    head, *body = cells(writers.markdown(tables.grid(summary)))
    assert head == ["method", "5", "50"]
    assert [row[0] for row in body] == list(MEANS)
    assert [["**" in c for c in row] for row in body] == [
        [False] * 3,
        [False] * 3,
        [False, True, True],
        [False] * 3,
    ]


def test_all_settings_are_told_without_test(summary):
    sheet = tables.every(summary)
    assert len(sheet.rows) == 16
    assert not any("test" in name for name in sheet.columns)
    assert len(sheet.bold) == 8
    assert any(row[4] == "2 (1 failed)" for row in sheet.rows)
    short = tables.shortened(sheet, 3)
    assert [row[0] for row in short.rows] == ["A&B_50%", "A&B_50%", "full"]
    assert short.title.endswith("(the best 3 of 16 rows)")
    assert (0, 3) in short.bold
    assert (1, 3) not in short.bold  # the other rate


def test_terminal_leaves_columns_out_rather_than_cutting_text(summary):
    sheet = tables.main(summary)

    def printed(width):
        out = io.StringIO()
        Console(file=out, width=width).print(writers.terminal(sheet, width))
        return out.getvalue()

    wide, narrow = printed(250), printed(120)
    assert "s/run" in wide
    assert "s/run" not in narrow
    assert "…" not in wide + narrow
    sheet = tables.Sheet(title="[bold]", columns=("[red]",), rows=(("[blue]",),))
    assert all(word in printed(40) for word in ("[bold]", "[red]", "[blue]"))


def test_latex_is_escaped_and_has_as_many_cells_as_columns(summary):
    text = writers.latex(tables.main(summary))
    assert r"A\&B\_50\%" in text
    assert r"$\pm$" in text
    assert not re.search(r"(?<!\\)[%_#]", re.sub(r"\$[^$]*\$", "", text))
    [form] = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 9
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(form)}
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1
    assert writers.escape("\\^~{}") == (
        r"\textbackslash{}\textasciicircum{}\textasciitilde{}\{\}"
    )


def test_markdown_escapes_what_would_end_a_cell():
    sheet = tables.Sheet(title="", columns=("a|b",), rows=(("x*y",),))
    assert cells(writers.markdown(sheet)) == [["a\\|b"], ["x\\*y"]]


def test_csv_of_settings(summary):
    rows = list(csv.DictReader(io.StringIO(writers.settings_csv(summary))))
    assert len(rows) == 16
    chosen = [row for row in rows if row["chosen"] == "1"]
    assert len(chosen) == 8
    assert all((row["test_mean"] != "") == (row["chosen"] == "1") for row in rows)
    line = next(x for x in summary.lines if x.name == "full, labels_per_class=5")
    [row] = [
        r for r in chosen if (r["method"], r["data.labels_per_class"]) == ("full", "5")
    ]
    assert float(row["test_mean"]) == line.test.mean
    assert float(row["val_low"]) == line.val.low
    assert {r["verdict"] for r in chosen} == {"worse", "better", ""}


def test_csv_of_cells(folder):
    found = records.read([folder])
    rows = list(csv.DictReader(io.StringIO(writers.cells_csv(found))))
    assert len(rows) == 48
    for row, record in zip(rows, found.records):
        assert row["method"] == record.labels["method"]
        if record.status == "done":
            assert float(row["test.accuracy"]) == record.value("test", "accuracy")
    assert rows[-1]["status"] == "failed"
    assert rows[-1]["error"] == "no, diverged"


def test_sentences(summary):
    said = "\n".join(findings.conclusions(summary))
    assert "Highest mean test accuracy: A&B_50%, labels_per_class=5" in said
    assert "Against full, paired by seed, better: A&B_50%, labels_per_class=5" in said
    assert re.search(
        r"Negative transfer: lost, labels_per_class=5 loses to from-scratch, "
        r"−10\.\d ± \d\.\d points \(p ",
        said,
    )
    noted = "\n".join(findings.notes(summary))
    assert "47 of 48 cells are done." in noted
    assert "1 cell failed: lost, labels_per_class=50: no, diverged" in noted
    assert "optim.lr was chosen for each line by the best mean val accuracy" in noted
    assert "adjusted by Holm over 6 comparisons" in noted


def test_wilcoxon_with_few_seeds_says_that_it_finds_nothing(folder):
    found = summarise(records.read([folder]), test="wilcoxon")
    assert {x.comparison.verdict for x in found.lines if x.comparison} == {"tie"}
    assert "Wilcoxon's test can't find a difference" in " ".join(findings.notes(found))


def test_report_writes_its_files(folder, capsys, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "deep"
    assert main.main(["report", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "A study of methods." in said
    assert "only the chosen settings were looked at on test" in said
    text = (out / "report.md").read_text()
    assert text.startswith("# A study of methods.")
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (out / name).stat().st_size > 0
    for name in ("report.tex", "settings.csv", "cells.csv"):
        assert (out / name).exists()
    assert main.main(["report", str(folder), "--out", str(out), "--baseline", "x"]) == 1
    assert "method has no value 'x'" in capsys.readouterr().err


def test_report_compares_what_it_is_told_to(folder, capsys):
    arguments = ["report", str(folder), "--compare", "lr", "--split", "val"]
    assert main.main([*arguments, "--interval", "bootstrap"]) == 0
    said = capsys.readouterr().out
    assert "method, data.labels_per_class were chosen for each line" in said
    assert "percentile bootstrap" in said
    assert (folder / "report" / "report.md").exists()
