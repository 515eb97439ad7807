"""The processes of a job: they join it, and then agree on what they do.

All processes of a job run the same program on the devices of all. What each of them
decides from its own clock, disk or signals has to be agreed on, since a process that
takes another step than the others leaves them waiting. Process 0 alone writes files.
A process that joined no job is its only process, and everything here costs nothing.
"""

import errno
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtl.core.errors import UserError, describe_error, short_repr
from jaxtl.core.membership import Membership

LOST = 75  # exit code (EX_TEMPFAIL of sysexits.h) where another process has ended
WAIT = 300.0  # seconds until all processes of a job must have joined it
_PAUSE = 0.2  # seconds between two attempts to reach the coordinator
_JAX_WAITS = 60  # seconds that jax waits longer, so that the sentence here is told
_GRACE = 1.0  # seconds that the coordinator outlives its own failure
# What jaxlib says where a process that takes part in a computation has ended.
_LOST_TEXTS = (
    "Gloo",
    "Connection closed by peer",
    "coordination service",
    "NCCL",
    "heartbeat timeout",
)
Value = TypeVar("Value")
_member: Membership | None = None


def join(member: Membership, wait: float = WAIT) -> None:
    """Joins a job, before anything is computed; returns when all processes did.

    Args:
      member: the place of this process.
      wait: seconds until all must have joined.

    Raises:
      UserError: the coordinator's port is taken, or it can't be reached. Where not all
        processes joined in time, this one ends with exit code 1 and a sentence.
    """
    global _member
    deadline = time.monotonic() + wait
    if member.index == 0:
        _check_port(member)
    else:
        _wait_for_coordinator(member, wait)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Programs that communicate must start in the same order in every process.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # Its handler of SIGTERM would replace the one that stops training in order.
    jax.config.update("jax_enable_preemption_service", False)
    left = max(deadline - time.monotonic(), 0.0)
    sentence = (
        f"process {member.index} of {member.count}: not all processes joined the job "
        f"at {member.coordinator} within {wait:g} s."
    )
    # jax itself aborts the process a little later, with a stack trace.
    watch = threading.Timer(left, _give_up, [sentence])
    watch.daemon = True
    watch.start()
    jax.distributed.initialize(
        member.coordinator,
        member.count,
        member.index,
        local_device_ids=member.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=round(left) + _JAX_WAITS,
    )
    watch.cancel()
    _member = member


def _give_up(sentence: str) -> None:
    print(f"jaxtl: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


def _check_port(member: Membership) -> None:
    """Raises UserError where process 0 can't listen at the coordinator's port."""
    try:
        with socket.socket(socket.AF_INET6) as server:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("::", member.port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            return  # a machine without IPv6, say; jax tells what it can't do
        why = "is taken" if error.errno == errno.EADDRINUSE else "is not allowed"
        raise UserError(
            f"the port {member.port} of this machine {why}, so process 0 can't "
            "coordinate the job there; choose another, as --coordinator HOST:PORT in "
            "all processes."
        ) from None


def _wait_for_coordinator(member: Membership, wait: float) -> None:
    """Waits until process 0 listens; raises UserError where it never does."""
    deadline = time.monotonic() + wait
    while True:
        left = deadline - time.monotonic()
        try:
            address = (member.host, member.port)
            with socket.create_connection(address, timeout=max(left, _PAUSE)):
                return
        except OSError as error:
            if left <= _PAUSE:
                raise UserError(
                    f"process {member.index} could not reach the coordinator "
                    f"{member.coordinator} within {wait:g} s: "
                    f"{error.strerror or error}."
                ) from None
        time.sleep(_PAUSE)


def name() -> str:
    """This process in words, "process 1 of 2"; "" for one that is alone."""
    return "" if _member is None else f"process {_member.index} of {_member.count}"


def leave(code: int) -> None:
    """Ends a process of a job at once: leaving it in order waits for the others."""
    if _member is None:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if _member.index == 0:
        # The others, which fail with it as a rule, would be aborted with its end.
        time.sleep(_GRACE)
    os._exit(code)


def count() -> int:
    """The number of processes of the job, 1 without one."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, which writes all files."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """The texts of all processes, in their order; each calls this with its own."""
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(content)))
    # Few lengths, so that few programs are compiled.
    padded = np.zeros(max(256, 1 << int(lengths.max()).bit_length()), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths)]


def all_values(value: Value) -> list[Value]:
    """The values of all processes, which JSON can hold, in their order."""
    if count() == 1:
        return [value]
    return [json.loads(text) for text in gather(json.dumps(value))]


def first_value(value: Value) -> Value:
    """The value of process 0, which JSON can hold, in every process."""
    return all_values(value)[0]


def on_first(action: Callable[[], object]) -> None:
    """Runs an action in process 0 alone; the others wait until it has ended.

    Raises:
      UserError: what the action raised, in every process.
    """
    if count() == 1:
        action()
        return
    error, told = None, ""
    if is_first():
        try:
            action()
        except Exception as raised:
            error, told = raised, str(raised)
            if not isinstance(raised, UserError):
                told = f"process 0 failed: {describe_error(raised)}."
    told = first_value(told)
    if error is not None:
        raise error
    if told:
        raise UserError(told)


def check_same(what: str, values: Mapping[str, Any], advice: str) -> None:
    """Raises UserError in every process where not all have the same values.

    Args:
      what: they are, in words: "experiment".
      values: name -> value that JSON can hold.
      advice: what makes them the same, as the end of a sentence.
    """
    if count() == 1:
        return
    text = json.dumps(values, sort_keys=True, default=str)
    digests = gather(hashlib.sha256(text.encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    everyone = [json.loads(other) for other in gather(text)]
    other = next(i for i, digest in enumerate(digests) if digest != digests[0])
    first, second = everyone[0], everyone[other]
    names = sorted(
        name for name in {*first, *second} if first.get(name) != second.get(name)
    )
    shown = ", ".join(
        f"{name}: {short_repr(second.get(name))} in place of "
        f"{short_repr(first.get(name))}"
        for name in names[:3]
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise UserError(
        f"process {other} has another {what} than process 0 ({shown}{more}); {advice}."
    )


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process of the job has ended."""
    return _member is not None and any(text in str(error) for text in _LOST_TEXTS)
