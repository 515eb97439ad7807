"""Processes of this machine that share the cells of a grid, each with its own cores.

Networks with convolutions train one by one on CPUs, where XLA runs convolutions several
times slower in a loop on the device. The step of a small one leaves most of several
cores idle, and is faster on one core than on two (`python benchmarks/grid.py`).
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO

from jaxtl.core import devices
from jaxtl.core.errors import Stopped, UserError
from jaxtl.results.database import FINISHED, Database, Outcome
from jaxtl.training import loop

POLL_SECONDS = 0.5  # between looks at the database

# XLA counts a process's cores when it starts. On Linux the process ends with the one
# that started it, also where that one was killed.
_START = """
import contextlib, ctypes, os, signal, sys
if sys.argv[1]:
    os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from jaxtl.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def check(number: int) -> None:
    """Raises UserError for a number of processes that this machine has no cores for."""
    platform, cores = devices.first().platform, devices.core_count()
    if not 1 <= number <= cores:
        raise UserError(
            f"--workers {number}: expected 1 to {cores}, this machine's cores."
        )
    if number > 1 and platform != "cpu":
        raise UserError(
            f"--workers {number} shares the cores of a CPU, and this sweep would run "
            f"on {platform}; expected --workers 1, or --device cpu."
        )


def run(
    command: Sequence[str],
    number: int,
    database: Database,
    on_outcomes: Callable[[Sequence[Outcome]], None],
) -> None:
    """Runs one `jaxtl` command in several processes, each of which claims cells.

    Args:
      command: its arguments, without "jaxtl".
      number: of processes.
      database: of the sweep, open.
      on_outcomes: called with the outcomes of cells that have ended.

    Raises:
      Stopped: after Ctrl-C, SIGTERM or SIGHUP, which the processes receive as SIGTERM.
      UserError: the processes ended before all cells had, with what the first said.
    """
    ended = {key for key, status in database.statuses().items() if status in FINISHED}
    cores = [",".join(map(str, share)) for share in _shares(number)]
    with loop.Interrupt() as interrupt:
        workers = [_Worker(command, share) for share in cores]
        try:
            while any(worker.is_running for worker in workers):
                time.sleep(POLL_SECONDS)
                if interrupt.requested:
                    break
                _tell_new(database, ended, on_outcomes)
        finally:
            errors = [worker.stop() for worker in workers]
        _tell_new(database, ended, on_outcomes)
        if interrupt.requested:
            raise Stopped("stopped; the same command goes on.", interrupt.signal_number)
    statuses = database.statuses()
    left = sum(status not in FINISHED for status in statuses.values())
    if left:
        reason = next(filter(None, errors), "they ended without a word")
        raise UserError(f"{left} of {len(statuses)} cells did not run: {reason}")


class _Worker:
    """A process that takes a command on some cores."""

    def __init__(self, command: Sequence[str], cores: str):
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, cores, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            # Ctrl-C reaches the process that started it, which passes it on once.
            start_new_session=True,
        )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> str:
        """Ends the process; returns the last line of its errors."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        with self._errors:
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else ""


def _shares(number: int) -> list[list[int]]:
    """This process's cores in as many shares; empty ones where it can't be bound."""
    if not hasattr(os, "sched_setaffinity"):
        return [[] for _ in range(number)]
    cores = sorted(os.sched_getaffinity(0))
    return [cores[first::number] for first in range(number)]


def _tell_new(
    database: Database,
    ended: set[str],
    on_outcomes: Callable[[Sequence[Outcome]], None],
) -> None:
    """Passes on the outcomes of cells that ended since, and adds these to `ended`."""
    statuses = database.statuses()
    new = {key for key, status in statuses.items() if status in FINISHED} - ended
    if new:
        entries = [entry for entry in database.entries() if entry.key in new]
        on_outcomes(
            [Outcome(e.key, e.status, e.result, e.curve, e.error) for e in entries]
        )
        ended |= new
