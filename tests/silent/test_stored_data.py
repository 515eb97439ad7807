"""A finished run measures itself on the rows that it was split into, or not at all."""

import csv
import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.analysis import domain_shift, importance, linear_probe
from jaxtl.analysis.ensemble import members
from jaxtl.cli import main
from jaxtl.core.errors import DataChanged, UserError
from jaxtl.data import splits
from jaxtl.evaluation import feature_cache
from jaxtl.export import predict
from jaxtl.results import comparability, records
from jaxtl.training import inputs, run_dir, setup

ROWS = 270  # 180 of the classes b and c, of which 36 are test


def table(seed, wrong=()):
    """Lines of a CSV: blobs a, b, c in the plane; the labels of `wrong` are swapped."""
    rng = np.random.default_rng(seed)
    labels = np.arange(ROWS) % 3
    points = rng.normal(size=(ROWS, 2)) + 6 * np.eye(3)[labels][:, :2]
    names = ["abc"[label] for label in labels]
    for row in wrong:
        names[row] = {"b": "c", "c": "b"}[names[row]]
    return [f"{u:.4f},{v:.4f},{name}" for (u, v), name in zip(points, names)]


def write(path, lines):
    path.write_text("u,v,label\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two tables, a run, and one that began from it; wrong labels."""
    folder = tmp_path_factory.mktemp("stored")
    wrong = (1, 10, 50, 101)
    write(folder / "target.csv", table(0, wrong))
    write(folder / "source.csv", table(1))
    options = {"target": "label", "classes": ("b", "c"), "split_seed": 0}
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.CSV(str(folder / "target.csv"), **options),
        streams={"source": tl.data.CSV(str(folder / "source.csv"), **options)},
        optim=tl.optim.AdamW(lr=3e-2),
        steps=60,
        batch=32,
        evaluate_every=60,
    )
    first = setup.setup(exp, folder / "first")
    tl.train(first, progress=False)
    init = tl.pretrained.FromRun(str(folder / "first"))
    exp = dataclasses.replace(exp, init=init)
    run = setup.setup(exp, folder / "run")
    tl.train(run, progress=False)
    return folder, exp, wrong


@pytest.fixture
def place(trained):
    """The folder, restored afterwards."""
    folder, exp, wrong = trained
    contents = {p: p.read_text() for p in folder.glob("*.csv")}
    yield folder, exp, wrong
    for path, content in contents.items():
        path.write_text(content)


def append_rows(folder, name="target.csv"):
    write(folder / name, [*table(0), *table(7)[:54]])


def test_appended_rows_would_move_trained_rows_into_the_test_split(place):
    """The fault itself: splits that are drawn anew hold rows that were trained on."""
    folder, exp, _ = place
    before = tl.data.prepare(exp.data)
    trained_on = {before.origins[row] for row in before.rows["train"]}
    append_rows(folder)
    after = tl.data.prepare(exp.data)
    tested = [after.origins[row] for row in after.rows["test"]]
    assert len(trained_on.intersection(tested)) > 10


COMMANDS = {
    "eval": ("eval", "RUN"),
    "export": ("export", "RUN", "OUT"),
    "labels": ("labels", "RUN", "--folds", "2"),
    "labels in sample": ("labels", "RUN", "--folds", "0"),
    "probe": ("probe", "RUN"),
    "wise": ("wise", "RUN"),
    "soup": ("soup", "RUN", "FIRST"),
    "ensemble": ("ensemble", "RUN", "FIRST"),
    "importance": ("importance", "RUN"),
    "diagnose": ("diagnose", "RUN"),
    "resume": ("resume", "RUN"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_run_whose_data_grew(command, place, tmp_path, capsys):
    folder = place[0]
    append_rows(folder)
    names = {"RUN": folder / "run", "FIRST": folder / "first", "OUT": tmp_path / "x"}
    arguments = [str(names.get(word, word)) for word in COMMANDS[command]]
    assert main.main(arguments) == 1
    error = capsys.readouterr().err
    assert "target.csv had 180 rows when the run began and has 216 now" in error
    assert "init=tl.pretrained.FromRun(" in error
    assert not (tmp_path / "x").exists()


READERS = {
    "load_model": lambda run: tl.load_model(run).datasets,
    "evaluate": lambda run: tl.evaluate(tl.load_model(run), "test"),
    "reopen": setup.reopen,
    "resume": tl.resume,
    "probe": linear_probe.probe,
    "members": lambda run: members.load_members([run, run.parent / "first"]),
    "importance": importance.from_run,
    "diagnose": domain_shift.diagnose,
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_one_changed_label(reader, place):
    """Nothing but one cell changes: no count, no size, no class."""
    folder = place[0]
    lines = table(0, place[2])
    row = next(i for i in range(200, ROWS) if lines[i].endswith(",b"))
    lines[row] = lines[row][:-1] + "c"
    write(folder / "target.csv", lines)
    with pytest.raises(DataChanged, match="has 180 rows as before, but not the same"):
        READERS[reader](folder / "run")


@pytest.mark.parametrize("reader", ["resume", "diagnose"])
def test_who_reads_a_stream_refuses_a_changed_one(reader, place):
    folder = place[0]
    append_rows(folder, "source.csv")
    with pytest.raises(DataChanged, match=r"source\.csv had 180 rows"):
        READERS[reader](folder / "run")
    assert tl.evaluate(tl.load_model(folder / "run"), "test")["accuracy"] > 0.8


def test_the_weights_can_be_evaluated_on_other_data_explicitly(place):
    folder, exp, _ = place
    write(folder / "other.csv", table(3))
    data = tl.data.CSV(
        str(folder / "other.csv"), target="label", classes=("b", "c"), test=0.5
    )
    init = tl.pretrained.FromRun(str(folder / "run"))
    run = setup.setup(
        dataclasses.replace(exp, data=data, streams={}, init=init, steps=0)
    )
    assert tl.evaluate(run, "test")["accuracy"] > 0.8
    append_rows(folder)
    assert tl.evaluate(
        setup.setup(dataclasses.replace(exp, init=init, steps=0)), "test"
    )


def test_the_stored_split_is_used_where_the_data_are_the_same(place, tmp_path):
    """A run keeps its rows, whatever a later version would draw."""
    folder = place[0]
    run = shutil.copytree(folder / "run", tmp_path / "run")
    data = tl.load_model(run).datasets["target"]
    rows = {**data.rows, "test": data.rows["val"], "val": data.rows["test"]}
    inputs.save_splits(run, {"target": dataclasses.replace(data, rows=rows)})
    for reader in (tl.load_model, setup.reopen):
        again = reader(run).datasets["target"]
        np.testing.assert_array_equal(again.rows["test"], data.rows["val"])
    with pytest.raises(UserError, match="split differently"):
        tl.resume(run)


def test_splits_that_earlier_runs_stored_are_still_compared(place, tmp_path):
    """Their fingerprint is of 32 rows and all labels; it is computed as it was then."""
    data = tl.data.prepare(place[1].data)
    path = tmp_path / "splits.npz"
    rows = {f"rows_{name}": rows for name, rows in data.rows.items()}
    y = data.y[data.rows["train"]]
    np.savez(path, fingerprint="1234567890abcdef", y_train=y, **rows)
    with pytest.raises(DataChanged, match="has 180 rows whose fingerprint"):
        splits.load_splits(path, data)


def test_label_errors_are_listed_by_row_and_line_of_the_file(place, tmp_path):
    """With classes=(b, c) a row's number in the data set is not that in the file."""
    folder, _, wrong = place
    out = tmp_path / "labels"
    arguments = ["labels", str(folder / "run"), "--folds", "0", "--out", str(out)]
    assert main.main(arguments) == 0
    with open(out / "errors.csv", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    data = tl.load_model(folder / "run").datasets["target"]
    trained_on = {data.origins[row] for row in data.rows["train"]}
    path = str(folder / "target.csv")
    expected = {f"{path}:{row + 2}" for row in wrong} & trained_on
    assert listed
    assert {line["origin"] for line in listed} <= expected
    lines = (folder / "target.csv").read_text().splitlines()
    for line in listed:
        number = int(line["origin"].rpartition(":")[2])
        assert lines[number - 1].endswith(f",{line['given']}")


def test_a_stored_run_is_read_with_its_own_copy_of_the_experiment_file(tmp_path):
    """Two files of one name: each run keeps the data set that its file defined."""
    text = """
import dataclasses
import numpy as np
import jaxtl as tl

@dataclasses.dataclass(frozen=True, kw_only=True)
class Blobs(tl.data.Data):
    def read(self):
        return tl.data.Table(x=np.full((20, 2), VALUE), y=np.arange(20) % 2)

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(2,)), data=Blobs(), optim=tl.optim.SGD(lr=0.1))
"""
    for value in ("1.0", "2.0"):
        folder = tmp_path / value
        folder.mkdir()
        path = folder / "blobs.py"
        path.write_text(text.replace("VALUE", value))
        run_dir.create(folder / "run", overwrite=False)
        run_dir.write_experiment(folder / "run", tl.load(path), file=path)
    for value in ("1.0", "2.0", "1.0"):
        exp = run_dir.read_experiment(tmp_path / value / "run")
        assert tl.data.prepare(exp.data).x[0, 0] == float(value)


def test_weights_that_are_written_again_are_read_again(tmp_path):
    """Their checkpoint is written into the folders that are there already."""
    rng = np.random.default_rng(0)
    data = tl.data.Arrays(x=rng.normal(size=(30, 2)), y=np.arange(30) % 2)
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(2,)), data=data, optim=tl.optim.SGD(lr=0.1), steps=0
    )
    tl.train(setup.setup(exp, tmp_path / "run"), progress=False)
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    before = init.read().params
    folder = tmp_path / "run" / "checkpoints"
    times = folder.stat().st_atime_ns, folder.stat().st_mtime_ns
    other = dataclasses.replace(exp, seed=1)
    tl.train(setup.setup(other, tmp_path / "other"), progress=False)
    for path in (tmp_path / "other" / "checkpoints").rglob("*"):
        target = folder / path.relative_to(tmp_path / "other" / "checkpoints")
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    os.utime(folder, ns=times)
    expected = tl.pretrained.FromRun(str(tmp_path / "other")).read().params
    leaves = [tl.tree.flatten(p) for p in (before, init.read().params, expected)]
    name = max(leaves[0])
    np.testing.assert_array_equal(leaves[1][name], leaves[2][name])
    assert any(not np.array_equal(leaves[0][n], leaves[1][n]) for n in leaves[0])


def test_predictions_name_lines_as_counted_in_the_file(place, tmp_path):
    folder = place[0]
    bundle = tmp_path / "bundle"
    assert main.main(["export", str(folder / "run"), str(bundle)]) == 0
    path = tmp_path / "new.csv"
    path.write_text("u,v\n\n1,5\n\n9,0\n")
    predictions = predict.predict(bundle, path)
    origins = [prediction["origin"] for prediction in predictions]
    assert origins == [f"{path}:3", f"{path}:5"]


STUDY = """
import jaxtl as tl

SEEDS = (0, 1)
SWEEP = {"seed": [0, 1]}

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(2,)), data=tl.data.CSV(PATH, target="label"),
        optim=tl.optim.SGD(lr=0.1), steps=1, batch=8)
"""


def test_a_study_is_not_continued_on_changed_data(tmp_path, capsys):
    """Its finished runs and the missing one would stand in one table."""
    path = tmp_path / "data.csv"
    write(path, table(0))
    file = tmp_path / "study.py"
    file.write_text(STUDY.replace("PATH", repr(str(path))))
    out = tmp_path / "out"
    assert main.main(["run", str(file), "--out", str(out)]) == 0
    shutil.rmtree(out / "seed1")
    write(path, table(0)[:-30])
    assert main.main(["resume", str(out)]) == 1
    printed = "".join(capsys.readouterr())
    assert "the data have changed since runs of" in " ".join(printed.split())
    assert not (out / "seed1" / "result.json").exists()
    write(path, table(0))
    assert main.main(["resume", str(out)]) == 0
    stored = run_dir.read_json(out / "seed1" / "result.json")
    [source] = stored["contents"]
    stored["contents"] = {source: "0" * 32}  # as if it had been trained on other data
    run_dir.write_json(out / "seed1" / "result.json", stored)
    capsys.readouterr()
    for command in ("compare", "report"):
        assert main.main([command, str(out)]) == 1
        assert "different contents of the same data set" in capsys.readouterr().err


def test_a_sweep_stores_what_its_cells_read_and_refuses_other_contents(
    tmp_path, capsys
):
    path = tmp_path / "data.csv"
    write(path, table(0))
    file = tmp_path / "sweep.py"
    file.write_text(STUDY.replace("PATH", repr(str(path))))
    arguments = ["sweep", str(file), "--out", str(tmp_path / "out")]
    assert main.main(arguments) == 0
    write(path, table(0)[:-30])
    file.write_text(file.read_text().replace('"seed": [0, 1]', '"seed": [0, 1, 2]'))
    capsys.readouterr()
    assert main.main(arguments) == 1
    assert "the data have changed since runs of" in capsys.readouterr().err


def test_one_table_does_not_hold_results_on_two_contents_of_a_file():
    def record(fingerprint):
        result = {"val": {"accuracy": 0.5}, "contents": {"a": fingerprint}}
        return records.Record(labels={}, status="done", result=result)

    comparability.check_comparable(records.collect([record("x"), record("x")]))
    with pytest.raises(UserError, match="different contents of the same data set"):
        comparability.check_comparable(records.collect([record("x"), record("y")]))


def test_a_run_is_not_continued_from_other_initial_weights(place, tmp_path):
    """θ₀ is read again from the path that init= names: wise would mix two sources."""
    folder, exp, _ = place
    source = shutil.copytree(folder / "first", tmp_path / "source")
    init = tl.pretrained.FromRun(str(source))
    setup.setup(dataclasses.replace(exp, init=init), tmp_path / "run")
    assert tl.resume(tmp_path / "run").source.params is not None
    shutil.rmtree(source)
    shutil.copytree(folder / "run", source)
    with pytest.raises(UserError, match=r"the weights that .* began from .* have chan"):
        tl.resume(tmp_path / "run")
    assert main.main(["wise", str(tmp_path / "run")]) == 1


def test_cached_features_depend_on_all_that_they_are_computed_from(place):
    run = setup.reopen(place[0] / "run")
    data, pre = run.datasets["target"], run.preprocess
    weights, stages, rows = run.weights(), run.network.stages[:1], np.arange(20)

    def key(run=run, weights=weights, data=data, pre=pre, rows=rows):
        return feature_cache.cache_key(run, weights, stages, data, pre, rows)

    x = data.x.copy()
    x[7, 1] += 1
    changed_weights = jax.tree.map(lambda leaf: leaf.at[..., -1].add(1), weights)
    keys = [
        key(),
        key(data=dataclasses.replace(data, x=x)),
        key(weights=changed_weights),
        key(rows=rows[::-1]),
        key(pre=dataclasses.replace(pre, mean=None)),
        key(pre=dataclasses.replace(pre, scale=2.0)),
        key(pre=dataclasses.replace(pre, offset=(1.0, 0.0))),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
