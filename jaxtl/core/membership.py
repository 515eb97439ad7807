"""Which process of which job this one is: from options, Kubernetes or SLURM.

A job is one training run by several processes, usually one for each machine or each
accelerator. They meet at the coordinator, an address at which process 0 listens.
"""

import dataclasses
import re
from collections.abc import Mapping

from jaxtl.core.errors import UserError

# Names of environment variables, in the order of preference: jax's own, those that
# Kubeflow sets, and the index that Kubernetes gives each pod of an indexed job.
ADDRESS = ("JAX_COORDINATOR_ADDRESS", "COORDINATOR_ADDRESS")
PORT = ("JAX_COORDINATOR_PORT", "COORDINATOR_PORT")
COUNT = ("JAX_NUM_PROCESSES", "NUM_PROCESSES")
INDEX = ("JAX_PROCESS_ID", "PROCESS_ID", "JOB_COMPLETION_INDEX")
DEVICES = "JAX_LOCAL_DEVICE_IDS"
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
_FIRST_PORT, _PORTS = 61440, 4096  # SLURM's jobs take one of these by their numbers
_DEFAULT_PORT = 12321


@dataclasses.dataclass(frozen=True, kw_only=True)
class Membership:
    """The place of a process in a job.

    Attributes:
      coordinator: "host:port" at which process 0 listens.
      count: number of processes of the job, at least 2.
      index: of this process, from 0.
      origin: where the values come from, in words.
      local_devices: numbers of the accelerators of this machine that the process uses;
        None for all that it sees.
    """

    coordinator: str
    count: int
    index: int
    origin: str
    local_devices: tuple[int, ...] | None = None

    @property
    def host(self) -> str:
        """The coordinator's host."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.coordinator.rpartition(":")[2])

    def describe(self) -> str:
        """The place in a sentence."""
        return (
            f"job: process {self.index} of {self.count}, which meet at "
            f"{self.coordinator} ({self.origin})"
        )


def resolve(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
) -> Membership | None:
    """The place of this process in a job; None for one that is alone.

    Args:
      environ: the environment variables.
      coordinator: "host:port" at which process 0 listens; None takes it, as the other
        two, from the environment.
      count: number of processes; 1 for a process that is alone, whatever the
        environment says.
      index: of this process.

    Raises:
      UserError: a value is missing, no number, or out of its range.
    """
    if count is not None and count < 1:
        raise UserError(f"--processes {count}: expected a whole number of at least 1.")
    if count == 1:
        return None
    variables = _from_variables(environ, coordinator, count, index)
    if variables is not None or (count, index) != (None, None):
        return variables
    return _from_slurm(environ)


def _from_variables(
    environ: Mapping[str, str],
    coordinator: str | None,
    count: int | None,
    index: int | None,
) -> Membership | None:
    """The place by options and coordinator variables; None without any of them."""
    address_name, address = _first(environ, ADDRESS)
    if coordinator is None and address is None and (count, index) == (None, None):
        return None
    count_name, count_text = _first(environ, COUNT)
    index_name, index_text = _first(environ, INDEX)
    values = {
        "--processes": count
        if count is not None
        else _whole(count_name, count_text, least=1),
        "--process": index if index is not None else _whole(index_name, index_text),
        "--coordinator": coordinator or address,
    }
    if values["--processes"] == 1:
        return None
    variables = {"--processes": COUNT, "--process": INDEX, "--coordinator": ADDRESS}
    for option, value in values.items():
        if value is None:
            raise UserError(
                f"this process is told of a job of several, but not its {option}; give "
                f"the option or set {variables[option][0]}."
            )
    is_option = coordinator is not None or (count, index) != (None, None)
    port = _whole(*_first(environ, PORT))
    return _checked(
        Membership(
            coordinator=_with_port(str(values["--coordinator"]), port),
            count=int(values["--processes"]),  # type: ignore[arg-type]
            index=int(values["--process"]),  # type: ignore[arg-type]
            origin="by options" if is_option else f"by ${address_name}",
            local_devices=_local_devices(environ),
        )
    )


def _from_slurm(environ: Mapping[str, str]) -> Membership | None:
    """The place that `srun` gives; None outside of it, and for a single task."""
    count = _whole(*_first(environ, ("SLURM_STEP_NUM_TASKS",)))
    if count is None or count == 1 or not all(name in environ for name in _SLURM):
        return None
    job, nodes, index, local = (environ[name] for name in _SLURM)
    step = environ.get("SLURM_STEP_ID", "0")
    number = sum(int(x) for x in (job, step) if x.isdigit())
    devices = _local_devices(environ)
    if devices is None and _shares_accelerators(environ):
        devices = (int(local),)
    return _checked(
        Membership(
            coordinator=f"{first_node(nodes)}:{_FIRST_PORT + number % _PORTS}",
            count=count,
            index=int(index),
            origin="by SLURM",
            local_devices=devices,
        )
    )


def first_node(nodes: str) -> str:
    """The first host of a SLURM node list: "gpu003" of "gpu[003-007,9]-a,cpu1"."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    assert match is not None  # each part may be empty
    return "".join(part or "" for part in match.groups())


def _shares_accelerators(environ: Mapping[str, str]) -> bool:
    """Whether several tasks of a node see the same accelerators."""
    tasks = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    is_bound = len(visible) == 1 and visible != [""]
    return tasks is not None and int(tasks[0]) > 1 and not is_bound


def _local_devices(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    text = environ.get(DEVICES, "")
    if not text:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"{DEVICES}={text!r}: expected numbers such as 0,1.")
    return tuple(int(number) for number in text.split(","))


def _first(
    environ: Mapping[str, str], names: tuple[str, ...]
) -> tuple[str, str | None]:
    """(Name, value) of the first of some variables that is set."""
    return next(
        ((name, environ[name]) for name in names if environ.get(name)), (names[0], None)
    )


def _whole(name: str, text: str | None, least: int = 0) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(
            f"{name}={text!r}: expected a whole number of at least {least}."
        )
    return int(text)


def _with_port(address: str, port: int | None) -> str:
    """The address with a port: its own, that of a variable, or the default one."""
    if re.search(r"(^[^:]*|\]):\d+$", address):
        return address
    return f"{address}:{_DEFAULT_PORT if port is None else port}"


def _checked(member: Membership) -> Membership:
    """Raises UserError for an index or a port that can't be."""
    if not 0 <= member.index < member.count:
        raise UserError(
            f"process {member.index} of a job of {member.count} processes "
            f"({member.origin}): expected a number from 0 to {member.count - 1}."
        )
    if not member.host or not 0 < member.port < 65536:
        raise UserError(
            f"coordinator {member.coordinator!r} ({member.origin}): expected HOST:PORT "
            "with a port from 1 to 65535."
        )
    return member
