"""Progress of long work: when it is shown, what it says, and that it goes away."""

import io
import sys
import time

import numpy as np
import pytest

from jaxtl.core import progress
from jaxtl.evaluation.metrics import representation


class Screen(io.StringIO):
    """A standard error that is a terminal, or not."""

    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, in seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_elsewhere_a_line_is_written_now_and_then(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", screen := Screen(is_terminal=False))
    for _ in progress.track(range(100), "decoding images"):
        clock[0] += 1
    # After 10 s, and every 30 s from then on.
    assert screen.getvalue().splitlines() == [
        "decoding images: 10 of 100, about 2 min left",
        "decoding images: 40 of 100, about 1 min left",
        "decoding images: 70 of 100, about 30 s left",
        "decoding images: 100 of 100, about 0 s left",
    ]


def test_work_within_work_is_named_and_silence_is_kept(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", screen := Screen(is_terminal=False))
    with progress.Task("reading target"), progress.Task("hashing", 4) as task:
        clock[0] = 20
        with progress.silenced():
            task.advance()
        assert screen.getvalue() == ""
        task.advance()
    line = "reading target: 20 s › hashing: 2 of 4, about 20 s left\n"
    assert screen.getvalue() == line


def test_on_a_terminal_a_line_is_drawn_after_a_delay_and_erased(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Screen(is_terminal=True))
    monkeypatch.setattr(progress, "DELAY", 0.02)
    with progress.Task("short"):
        pass
    assert screen.getvalue() == ""
    with progress.Task("loading", 3):
        deadline = time.monotonic() + 10
        while "loading" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "loading: 0 of 3, 0 s" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[2K")


def test_what_an_error_leaves_open_is_ended(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen(is_terminal=False))
    items = progress.track(range(3), "reading")
    next(items)
    progress.end()
    assert progress._stack == []


class Cell:
    """A cell's output, of which the last text counts."""

    def draw(self, html, text, *, now=False):
        self.text = text


@pytest.mark.parametrize("end", ["error", "break", "last item"])
def test_a_cell_says_whether_the_work_was_done(end, monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Screen(is_terminal=False))
    monkeypatch.setattr(progress.notebook, "is_running", lambda: True)
    monkeypatch.setattr(progress.notebook, "CellOutput", lambda: cell)
    cell, items = Cell(), progress.track(range(4), "reading")
    for item in items:
        clock[0] += 3
        if item == 2 and end == "error":
            progress.end()  # as the command line does before it prints the error
        if item == 2 and end != "last item":
            break
    if end == "break":
        items.close()
    outcome = "done in 12 s" if end == "last item" else "stopped after 9 s"
    assert cell.text == f"reading: {outcome}"


def test_searches_of_neighbors_say_how_far_they_are(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", screen := Screen(is_terminal=False))
    monkeypatch.setattr(representation, "_CHUNK", 1)
    eye, argsort = np.eye(2, dtype=np.float32), np.argsort

    def slow(*args, **options):
        clock[0] += 11
        return argsort(*args, **options)

    monkeypatch.setattr(representation.np, "argsort", slow)
    predicted = representation.knn_predictions(eye, eye, [0, 1], k=1, temperature=0.1)
    np.testing.assert_array_equal(predicted, [0, 1])
    line = "looking for nearest neighbors, in blocks: 1 of 2, about 11 s left\n"
    assert screen.getvalue() == line
