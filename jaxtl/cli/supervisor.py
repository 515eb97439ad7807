"""Starts the processes of a job on this machine, and starts them again after a loss.

A process that is killed, or whose machine takes it away, leaves the others waiting for
it. So all are ended then, and all go on together from the last checkpoint, which gives
the result of an undisturbed run. An error of the experiment itself is not tried again.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from jaxtl.core import membership
from jaxtl.core.errors import Stopped, UserError

LOST = 75  # exit code where a process was lost, as of `core.process_group`
_POLL = 0.1  # seconds between two looks at the processes
_TERMINATED = 128 + signal.SIGTERM  # exit code after a checkpoint in order
_GRACE = 5.0  # seconds for the others to end by themselves after one has ended
_STOP = 60.0  # seconds for all to write a checkpoint after a signal
_PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def check(count: int, restarts: int, port: int | None) -> None:
    """Raises UserError for numbers that can't be, and for a port that is taken."""
    if count < 1:
        raise UserError(f"--nproc {count}: expected a whole number of at least 1.")
    if restarts < 0:
        raise UserError(
            f"--restarts {restarts}: expected a whole number of at least 0."
        )
    if port is not None:
        if not 0 < port < 65536:
            raise UserError(f"--port {port}: expected a number from 1 to 65535.")
        try:
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--port {port} can't be used: {error.strerror}; leave it out to take "
                "a free one."
            ) from None


def supervise(
    begin: Sequence[str],
    resume: Sequence[str],
    folder: pathlib.Path,
    count: int,
    *,
    restarts: int,
    port: int | None = None,
) -> int:
    """Runs a command of jaxtl in several processes until it ends.

    Args:
      begin: its arguments.
      resume: those that go on from the last checkpoint.
      folder: of the run, where it is seen whether it began.
      count: number of processes.
      restarts: times that all start again after the loss of one, at most.
      port: of the coordinator; None takes a free one at each start.

    Returns:
      The exit code.
    """
    old = _mark(folder)
    for attempt in range(restarts + 1):
        has_begun = _mark(folder) not in (None, old)
        command = resume if has_begun else begin
        with _Processes(command, count, port or _free_port()) as processes:
            code, lost = processes.wait()
        if not lost:
            return code
        if attempt == restarts:
            print(f"{lost}; {restarts} restarts are used up.", file=sys.stderr)
            break
        print(
            f"{lost}; all start again ({attempt + 1} of {restarts} restarts).",
            file=sys.stderr,
            flush=True,
        )
    return LOST


def _mark(folder: pathlib.Path) -> tuple[int, int] | None:
    """Identity of the file that marks a run or a study as begun, None without one.

    What a killed process leaves before it has written the mark counts as nothing.
    """
    for name in ("experiment.json", "study.json"):
        with contextlib.suppress(OSError):
            status = (folder / name).stat()
            return status.st_ino, status.st_mtime_ns
    return None


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class _Processes:
    """The processes of one start, ended when the context ends.

    The output of process 0 goes where that of this program goes; what another one says
    on standard error is printed where it is the reason of the end. The first Ctrl-C,
    SIGTERM or SIGHUP is passed on to all, which write a checkpoint; a second one ends
    them at once.
    """

    def __init__(self, command: Sequence[str], count: int, port: int) -> None:
        self.command, self.count, self.port = command, count, port
        self.signal_number = 0
        self.children: list[subprocess.Popen] = []
        self.resources = contextlib.ExitStack()

    def __enter__(self) -> "_Processes":
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores one
                old = signal.signal(number, self._pass_on)
                self.resources.callback(signal.signal, number, old)
        folder = self.resources.enter_context(tempfile.TemporaryDirectory())
        self.logs = [pathlib.Path(folder, str(index)) for index in range(self.count)]
        self.children = [self._start(index) for index in range(self.count)]
        return self

    def _start(self, index: int) -> subprocess.Popen:
        place = ["--processes", str(self.count)]
        environ = dict(os.environ)
        if self.count > 1:
            place += ["--process", str(index)]
            place += ["--coordinator", f"127.0.0.1:{self.port}"]
            environ.setdefault(membership.DEVICES, str(index))
        with open(self.logs[index], "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "jaxtl", *self.command, *place],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if index else None,
                stderr=log if index else None,
                start_new_session=True,  # Ctrl-C reaches this program alone
                preexec_fn=_end_with_parent,
            )

    def _pass_on(self, number: int, _frame: object) -> None:
        if self.signal_number:
            raise Stopped("stopped at once, by a second signal.", number)
        self.signal_number = number
        self._send(number)

    def _send(self, number: int) -> None:
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Waits until all have ended, and ends the others where one fails.

        Returns:
          (exit code, what was lost in words, or "" where nothing is to start again).
        """
        while not any(codes := self._codes()):
            if all(code == 0 for code in codes):
                return 0, ""
            time.sleep(_POLL)
        if not any(code is not None and code < 0 for code in codes):
            self._wait_for_others()
            codes = self._codes()
        self._send(signal.SIGKILL)
        if self.signal_number:
            return 128 + self.signal_number, ""
        return self._outcome(codes)

    def _codes(self) -> list[int | None]:
        return [child.poll() for child in self.children]

    def _wait_for_others(self) -> None:
        """Waits for the others, which fail by themselves for the same reason."""
        end = time.monotonic() + (_STOP if self.signal_number else _GRACE)
        while None in self._codes() and time.monotonic() < end:
            time.sleep(_POLL)

    def _outcome(self, codes: Sequence[int | None]) -> tuple[int, str]:
        """(exit code, what was lost) from exit codes, None of those that were ended."""
        failed = {i: code for i, code in enumerate(codes) if code}
        lost = (LOST, _TERMINATED)
        errors = {
            i: code for i, code in failed.items() if code > 0 and code not in lost
        }
        if errors:
            index, code = next(iter(errors.items()))
            if index:
                self._print_log(index)
            return code, ""
        if _TERMINATED in failed.values():
            # One was told to leave, and all have stopped with it after a checkpoint.
            return LOST, f"one of {self.count} processes was sent SIGTERM"
        # A process that aborts does so, as a rule, since another one has ended.
        last = (LOST, -signal.SIGABRT)
        index, code = min(failed.items(), key=lambda item: item[1] in last)
        reason = f"ended with code {code}"
        if code < 0:
            reason = f"was ended by {signal.Signals(-code).name}"
        return LOST, f"process {index} of {self.count} {reason}"

    def _print_log(self, index: int) -> None:
        """Prints the error of a process, its last line on standard error."""
        lines = self.logs[index].read_text("utf-8", "replace").strip().splitlines()
        print("\n".join(lines[-1:]), file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGKILL)
        for child in self.children:
            child.wait()
        self.resources.close()


def _end_with_parent() -> None:
    """Has Linux send SIGTERM to a child whose supervisor is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
