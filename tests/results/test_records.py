"""Records as they are read from sweeps and from directories of runs."""

import json
import os

import pytest

from jaxtl.cli import main
from jaxtl.core.errors import UserError
from jaxtl.results import build_summary, findings, records, settings
from jaxtl.results.database import Database, Outcome
from jaxtl.results.records import Record
from jaxtl.training import run_dir


def write_sweep(folder, values):
    """Writes a sweep with a cell per test accuracy."""
    folder.mkdir(parents=True)
    with Database(folder, create=True) as database:
        database.set_meta(doc="A sweep.\n\nMore.")
        database.add(
            (str(s), {"method": "full", "seed": s}) for s in range(len(values))
        )
        database.finish(
            Outcome(str(seed), "done", {"test": {"accuracy": value}}, {})
            for seed, value in enumerate(values)
        )
    return folder


def write_run(folder, *, variant="", seed=0, file=None):
    folder.mkdir(parents=True)
    stored = {"variant": variant, "experiment": {"seed": seed}, "file": file}
    (folder / run_dir.MARK).write_text(json.dumps(stored))
    (folder / "result.json").write_text(json.dumps({"test": {"accuracy": 0.5}}))


def test_the_same_labels_in_two_folders_get_an_axis(tmp_path):
    paths = [write_sweep(tmp_path / name, [0.8] * 5) for name in ("first", "second")]
    collection = records.read([*paths, paths[0]])
    assert len(collection.records) == 10
    assert collection.axes["folder"] == ("first", "second")


def test_runs_named_by_setting_become_two_axes():
    names = ("src", "mnist/full", "mnist/near", "cifar/full")
    runs = [Record(labels={"run": name, "seed": 0}) for name in names]
    axes = records.collect(runs).axes
    assert axes["setting"] == ("mnist", "cifar")
    assert axes["run"] == ("src", "full", "near")
    # One setting alone is no axis.
    assert records.collect(runs[:3]).axes["run"] == names[:3]


def test_nan_is_stored_as_null_and_damages_no_row(tmp_path):
    path = write_sweep(tmp_path / "a", [0.8, float("nan")])
    with Database(path) as database:
        assert set(database.statuses().values()) == {"done"}
    values = [r.value("test", "accuracy") for r in records.read([path]).records]
    assert values == [0.8, None]


def test_the_title_is_the_first_line_of_the_docstring(tmp_path):
    assert records.read([write_sweep(tmp_path / "a", [0.8])]).title == "A sweep."


def test_runs_are_named_by_their_variant_or_their_directory(tmp_path):
    write_run(tmp_path / "study" / "slow_one" / "seed3", variant="slow one", seed=3)
    write_run(tmp_path / "alone", seed=1)
    study = records.read([tmp_path / "study"])
    assert [dict(r.labels) for r in study.records] == [{"run": "slow one", "seed": 3}]
    both = records.read([tmp_path / "study", tmp_path / "alone"])
    assert both.axes["run"] == ("study/slow one", "alone")


def test_studies_with_variants_of_one_name_are_kept_apart(tmp_path):
    """Their runs would count as seeds of one setting, the last of each seed alone."""
    for study in ("mnist", "usps"):
        for seed in (0, 1):
            for variant in ("full", "L2 SP"):
                folder = tmp_path / study / variant.replace(" ", "_") / f"seed{seed}"
                write_run(folder, variant=variant, seed=seed)
    write_run(tmp_path / "usps" / "only_here" / "seed0", variant="only here")
    collection = records.read([tmp_path])
    assert collection.axes == {
        "setting": ("mnist", "usps"),
        "run": ("L2 SP", "full", "only here"),
        "seed": (0, 1),
    }
    groups = settings.group_by_setting(collection.records)
    assert [len(group.values("test", "accuracy")) for group in groups] == [
        2,
        2,
        2,
        2,
        1,
    ]


def test_a_study_within_another_one_has_a_name_of_its_own(tmp_path):
    write_run(tmp_path / "a" / "x" / "seed0", variant="a/x")
    write_run(tmp_path / "old" / "a" / "x" / "seed1", variant="a/x", seed=1)
    labels = [dict(r.labels) for r in records.read([tmp_path]).records]
    assert {"setting": "a", "run": "x", "seed": 0} in labels
    assert {"setting": "old/a", "run": "x", "seed": 1} in labels


def test_runs_by_directory_share_the_name_of_their_seeds(tmp_path):
    for seed in (10, 9):
        write_run(tmp_path / "a" / f"seed{seed}", variant="x", seed=seed)
    write_run(tmp_path / "b")
    labels = [dict(r.labels) for r in records.read_by_directory([tmp_path])]
    assert labels == [
        {"run": str(tmp_path / "a"), "seed": 9},
        {"run": str(tmp_path / "a"), "seed": 10},
        {"run": str(tmp_path / "b")},
    ]
    [record] = records.read_by_directory([tmp_path / "a" / "seed9"])
    assert record.labels == {"run": str(tmp_path / "a" / "seed9")}


def write_stopped_study(folder):
    """Writes a study of two variants: done, failed, interrupted, and waiting runs."""
    variants = ["a/full head", "b"]
    names = [f"{v}/seed{s}" for v in ("a/full_head", "b") for s in range(3)]
    write_run(folder / names[0], variant=variants[0], seed=0)
    begun = ((names[1], variants[0], 1), (names[2], variants[0], 2), (names[3], "b", 0))
    for name, variant, seed in begun:  # the second failed after it had begun
        write_run(folder / name, variant=variant, seed=seed)
        (folder / name / "result.json").unlink()
    (folder / names[1] / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 5, "loss": 1.0}\n'
    )
    failure = {"run": names[2], "variant": variants[0], "seed": 2, "error": "NaN."}
    (folder / run_dir.FAILURES).write_text(json.dumps([failure]))
    study = {"file": "x.py", "variants": variants, "runs": names}
    (folder / run_dir.STUDY).write_text(json.dumps(study))
    return folder


def test_runs_without_a_result_are_records_with_their_status(tmp_path, capsys):
    study = write_stopped_study(tmp_path / "study")
    collection = records.read([study])
    states = {tuple(r.labels.values()): r.status for r in collection.records}
    assert states == {
        ("a/full head", 0): "done",
        ("a/full head", 1): "interrupted",
        ("a/full head", 2): "failed",
        ("b", 0): "interrupted",
        ("b", 1): "waiting",
        ("b", 2): "waiting",
    }
    assert len(collection.records) == len(states)
    errors = [r.error for r in collection.records if r.status == "interrupted"]
    run = study / "a" / "full_head" / "seed1"
    assert errors[0] == (
        f"interrupted after step 5; `jaxtl resume {run}` goes on with it."
    )
    assert "before its first logged step" in errors[1]
    summary = build_summary.summarize(collection)
    first, second = summary.settings
    assert (first.test.mean, first.seeds) == (0.5, (0,))
    assert (first.failed, first.interrupted, first.unfinished) == (1, 1, 0)
    assert (second.test, second.interrupted, second.unfinished) == (None, 1, 2)
    said = findings.progress(summary)
    assert said[0] == "1 of 6 cells are done."
    assert "2 cells interrupted" in said[2]
    assert "a/full head, b" in said[2]
    capsys.readouterr()
    assert main.main(["compare", str(study)]) == 0
    said = capsys.readouterr().out
    assert f"left out: {study / 'b' / 'seed1'}: waiting" in said
    assert f"left out: {run.parent / 'seed2'}: failed: NaN." in said
    assert f"left out: {run}: {errors[0]}" in said
    # A process that trains in the directory: this one.
    (run / run_dir.LOCK).write_text(str(os.getpid()))
    assert records.read([run.parent]).records[1].status == "running"
    # A run beside others, of no study.
    write_run(tmp_path / "more" / "one")
    write_run(tmp_path / "more" / "two")
    (tmp_path / "more" / "two" / "result.json").unlink()
    beside = records.read([tmp_path / "more"]).records
    assert [r.status for r in beside] == ["done", "interrupted"]


def test_directories_without_results_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no directory"):
        records.read([tmp_path / "none"])
    with pytest.raises(UserError, match="holds neither a sweep nor a finished run"):
        records.read([tmp_path])
    with pytest.raises(UserError, match=r"holds no finished run.*jaxtl resume"):
        records.read_by_directory([tmp_path])


def test_runs_of_one_experiment_are_named_by_its_file(tmp_path):
    study = tmp_path / "20260101-120000"
    for seed in (0, 1):
        write_run(study / f"seed{seed}", file="usps_mnist.py", seed=seed)
    (study / "study.json").write_text(json.dumps({"file": "usps_mnist.py"}))
    assert records.read([study]).axes["run"] == ("usps_mnist",)
    assert records.read([study / "seed0"]).axes["run"] == ("usps_mnist",)
    write_run(tmp_path / "one", file="digits.py")
    assert records.read([tmp_path / "one"]).axes["run"] == ("digits",)
