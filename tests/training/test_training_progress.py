"""Progress of training on a terminal, in a log, and in a notebook's cell."""

import io
import sys

import pytest

import jaxtl as tl
from jaxtl.core import progress as core_progress
from jaxtl.training import progress

EXPERIMENT = tl.Experiment(
    model=tl.models.MLP(widths=(4,)), data=tl.data.Digits(limit=120), steps=40, batch=16
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, in seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_now_and_then(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    run = tl.setup(EXPERIMENT)
    with progress.Progress(run) as shown:
        for step in range(1, 11):
            run.steps_done, clock[0] = step, 10.0 * step
            shown.update([{"loss": 0.5}, {"loss": 1.0}], seconds=2.0)
            shown.evaluated({"accuracy": step / 100}, better=step == 2)
    # At 30 s and a minute later; the evaluation is the one before.
    end = "16 examples/s, about"
    assert screen.getvalue().splitlines() == [
        f"step 3 of 40: loss 0.7500  val accuracy 0.0200*  {end} 6 min left",
        f"step 9 of 40: loss 0.7500  val accuracy 0.0800  {end} 5 min left",
    ]


@pytest.mark.parametrize("show", [None, False])
def test_nothing_is_printed_where_it_is_silent(monkeypatch, clock, show):
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    run = tl.setup(EXPERIMENT)
    with core_progress.silenced(), progress.Progress(run, show) as shown:
        run.steps_done, clock[0] = 1, 100.0
        shown.update([{"loss": 0.5}], seconds=2.0)
    assert screen.getvalue() == ""


def test_training_that_ends_early_tells_no_time_left(clock):
    run = tl.setup(EXPERIMENT)
    with progress.Progress(run, show=False) as shown:
        shown.status.step, clock[0] = 10, 20.0
        assert shown.status.left() == "about 1 min left"
    assert shown.status.left() == "20 s"


CELLS = (
    """
import jaxtl as tl
from jaxtl.core import notebook, progress

notebook.INTERVAL = 0.0  # draws whenever it may
data = tl.data.Digits(limit=400)
run = tl.setup(tl.Experiment(
    model=tl.models.MLP(widths=(4,)), data=data, steps=40, batch=16, log_every=2))
""",
    "result = tl.train(run)",
    "result",
    "run",
    """
progress.DELAY = 0.0
for _ in progress.track(range(300), 'reading <files>'): pass
""",
    "progress.DELAY = 2.0\ntl.run_sweep(run.exp, {'seed': [0, 1]}, mode='map')",
    "quiet = tl.train(tl.setup(run.exp), progress=False)",
)


@pytest.fixture(scope="module")
def executed():
    """(outputs of each cell, numbers of drawings after the first) in a kernel."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    updates = [0] * len(CELLS)

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, cell_index):
            updates[cell_index] += message["msg_type"] == "update_display_data"
            return super().process_message(message, cell, cell_index)

    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    Client(book, timeout=300, kernel_name="python3").execute()
    return [cell.outputs for cell in book.cells], updates


def test_training_in_a_notebook_is_one_output_that_is_drawn_again(executed):
    outputs, updates = executed[0][1], executed[1][1]
    assert [output.output_type for output in outputs] == ["display_data"]
    assert updates >= 20
    shown = outputs[0].data["text/html"]
    assert "step 40 of 40" in shown
    assert "width:100.0%" in shown
    assert shown.count("<tr>") == 1 + 10  # an evaluation every four steps
    assert "<th>val accuracy</th>" in shown
    assert "best so far" in shown
    assert outputs[0].data["text/plain"].startswith("step 40 of 40: loss ")


def test_results_and_runs_are_shown_as_tables(executed):
    [result], [run] = executed[0][2:4]
    shown = result.data["text/html"]
    assert "<th>metric</th><th>val</th><th>test</th>" in shown
    assert "<td>accuracy</td>" in shown
    assert "chosen by accuracy on val" in shown
    assert "step 40 of 40" in run.data["text/html"]


def test_other_work_and_sweeps_are_one_output_too(executed):
    [work], [sweep, results] = executed[0][4:6]
    assert executed[1][4] >= 299
    assert work.data["text/html"].startswith("reading &lt;files&gt;: done in ")
    assert "2 of 2 cells" in sweep.data["text/html"]
    assert "<table>" in results.data["text/html"]


def test_nothing_is_shown_where_no_progress_is_asked_for(executed):
    assert executed[0][0] == executed[0][6] == []
