"""Workers of a search as jobs of a SLURM cluster, submitted by submitit."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import types
from collections.abc import Sequence
from typing import Any

from jaxtl.core import config
from jaxtl.core.errors import UserError, first_line

DEFAULT_TIMEOUT = 24 * 60  # minutes that a job may take
# Parameters with names of submitit's own; all others are SLURM's.
_SUBMITIT_PARAMETERS = (
    "name",
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)


def _submitit() -> types.ModuleType:
    # Imported late: it configures Python's logging anew and closes its open handlers.
    import submitit

    return submitit


def check(
    count: int, storage: str | None, local: bool, arguments: Sequence[str] | None
) -> None:
    """Checks whether workers can be submitted.

    Args:
      count: number of workers.
      storage: URL of the study's storage; None for a file in the search's folder.
      local: whether the workers run as processes of this machine.
      arguments: as for `submit`.

    Raises:
      UserError: submitit is not installed, there is no worker, no storage that all
        nodes reach, no SLURM here, or a malformed argument.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError(
            "--slurm needs submitit, which is not installed: pip install "
            "'jaxtl[cluster]'."
        )
    if count < 1:
        raise UserError(f"slurm={count}: expected at least 1 worker.")
    if not local and (storage is None or storage.startswith("sqlite")):
        raise UserError(
            "--slurm needs a database that all nodes reach, --storage "
            "postgresql://USER:PASSWORD@HOST/DATABASE: the locks of SQLite files do "
            "not hold on network file systems."
        )
    if not local and shutil.which("srun") is None:
        raise UserError(
            "--slurm: there is no srun on the PATH, so this is no SLURM cluster; "
            "--slurm-local starts the workers on this machine."
        )
    _parameters(arguments, local)


def _parameters(arguments: Sequence[str] | None, local: bool) -> dict[str, Any]:
    """Parameters of submitit's executor; SLURM's own get the prefix "slurm_"."""
    parameters: dict[str, Any] = {"timeout_min": DEFAULT_TIMEOUT}
    for text in arguments or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(
                f"--slurm-arg {text}: expected name=value, such as partition=gpu."
            )
        if name not in _SUBMITIT_PARAMETERS and not name.startswith("slurm_"):
            name = f"slurm_{name}"
        if not (local and name.startswith("slurm_")):
            parameters[name] = config.literal(value)
    return parameters


def submit(
    commands: Sequence[Sequence[str]],
    folder: pathlib.Path,
    local: bool = False,
    arguments: Sequence[str] | None = None,
) -> list[Any]:
    """Submits `jaxtl` command lines as jobs.

    Args:
      commands: the arguments of each job, without "jaxtl".
      folder: for the jobs' scripts and logs.
      local: run them as processes of this machine instead.
      arguments: "partition=gpu", "gpus_per_node=1", ….

    Returns:
      submitit's jobs.

    Raises:
      UserError: there is no SLURM here, or it refuses an argument or the jobs.
    """
    submitit = _submitit()
    try:
        executor = submitit.AutoExecutor(folder, cluster="local" if local else "slurm")
        executor.update_parameters(**_parameters(arguments, local))
        program = [sys.executable, "-m", "jaxtl"]
        return [
            executor.submit(subprocess.call, [*program, *command])
            for command in commands
        ]
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise UserError(f"--slurm: {first_line(error)}.") from error
    except submitit.core.utils.FailedJobError as error:
        message = f"--slurm: the jobs were refused: {first_line(error)}."
        raise UserError(message) from error


def wait(jobs: Sequence[Any]) -> list[int]:
    """Waits until all jobs have ended; returns their exit codes, 1 for aborted ones."""
    submitit = _submitit()
    codes = []
    for job in jobs:
        try:
            codes.append(int(job.result()))
        except submitit.core.utils.UncompletedJobError as error:
            print(str(error).strip().splitlines()[0])
            codes.append(1)
        except submitit.core.utils.FailedJobError as error:
            print(str(error).strip().splitlines()[-1])
            codes.append(1)
    return codes
