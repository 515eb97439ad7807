"""Loggers: what each wrote is read back by its own package, across an interruption."""

import dataclasses
import json
import struct

import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.sweep.cell_key import experiment_digest
from jaxtl.training import loggers, loop

EXPERIMENT = tl.Experiment(
    model=tl.models.MLP(widths=(4,)),
    data=tl.data.Digits(limit=120),
    steps=6,
    batch=16,
    log_every=1,
    save_every=2,
    evaluate_every=5,
)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """No server, and files in the folder of the test."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")


def interrupted_and_resumed(folder, monkeypatch, name):
    """Trains a run that fails at step 5, after its checkpoint of step 4, to the end."""
    exp = dataclasses.replace(EXPERIMENT, log=name)

    def fails(*_):
        raise RuntimeError("the machine went away")

    run = tl.setup(exp, folder)
    with monkeypatch.context() as context:
        context.setattr(loop, "_evaluate", fails)
        with pytest.raises(RuntimeError, match="went away"):
            tl.train(run)
    first = (folder / loggers.STATE).exists() and (folder / loggers.STATE).read_text()
    result = tl.train(tl.resume(folder))
    if first:  # the identities of the log go on
        assert (folder / loggers.STATE).read_text() == first
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    losses = {line["step"]: line["loss"] for line in train}
    return result, losses


def events(folder):
    """Yields the events of tensorboardX's files: (length, crc, content, crc) each."""
    from tensorboardX.proto import event_pb2

    for file in sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime):
        content = file.read_bytes()
        while content:
            [length] = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def test_tensorboard_reads_one_curve(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    run = tmp_path / "run"
    result, losses = interrupted_and_resumed(run, monkeypatch, "tensorboard")
    written, starts = {}, []
    for event in events(run / "tensorboard"):
        if event.session_log.status:
            starts.append(event.step)
        for value in event.summary.value:
            written.setdefault(value.tag, {})[event.step] = value.simple_value
    assert written["train/loss"] == pytest.approx(losses)
    assert starts == [5]  # what came after step 4 is read from the second session
    best = written["best/test/accuracy"][6]
    assert best == pytest.approx(result["test"]["accuracy"])
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    reader = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    scalars = [(s.step, s.value) for s in reader.Scalars("train/loss")]
    assert dict(scalars) == pytest.approx(losses)
    assert len(scalars) == len(losses)


def records(file):
    """Yields the messages of a .wandb file: LevelDB's log behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, message = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:  # no header fits into the rest of a block
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    result, losses = interrupted_and_resumed(run, monkeypatch, "wandb")
    identity = json.loads((run / loggers.STATE).read_text())["wandb"]["id"]
    files = sorted(run.glob(f"wandb/offline-run-*/run-{identity}.wandb"))
    assert len(files) == 2
    written, config, name = {}, {}, ""
    for file in files:
        for record in records(file):
            name = record.run.display_name or name
            for item in record.run.config.update:
                config[item.key] = json.loads(item.value_json)
            row = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            for key in {"train/loss", "best/test/accuracy"} & row.keys():
                written.setdefault(key, {})[row["step"]] = row[key]
    assert name.endswith("/run")
    assert config["optim.lr"] == EXPERIMENT.optim.lr
    assert written["train/loss"] == pytest.approx(losses)
    assert written["best/test/accuracy"] == {6: result["test"]["accuracy"]}


def test_mlflow_goes_on_with_the_same_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    result, losses = interrupted_and_resumed(tmp_path / "run", monkeypatch, "mlflow")
    client = mlflow.MlflowClient()
    [stored] = client.search_runs(
        [client.get_experiment_by_name("digits").experiment_id]
    )
    assert stored.info.status == "FINISHED"
    assert stored.data.params["optim.lr"] == str(EXPERIMENT.optim.lr)
    accuracy = stored.data.metrics["best/test/accuracy"]
    assert accuracy == pytest.approx(result["test"]["accuracy"])
    history = client.get_metric_history(stored.info.run_id, "train/loss")
    assert {m.step: m.value for m in history} == pytest.approx(losses)


class Failing:
    """A logger whose server goes away at the third step."""

    def __init__(self, run):
        pass

    def scalars(self, values, step):
        if step == 3:
            raise ConnectionError("no route to host")

    def close(self, status):
        raise AssertionError("a logger that failed is not called again")


def test_a_logger_that_fails_ends_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(loggers._KINDS, "wandb", Failing)
    monkeypatch.setattr(loggers, "check_installed", lambda exp: None)
    exp = dataclasses.replace(EXPERIMENT, log=["wandb"])
    result = tl.train(tl.setup(exp, tmp_path / "run"), progress=False)
    plain = tl.train(tl.setup(EXPERIMENT), progress=False)
    assert result["test"] == plain["test"]
    error = capsys.readouterr().err
    assert error.count("log: wandb failed and is left out (ConnectionError") == 1
    assert error.count("\n") == 1
    assert "wandb" in result["terms"]["log"]


def test_the_log_is_no_part_of_an_experiments_identity(tmp_path):
    logged = dataclasses.replace(EXPERIMENT, log=("wandb",))
    assert experiment_digest(logged) == experiment_digest(EXPERIMENT)
    other = dataclasses.replace(EXPERIMENT, seed=1)
    assert experiment_digest(other) != experiment_digest(EXPERIMENT)
    tl.setup(EXPERIMENT, tmp_path / "run")
    assert tl.resume(tmp_path / "run", logged).exp.log == ("wandb",)
    with pytest.raises(UserError, match="seed differ"):
        tl.resume(tmp_path / "run", other)


def test_names_are_checked_and_packages_before_a_run_begins(tmp_path, monkeypatch):
    named = dataclasses.replace(EXPERIMENT, log="wandb, mlflow", tensorboard=True)
    assert loggers.asked(named) == ("wandb", "mlflow", "tensorboard")
    with pytest.raises(UserError, match="did you mean 'wandb'"):
        dataclasses.replace(EXPERIMENT, log=("wandbb",))
    with pytest.raises(UserError, match="log=3: expected names"):
        dataclasses.replace(EXPERIMENT, log=3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxtl\[mlflow\]'"):
        tl.setup(dataclasses.replace(EXPERIMENT, log="mlflow"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_have_their_paths():
    terms = {"task": tl.losses.CrossEntropy(), "l2": tl.regularizers.L2SP(weight=0.5)}
    settings = loggers.settings_of(dataclasses.replace(EXPERIMENT, terms=terms))
    assert settings["model"] == "MLP"
    assert settings["terms.l2"] == "L2SP"
    assert settings["terms.l2.weight"] == 0.5
    assert settings["steps"] == 6
    assert "log" not in settings


def test_a_notebook_shows_settings_as_they_are_written(tmp_path):
    terms = {"task": tl.losses.CrossEntropy(), "<b>": tl.regularizers.L2SP(weight=0.5)}
    shown = dataclasses.replace(EXPERIMENT, terms=terms)._repr_html_()
    assert "<td>terms.&lt;b&gt;.weight</td><td>0.5</td>" in shown
    assert "<b>" not in shown
    shown = tl.setup(EXPERIMENT, tmp_path / "a&b")._repr_html_()
    assert f"<h4>Run in {tmp_path}/a&amp;b: step 0 of 6</h4>" in shown
    assert "<td>optim.lr</td><td>0.001</td>" in shown
