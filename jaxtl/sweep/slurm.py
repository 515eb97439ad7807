"""Workers as jobs of a SLURM cluster, by submitit."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

from jaxtl.core import config
from jaxtl.core.errors import UserError

DAY = 24 * 60  # minutes that a job may take unless timeout_min says otherwise


def _submitit():
    import submitit  # late: it sets Python's logging up anew, closing what was there

    return submitit


def check(count: int, storage: str | None, local: bool, arguments) -> None:
    """Raises UserError where workers can't be submitted."""
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


def _parameters(arguments: Sequence[str] | None, local: bool) -> dict:
    """Returns what submitit is told: its own names, else SLURM's."""
    found = {"timeout_min": DAY}
    known = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task")
    known += ("gpus_per_node", "tasks_per_node", "stderr_to_stdout")
    for text in arguments or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(
                f"--slurm-arg {text}: expected name=value, such as partition=gpu."
            )
        if name not in known and not name.startswith("slurm_"):
            name = f"slurm_{name}"
        if not (local and name.startswith("slurm_")):
            found[name] = config.literal(value)
    return found


def submit(
    commands: Sequence[Sequence[str]],
    folder: pathlib.Path,
    local: bool = False,
    arguments: Sequence[str] | None = None,
) -> list:
    """Submits `jaxtl` command lines as jobs.

    Args:
      commands: arguments of each.
      folder: of the jobs' scripts and logs.
      local: as processes of this machine instead.
      arguments: "partition=gpu", "gpus_per_node=1", …

    Returns:
      submitit's jobs.

    Raises:
      UserError: there is no SLURM here, or it has no such argument.
    """
    submitit = _submitit()
    try:
        made = submitit.AutoExecutor(folder, cluster="local" if local else "slurm")
        made.update_parameters(**_parameters(arguments, local))
        program = [sys.executable, "-m", "jaxtl"]
        return [made.submit(subprocess.call, [*program, *line]) for line in commands]
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        text = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"--slurm: {text}.") from error
    except submitit.core.utils.FailedJobError as error:
        text = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"--slurm: the jobs were refused: {text}.") from error


def wait(jobs: Sequence) -> list[int]:
    """Returns the exit codes of jobs, when all have ended."""
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
