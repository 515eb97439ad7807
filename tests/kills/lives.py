"""Processes that are killed: `jaxtl` commands, forked from a process with imports done.

Importing takes most of a short command's time. The server that these processes are
forked from has imported what commands import and computed nothing, so that each of them
starts jax's backend, reads, compiles and writes on its own.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import pytest  # noqa: F401, the main module of the tests, which a child imports again
import sklearn.datasets  # noqa: F401

import jaxtl as tl
from jaxtl.cli import grid, main, search, study  # noqa: F401
from jaxtl.core import orbax_module
from jaxtl.results.plots import runs  # noqa: F401

orbax_module.orbax(), tl.models.MLP, tl.data.Digits, tl.train
with contextlib.suppress(ImportError):
    import optuna  # noqa: F401

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lives"])
SECONDS = 600.0  # that a process may take


def _live(arguments: list[str], output: str) -> None:
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        code = main.main(arguments)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    except KeyboardInterrupt:  # before or after the command
        os._exit(128 + signal.SIGINT)


class Life:
    """A process that runs one command line.

    Attributes:
      code: its exit code, −n where signal n ended it.
      seconds: from its start to its end.
      text: all that it printed.
    """

    def __init__(self, output: pathlib.Path, *arguments: object) -> None:
        self.output, self.start = output, time.monotonic()
        words = [str(word) for word in arguments]
        self.process = _CONTEXT.Process(target=_live, args=(words, str(output)))
        self.process.start()

    def kill(self, number: int, after: float) -> None:
        """Sends a signal `after` seconds from the start, if it still runs then."""
        self.process.join(max(0.0, self.start + after - time.monotonic()))
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def end(self) -> "Life":
        """Waits for the end."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            os.kill(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"it did not end: {self.output.read_text()}")
        self.code, self.seconds = self.process.exitcode, time.monotonic() - self.start
        self.text = self.output.read_text() if self.output.exists() else ""
        return self
