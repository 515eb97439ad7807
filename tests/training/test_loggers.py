"""Loggers: what each wrote is read back by its own package, across an interruption."""

import dataclasses
import json
import struct

import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.sweep.cell_key import experiment_digest
from jaxtl.training import loggers, loop, setting_paths

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


@pytest.fixture
def wandb():
    """The package, whose service ends with the test."""
    package = pytest.importorskip("wandb")
    yield package
    package.teardown()


def interrupted_and_resumed(folder, monkeypatch, name):
    """Trains a run that fails at step 5, after its checkpoint of step 4, to the end.

    Returns:
      {("train/loss", step): value} of all that a logger is to have, as the run's own
      files hold it.
    """
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
    values = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        step, kind = row.pop("step"), row.pop("kind")
        row.pop("best", None)
        values |= {(f"{kind}/{key}", step): value for key, value in row.items()}
    for split in ("val", "test"):
        named = {(f"best/{split}/{k}", 6): v for k, v in result[split].items()}
        values |= named
    names = {name for name, _ in values}
    assert {"train/loss", "train/task", "val/nll", "best/test/accuracy"} <= names
    assert [step for name, step in values if name == "train/loss"] == [1, 2, 3, 4, 5, 6]
    return values


def expected_settings(name):
    """The settings of the experiment as texts, by path."""
    settings = loggers.settings_of(dataclasses.replace(EXPERIMENT, log=name))
    return {path: str(value) for path, value in settings.items()}


def test_tensorboard_reads_one_curve_of_each_metric(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    run = tmp_path / "run"
    values = interrupted_and_resumed(run, monkeypatch, "tensorboard")
    reader = accumulators.EventAccumulator(str(run / "tensorboard")).Reload()
    scalars = [
        (name, scalar.step, scalar.value)
        for name in reader.Tags()["scalars"]
        for scalar in reader.Scalars(name)
    ]
    # What the first session wrote behind its checkpoint is not read: a value per step.
    assert len(scalars) == len(values)
    written = {(name, step): value for name, step, value in scalars}
    assert written == pytest.approx(values, rel=1e-6)


def test_tensorboard_files_say_where_a_session_begins(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    interrupted_and_resumed(tmp_path, monkeypatch, "tensorboard")
    starts = []
    for event in events(tmp_path / "tensorboard"):
        if event.session_log.status:
            starts.append(event.step)
    assert starts == [5]  # what came after step 4 is read from the second session


def events(folder):
    """Yields the events of tensorboardX's files: (length, crc, content, crc) each."""
    from tensorboardX.proto import event_pb2

    for file in sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime):
        content = file.read_bytes()
        while content:
            [length] = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def records(file):
    """Yields the messages of a .wandb file: LevelDB's log behind 7 bytes.

    The package has no reader for Python; the messages are its own protocol buffers.
    """
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


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch, wandb):
    run = tmp_path / "run"
    values = interrupted_and_resumed(run, monkeypatch, "wandb")
    wandb.teardown()  # its service writes the end of a file after the run's end
    identity = json.loads((run / loggers.STATE).read_text())["wandb"]["id"]
    files = sorted(
        run.glob(f"wandb/offline-run-*/run-{identity}.wandb"),
        key=lambda file: file.stat().st_mtime,
    )
    assert len(files) == 2
    written, config, name, codes = {}, {}, "", []
    for file in files:
        for record in records(file):
            name = record.run.display_name or name
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
            for item in record.run.config.update:
                config[item.key] = json.loads(item.value_json)
            row = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            step = row.pop("step", None)
            plain = {k: v for k, v in row.items() if not k.startswith("_")}
            written |= {(key, step): value for key, value in plain.items()}
    assert name.endswith("/run")
    config.pop("_wandb", None)
    assert {k: str(v) for k, v in config.items()} == expected_settings("wandb")
    assert written == values
    assert codes == [1, 0]  # the first session failed


def test_mlflow_goes_on_with_the_same_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    values = interrupted_and_resumed(tmp_path / "run", monkeypatch, "mlflow")
    client = mlflow.MlflowClient()
    [stored] = client.search_runs(
        [client.get_experiment_by_name("digits").experiment_id]
    )
    assert stored.info.status == "FINISHED"
    expected = expected_settings("mlflow").items()
    assert stored.data.params == {k.replace("*", "_"): v for k, v in expected}
    written = {}
    for name in stored.data.metrics:
        history = client.get_metric_history(stored.info.run_id, name)
        for metric in sorted(history, key=lambda metric: metric.timestamp):
            written[name, metric.step] = metric.value  # the last of a step counts
    assert written == values


# Logger -> what raises as it begins, logs and ends.
FAULTS = {
    "tensorboard": (
        "tensorboardX.SummaryWriter.__init__",
        "tensorboardX.SummaryWriter.add_scalar",
        "tensorboardX.SummaryWriter.close",
    ),
    "wandb": ("wandb.init", "wandb.Run.log", "wandb.Run.finish"),
    "mlflow": (
        "mlflow.MlflowClient.create_run",
        "mlflow.MlflowClient.log_batch",
        "mlflow.MlflowClient.set_terminated",
    ),
}
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


@pytest.mark.parametrize("moment", [0, 1, 2], ids=["begins", "logs", "ends"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_package_that_raises_ends_no_run(
    name, moment, tmp_path, monkeypatch, capsys, request
):
    package = pytest.importorskip(MODULES[name])
    if name == "wandb":
        request.addfinalizer(package.teardown)

    def fails(*_, **__):
        raise ConnectionError("no route to host")

    exp = dataclasses.replace(EXPERIMENT, log=name)
    with monkeypatch.context() as context:
        context.setattr(FAULTS[name][moment], fails)
        result = tl.train(tl.setup(exp, tmp_path / "run"), progress=False)
    assert result["steps"] == EXPERIMENT.steps
    assert (tmp_path / "run/result.json").exists()
    error = capsys.readouterr().err
    sentence = f"log: {name} failed and is left out (ConnectionError: no route to host"
    assert error.count(sentence) == 1
    # The result is written before the logs end.
    assert moment == 2 or name in result["terms"]["log"]


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
    cell = '<td style="text-align:left">'
    assert f"{cell}terms.&lt;b&gt;.weight</td>{cell}0.5</td>" in shown
    assert "<b>" not in shown
    shown = tl.setup(EXPERIMENT, tmp_path / "a&b")._repr_html_()
    assert f"<h4>Run in {tmp_path}/a&amp;b: step 0 of 6</h4>" in shown
    assert f"{cell}optim.lr</td>{cell}0.001</td>" in shown


def test_settings_have_the_entries_of_maps_by_their_keys():
    groups = {"type": 0.5, ".*": 1.0}
    exp = dataclasses.replace(EXPERIMENT, optim=tl.optim.AdamW(groups=groups))
    settings = setting_paths.settings_of(exp)
    assert settings["streams"] == "{}"
    assert settings["optim.groups.type"] == 0.5
    assert settings["optim.groups..*"] == 1.0
    assert "optim.groups" not in settings
    assert "terms.type" not in settings
