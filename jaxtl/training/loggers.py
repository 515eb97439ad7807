"""Loggers of other libraries: TensorBoard, Weights & Biases, MLflow.

Each writes what metrics.jsonl holds, the settings and the final metrics to where its
own programs show them. A logger that fails says so in one sentence, and training goes
on without it.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from jaxtl.core.errors import UserError, describe_error
from jaxtl.training import run_dir
from jaxtl.training.run import Run
from jaxtl.training.setting_paths import settings_of

# Name, as in `experiment.LOGGERS` -> (module that is imported, extra of setup.py).
_PACKAGES = {
    "tensorboard": ("tensorboardX", "track"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}
STATE = (
    "loggers.json"  # identities of the logged runs, which a resumed run goes on with
)
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
_PROJECT = "jaxtl"  # where the environment names none
_MLFLOW_STATUS = {FINISHED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}
_LONGEST = 500  # characters of a setting that MLflow stores
_BATCH = 100  # settings that it takes at once
# Connections that MLflow tries before a server counts as out of reach, and seconds of
# each; its own defaults hold a run up for minutes.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class _Logger(Protocol):
    """A library's log of one run."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs numbers at a step, "train/loss" -> value."""

    def close(self, status: str) -> None:
        """Ends the log: "finished", "failed" or "stopped"."""


def asked(exp: Any) -> tuple[str, ...]:
    """Names of an experiment's loggers, each once."""
    names = (*exp.log, *(("tensorboard",) if exp.tensorboard else ()))
    return tuple(dict.fromkeys(names))


def check_installed(exp: Any) -> None:
    """Raises UserError, before a run begins, where a logger's package is missing."""
    for name in asked(exp):
        module, extra = _PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"log={name!r} needs the extra: pip install 'jaxtl[{extra}]'."
            )


class Loggers:
    """The loggers of a run in a directory; one that fails is left out from then on."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.open: dict[str, _Logger] = {}
        names = asked(run.exp) if run.directory is not None else ()
        for name in names:
            with self._failures_of(name):
                self.open[name] = _KINDS[name](run)

    def scalars(self, kind: str, values: Mapping[str, float]) -> None:
        """Logs numbers of the current step, named "train/loss"."""
        for name, logger in list(self.open.items()):
            with self._failures_of(name):
                named = {f"{kind}/{key}": value for key, value in values.items()}
                logger.scalars(named, self.run.steps_done)

    def close(self, status: str) -> None:
        """Ends all logs."""
        for name, logger in list(self.open.items()):
            with self._failures_of(name):
                logger.close(status)
        self.open = {}

    @contextlib.contextmanager
    def _failures_of(self, name: str) -> Iterator[None]:
        """Drops a logger whose call fails, and says so."""
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            note = f"{name} failed and is left out ({describe_error(error)})"
            self.run.notes["log"] = note
            print(f"log: {note}; the run goes on without it.", file=sys.stderr)


class _TensorBoard:
    """Event files in the run's directory."""

    def __init__(self, run: Run) -> None:
        import tensorboardX

        folder = str(_directory(run) / "tensorboard")
        # Events behind the checkpoint that a resumed run starts from are logged again.
        purged = run.steps_done + 1 if run.steps_done else None
        # Files are named by the second: those of one second would replace another.
        suffix = f".{run.steps_done:08d}.{secrets.token_hex(4)}"
        self.writer = tensorboardX.SummaryWriter(
            folder, purge_step=purged, filename_suffix=suffix
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, status: str) -> None:
        self.writer.close()


class _WandB:
    """A run of Weights & Biases; project and mode are those of its environment."""

    def __init__(self, run: Run) -> None:
        import wandb

        state = _stored(run, "wandb")
        identity = state.get("id") or secrets.token_hex(4)
        self.run = wandb.init(
            id=identity,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=state.get("name") or _name(run),
            config=settings_of(run.exp),
            dir=str(_directory(run)),
            settings=wandb.Settings(console="off"),
        )
        # Its own steps can't go back, and a resumed run begins at its last checkpoint.
        self.run.define_metric("*", step_metric="step")
        _store(run, "wandb", {"id": identity, "name": self.run.name})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({"step": step, **values})

    def close(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == FINISHED else 1)


class _MLflow:
    """A run of MLflow; tracking server and experiment are those of its environment."""

    def __init__(self, run: Run) -> None:
        import mlflow

        for variable, value in _PATIENCE.items():
            os.environ.setdefault(variable, value)
        self.entities = mlflow.entities
        self.client = mlflow.MlflowClient()
        identity = _stored(run, "mlflow").get("run_id")
        if identity is not None:
            self.client.update_run(identity, status="RUNNING")
        else:
            identity = self._create(run)
            _store(run, "mlflow", {"run_id": identity})
        self.identity = identity

    def _create(self, run: Run) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        experiment = self.client.get_experiment_by_name(name)
        number = (
            self.client.create_experiment(name)
            if experiment is None
            else experiment.experiment_id
        )
        identity = self.client.create_run(number, run_name=_name(run)).info.run_id
        params = [
            self.entities.Param(_plain(key), str(value)[:_LONGEST])
            for key, value in settings_of(run.exp).items()
        ]
        for first in range(0, len(params), _BATCH):
            self.client.log_batch(identity, params=params[first : first + _BATCH])
        return identity

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self.entities.Metric(_plain(name), float(value), now, step)
            for name, value in values.items()
        ]
        self.client.log_batch(self.identity, metrics=metrics)

    def close(self, status: str) -> None:
        self.client.set_terminated(self.identity, _MLFLOW_STATUS[status])


_KINDS: Mapping[str, Any] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def _plain(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _directory(run: Run) -> pathlib.Path:
    assert run.directory is not None  # no other run has loggers
    return run.directory


def _name(run: Run) -> str:
    """The last two parts of a run's directory, "study/seed0"."""
    return "/".join(_directory(run).absolute().parts[-2:])


def _stored(run: Run, name: str) -> dict[str, Any]:
    """What a logger stored of an earlier session; {} for a run that begins."""
    file = _directory(run) / STATE
    return run_dir.read_json(file).get(name, {}) if file.exists() else {}


def _store(run: Run, name: str, state: Mapping[str, Any]) -> None:
    file = _directory(run) / STATE
    stored = run_dir.read_json(file) if file.exists() else {}
    run_dir.write_json(file, {**stored, name: dict(state)})
