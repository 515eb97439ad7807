"""Progress of long work, on standard error: nothing for two seconds, then a line.

On a terminal the line is drawn again in its place and removed at the end. Elsewhere a
line is written now and then, at first after ten seconds, and in a notebook one output
of the cell is drawn again. Of work within work the line names the outermost and the
innermost. Nothing is shown while `silenced`, as where training has a bar of its own.
"""

import contextlib
import html
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from jaxtl.core import notebook

DELAY = 2.0  # seconds before anything is shown on a terminal
_TICK = 0.5  # seconds between two drawings
_FIRST_LINE, _NEXT_LINES = 10.0, 30.0  # seconds, where it is no terminal
_CLEAR = "\r\x1b[2K"  # erases the line of a terminal

Item = TypeVar("Item")
_lock = threading.RLock()
_stack: list["Task"] = []  # the work in progress, the outermost first
_silent = 0


class Task:
    """Work whose progress is shown.

    Args:
      what: in words: "decoding images".
      total: number of its parts; None where it is unknown.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._start = self._due = 0.0
        self._is_drawn = False
        self._ended = threading.Event()
        self._output: notebook.CellOutput | None = None

    def __enter__(self) -> "Task":
        self._start = time.monotonic()
        self._due = self._start + _FIRST_LINE
        with _lock:
            _stack.append(self)
            is_outermost = len(_stack) == 1
        if is_outermost and _is_terminal():
            threading.Thread(target=self._draw_until_the_end, daemon=True).start()
        return self

    def advance(self, count: int = 1) -> None:
        """Counts parts that are done."""
        self.done += count
        if _is_terminal():
            return
        with _lock:
            first, now = _stack[0] if _stack else self, time.monotonic()
            if _silent:
                return
            if notebook.is_running():
                first._draw_in_cell(now)
            elif now >= first._due:
                first._due = now + _NEXT_LINES
                print(_line(now), file=sys.stderr, flush=True)

    def _draw_until_the_end(self) -> None:
        wait = DELAY
        while not self._ended.wait(wait):
            wait = _TICK
            with _lock:
                if not (_silent or self._ended.is_set()):
                    self._is_drawn = True
                    width = shutil.get_terminal_size().columns - 1
                    sys.stderr.write(_CLEAR + _line(time.monotonic())[:width])
                    sys.stderr.flush()

    def _draw_in_cell(self, now: float) -> None:
        """Draws the line as an output of the cell, once the work has lasted."""
        if self._output is None:
            if now - self._start < DELAY:
                return
            self._output = notebook.CellOutput()
        line = _line(now)
        self._output.draw(html.escape(line), line)

    def erase(self) -> None:
        """Removes the drawn line."""
        with _lock:
            if self._is_drawn:
                self._is_drawn = False
                sys.stderr.write(_CLEAR)
                sys.stderr.flush()

    def describe(self, now: float) -> str:
        """The state in words: "decoding images: 1,200 of 5,000, about 8 s left"."""
        seconds = now - self._start
        if not self.total:
            count = f" {self.done:,}," if self.done else ""
            return f"{self.what}:{count} {duration(seconds)}"
        line = f"{self.what}: {self.done:,} of {self.total:,}"
        if not self.done:
            return f"{line}, {duration(seconds)}"
        left = seconds * (self.total - self.done) / self.done
        return f"{line}, about {duration(max(left, 0.0))} left"

    def __exit__(self, kind: object, *_: object) -> None:
        self.end(is_done=kind is None)

    def end(self, *, is_done: bool) -> None:
        """Ends the work.

        Args:
          is_done: whether it came to its end; a cell's output says so.
        """
        with _lock:
            self._ended.set()
            if self in _stack:
                _stack.remove(self)
            self.erase()
            if self._output is not None:
                outcome = "done in" if is_done else "stopped after"
                seconds = time.monotonic() - self._start
                line = f"{self.what}: {outcome} {duration(seconds)}"
                self._output.draw(html.escape(line), line, now=True)


def _line(now: float) -> str:
    """What the outermost and the innermost task say."""
    ends = dict.fromkeys((_stack[0], _stack[-1])) if _stack else ()
    return " › ".join(task.describe(now) for task in ends)


def end() -> None:
    """Ends all tasks, as those that an error left open."""
    for task in _stack[::-1]:
        task.end(is_done=False)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yields items, and shows how many of them are done.

    Args:
      items: any.
      what: what is done with them, in words.
      total: their number; None takes their length where they have one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Task(what, total) as task:
        for item in items:
            yield item
            task.advance()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Shows no progress, in whatever thread, inside of the context."""
    global _silent
    with _lock:
        _silent += 1
        if _stack:
            _stack[0].erase()
    try:
        yield
    finally:
        with _lock:
            _silent -= 1


def is_silent() -> bool:
    """Whether progress is silenced."""
    return _silent > 0


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def duration(seconds: float) -> str:
    """A time in words: "40 s", "12 min", "3 h 5 min".

    Args:
      seconds: the time.
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
