"""Training on the terminal, for `jaxtl run` and `jaxtl resume`.

A study is all the runs of one experiment file: its variants, each with every seed.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import progress

from jaxtl.cli import formatting
from jaxtl.core import console, devices, process_group, serialization
from jaxtl.core.progress import silenced
from jaxtl.data import dataset, description, preparation
from jaxtl.results import selection_cost, settings, study_tables, writers
from jaxtl.results.database import FAILED
from jaxtl.results.records import Record, provenance
from jaxtl.results.settings import Setting
from jaxtl.training import inputs, loop, run_dir, show, variants
from jaxtl.training.experiment_file import File
from jaxtl.training.result import loaded
from jaxtl.training.run import Run


def train_run(run: Run, folder: pathlib.Path) -> None:
    """Trains one run; prints the weights that it loaded and its results."""
    terminal = console.console()
    print_device()
    for name, lines in description.summarize(run.datasets).items():
        console.print_lines(terminal, name, lines)
    if run.parts.model.loading:
        terminal.print(show.loaded(loaded(run.parts.model.loading)))
    for name, note in run.parts.model.notes.items():
        terminal.print(f"{name}: {note}", markup=False, soft_wrap=True)
    for name in ("devices", "evaluation", "monitor", "threshold"):
        if name in run.notes:
            terminal.print(f"{name}: {run.notes[name]}", markup=False, soft_wrap=True)
    _print_comparisons(terminal, [run.notes])
    result = loop.train(run)
    if "patience" in result["terms"]:
        terminal.print(result["terms"]["patience"], markup=False, soft_wrap=True)
    groups = settings.group_by_setting(
        [Record(labels={"run": str(folder)}, result=result)]
    )
    terminal.print(writers.rich_table(study_tables.runs_table(groups)))
    _print_metrics(terminal, run, result)
    _print_selection_cost(terminal, [result])
    console.print_written(folder, hint=f"next: {_next_commands(run, folder)}")


def _next_commands(run: Run, folder: pathlib.Path) -> str:
    """The commands that most readers run on a finished run."""
    commands = [f"jaxtl report {folder}"]
    if run.parts.program.task in dataset.PREDICTED_TASKS:
        commands.append(f"jaxtl predict {folder} FILES")
    return ", ".join(commands)


def print_device() -> None:
    """Prints the device that computes, as the first line of a run's header."""
    console.console().print(f"device: {devices.describe()}", markup=False)


def print_data(file: File) -> None:
    """Prints what is read of each source of a file's variants, equal ones once."""
    terminal = console.console()
    for name, source, seed in inputs.distinct_sources(file.variants):
        lines = description.lines_of(preparation.prepare(source, seed))
        console.print_lines(terminal, name, lines)


def train_study(file: File, folder: pathlib.Path) -> int:
    """Trains the unfinished runs of a file; prints, plots and stores all results.

    Returns:
      The exit code: 1 where a run failed, else 0.
    """
    terminal, start = console.console(), time.perf_counter()
    jobs = variants.jobs(file, folder)
    groups = _train_jobs(file, folder, jobs, terminal)
    code = 1 if any(group.count(FAILED) for group in groups) else 0
    if not process_group.is_first():
        return code
    run_dir.write_json(folder / "summary.json", study_tables.study_json(groups))
    title = (file.doc.splitlines() or [file.run_name("")])[0]
    for table in study_tables.study_tables(groups, title):
        terminal.print(writers.rich_table(table))
    finished = [record.result for group in groups for record in group.done]
    _print_comparisons(terminal, [result.get("terms", {}) for result in finished])
    _print_metric_notes(terminal, finished)
    _print_selection_cost(terminal, finished)

    from jaxtl.results.plots import runs as plots  # matplotlib imports slowly

    plots.study(groups, folder / "results.png", title=title)
    seconds = time.perf_counter() - start
    terminal.print(f"{len(jobs)} runs in {seconds:.0f} s")
    console.print_written(folder, hint=f"next: jaxtl report {folder}")
    return code


def _train_jobs(
    file: File, folder: pathlib.Path, jobs: Sequence[variants.Job], terminal: Any
) -> list[Setting]:
    """Trains the jobs of a study; returns their settings in the file's order."""
    start = time.perf_counter()
    records: dict[str, list[Record]] = {name: [] for name in file.variants}
    unfinished = {
        name: sum(job.variant == name for job in jobs) for name in file.variants
    }
    with _Progress(terminal, len(jobs)) as display:
        for job, result in variants.run_all(file, folder):
            name = file.run_name(job.variant)
            facts: dict[str, Any] = {"labels": {"run": name, "seed": job.seed}}
            facts |= {"key": str(job.directory), "folder": folder}
            facts |= provenance(serialization.to_json(job.exp))
            if isinstance(result, str):
                record = Record(**facts, status=FAILED, error=result)
                print(f"{name} seed {job.seed} failed: {result}", file=sys.stderr)
            else:
                record = Record(**facts, result=result)
            records[job.variant].append(record)
            unfinished[job.variant] -= 1
            [group] = settings.group_by_setting(records[job.variant])
            seconds = time.perf_counter() - start
            display.update(group, unfinished[job.variant] == 0, seconds)
    # Jobs come in the order in which they need each other, which may be another one.
    return settings.group_by_setting(
        record for runs in records.values() for record in runs
    )


def _print_comparisons(terminal: Any, notes: Sequence[Mapping[str, str]]) -> None:
    """Prints what micro-batches compare in place of the batch, equal lines once."""
    lines = [note["accumulate"] for note in notes if "accumulate" in note]
    for line in dict.fromkeys(lines):
        terminal.print(f"accumulate: {line}", markup=False, soft_wrap=True)


def _print_metrics(terminal: Any, run: Run, result: Mapping[str, Any]) -> None:
    """Prints the metrics that the experiment adds, and what they tell."""
    names = [
        name
        for name in result.get("val", result.get("test", {}))
        if name.split("[")[0] in run.metrics
    ]
    for name in names:
        values = ", ".join(
            f"{split} {formatting.metric_value(name, result[split][name])}"
            for split in ("val", "test")
            if name in result.get(split, {})
        )
        terminal.print(f"{name}: {values}", markup=False)
    _print_metric_notes(terminal, [result])


def _print_metric_notes(terminal: Any, results: Sequence[Mapping[str, Any]]) -> None:
    """Prints why values of added metrics are NaN or a convention, equal lines once."""
    lines = [
        f"{name}: {note}"
        for result in results
        for name, note in result.get("terms", {}).items()
        if name.rpartition(" on ")[0] in result.get("higher_is_better", {})
    ]
    for line in dict.fromkeys(lines):
        terminal.print(line, markup=False, soft_wrap=True)


def _print_selection_cost(terminal: Any, results: Sequence[dict[str, Any]]) -> None:
    if sentence := selection_cost.describe(results):
        terminal.print(sentence, markup=False, soft_wrap=True)


class _Progress:
    """Progress of a study: a bar on a terminal, a line per finished variant elsewhere.

    Attributes:
      terminal: the rich console that is printed to.
      bar: the bar; None where the output is no terminal.
    """

    def __init__(self, terminal: Any, total: int):
        self.terminal, self.bar = terminal, None
        self.silence = contextlib.ExitStack()  # no other lines beside the bar
        if terminal.is_terminal:
            self.bar = progress.Progress(
                progress.TextColumn("run {task.completed}/{task.total}"),
                progress.BarColumn(bar_width=24),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[text]}"),
                console=terminal,
                transient=True,
            )
            self.task = self.bar.add_task("runs", total=total, text="")

    def __enter__(self) -> "_Progress":
        if self.bar is not None:
            self.silence.enter_context(silenced())
            self.bar.start()
        return self

    def update(self, group: Setting, finished: bool, seconds: float) -> None:
        """Counts one more run; prints a variant's result after its last seed.

        Args:
          group: the runs of the variant so far.
          finished: whether that was the variant's last seed.
          seconds: since the study started.
        """
        name = group.labels["run"]
        if self.bar is not None:
            self.bar.update(self.task, advance=1, text=name)
        if finished:
            metric = study_tables.default_metric([group])
            split = "test" if group.raw_values("test", metric) else "val"
            cell = study_tables.metric_cell(group, split, metric)
            seeds = len(group.done)
            count = "" if cell.endswith(f"(n={seeds})") else f" (n={seeds})"
            line = f"{seconds:6.0f} s  {name}: {split} {metric} {cell}{count}"
            self.terminal.print(line, markup=False)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.silence.close()
