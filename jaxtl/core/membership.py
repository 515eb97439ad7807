"""Which process of which job this one is: from options, Kubernetes or SLURM.

A job is one training run by several processes, usually one for each machine or each
accelerator. They meet at the coordinator, an address at which process 0 listens.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

from jaxtl.core.errors import UserError

# Names of environment variables: jax's own, and those that Kubeflow sets.
ADDRESS = ("JAX_COORDINATOR_ADDRESS", "COORDINATOR_ADDRESS")
PORT = ("JAX_COORDINATOR_PORT", "COORDINATOR_PORT")
COUNT = ("JAX_NUM_PROCESSES", "NUM_PROCESSES")
INDEX = ("JAX_PROCESS_ID", "PROCESS_ID")
# Kubernetes gives it to each pod of an indexed job. It is not the process's number
# where a pod has several processes, or a set of jobs trains together.
POD_INDEX = ("JOB_COMPLETION_INDEX",)
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
    is_told = (coordinator, count, index) != (None, None, None)
    if not is_told and not any(environ.get(name) for name in ADDRESS):
        return None
    address_name = ""
    if coordinator is None:
        address_name, coordinator = _first_address(environ)
    is_option = not address_name or (count, index) != (None, None)
    if count is None:
        count = _whole(*_first(environ, COUNT), least=1)
    if count == 1:
        return None
    if index is None:
        index = _whole(*_first_index(environ))
    if not is_option:
        _check_slurm(environ, count, index)
    values = {"--processes": count, "--process": index, "--coordinator": coordinator}
    variables = {"--processes": COUNT, "--process": INDEX, "--coordinator": ADDRESS}
    for option, value in values.items():
        if value is None:
            raise UserError(
                f"this process is told of a job of several, but not its {option}; give "
                f"the option or set {variables[option][0]}."
            )
    return _checked(
        Membership(
            coordinator=_with_port(str(coordinator), environ, address_name),
            count=int(count),  # type: ignore[arg-type]
            index=int(index),  # type: ignore[arg-type]
            origin="by options" if is_option else f"by ${address_name}",
            local_devices=_local_devices(environ),
        )
    )


def _check_slurm(
    environ: Mapping[str, str], count: int | None, index: int | None
) -> None:
    """Raises UserError where variables and SLURM's tasks are different jobs.

    A task may start several processes, the same number in each task, numbered by task
    or in turn over the tasks.
    """
    count_name, index_name = "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"
    tasks = _whole(*_first(environ, (count_name,)))
    task = _whole(*_first(environ, (index_name,)))
    if tasks is None or task is None or count is None or index is None or tasks == 1:
        return
    if count % tasks:
        pair = f"{_first(environ, COUNT)[0]}={count} and {count_name}={tasks}"
    elif task in (index // (count // tasks), index % tasks):
        return
    else:
        pair = f"{_first_index(environ)[0]}={index} and {index_name}={task}"
    raise UserError(
        f"{pair} are of different jobs; unset one of them, or give --processes, "
        "--process and --coordinator."
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
    environ: Mapping[str, str],
    names: tuple[str, ...],
    normal: Callable[[str], str] = str,
) -> tuple[str, str | None]:
    """(Name, value) of the first of some variables that is set.

    Args:
      environ: the environment variables.
      names: of the variables, in the order of preference.
      normal: the form of a value in which values are compared.

    Raises:
      UserError: another one has another value.
    """
    present = [(name, environ[name]) for name in names if environ.get(name)]
    for name, value in present[1:]:
        if normal(value) != normal(present[0][1]):
            raise UserError(
                f"{present[0][0]}={present[0][1]!r} and {name}={value!r} differ; unset "
                "one of them."
            )
    return present[0] if present else (names[0], None)


def _first_index(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """(Name, value) of this process's number; that of the pod where nothing else is."""
    name, value = _first(environ, INDEX)
    pod = _first(environ, POD_INDEX)
    return pod if value is None and pod[1] is not None else (name, value)


def _first_address(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """(Name, value) of the coordinator's address; "a:5" is "a" with the port 5."""
    return _first(environ, ADDRESS, lambda text: _with_port(text, environ))


def _whole(name: str, text: str | None, least: int = 0) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(
            f"{name}={text!r}: expected a whole number of at least {least}."
        )
    return int(text)


def _with_port(address: str, environ: Mapping[str, str], name: str = "") -> str:
    """The address with a port: its own, that of a variable, or the default one.

    Args:
      address: with or without a port.
      environ: the environment variables.
      name: of the variable with the address, whose port a variable must not contradict;
        "" for an address whose own port counts.
    """
    has_port = re.search(r"(^[^:]*|\]):\d+$", address)
    if has_port and not name:
        return address
    port = _whole(*_first(environ, PORT))
    if not has_port:
        return f"{address}:{_DEFAULT_PORT if port is None else port}"
    if port is not None and int(address.rpartition(":")[2]) != port:
        raise UserError(
            f"{name}={address!r} has another port than the variable "
            f"{' or '.join(PORT)}, {port}; unset one of them."
        )
    return address


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
