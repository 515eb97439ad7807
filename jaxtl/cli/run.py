"""Commands `jaxtl run` and `jaxtl resume`."""

import pathlib
import sys
import time

from jaxtl.core import console as console_lib
from jaxtl.results import run_table, selection_cost
from jaxtl.training import experiment_file, loop, run_dir, setup, show, variants
from jaxtl.training.result import loaded


def run(args) -> int:
    """`jaxtl run FILE [a.b=c …] [--variant NAME] [--out DIR] [--overwrite]`."""

    file = experiment_file.read_file(args.file, *args.overrides)
    if args.variant:
        file = variants.only(file, args.variant)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = args.out or pathlib.Path("runs") / args.file.stem / stamp
    if variants.is_single(file):
        run_one(lambda: _setup(file, out, args.overwrite), out)
        return 0
    variants.prepare(file, out, overwrite=args.overwrite)
    return _study(file, out)


def _setup(file, out, overwrite):

    return setup.setup(
        file.variants[""],
        out,
        overwrite=overwrite,
        file=file.path,
        overrides=file.overrides,
    )


def run_one(make, out: pathlib.Path) -> None:
    """Sets up and trains one run, and prints what was loaded and what came out."""

    console = console_lib.console()
    made = make()
    if made.parts.rows:
        console.print(show.loaded(loaded(made.parts.rows)))
    result = loop.train(made)
    console.print(run_table.comparison([run_table.Row(str(out), [result])]))
    if told := selection_cost.sentence([result]):
        console.print(told, markup=False, soft_wrap=True)
    console.print(f"written to {out}")


def _study(file, out: pathlib.Path) -> int:
    """Runs a file's variants and seeds, and prints and stores their table."""

    console = console_lib.console()
    begin = time.perf_counter()
    rows: dict[str, run_table.Row] = {}
    todo = variants.jobs(file, out)
    left = {name: sum(j.variant == name for j in todo) for name in file.variants}
    with _status(console, len(todo)) as tell:
        for job, result in variants.run_all(file, out):
            row = rows.setdefault(job.variant, run_table.Row(job.variant, [], []))
            failed = isinstance(result, str)
            (row.errors if failed else row.results).append(result)
            if failed:
                where = f"{job.variant} seed {job.seed}"
                print(f"{where} failed: {result}", file=sys.stderr)
            left[job.variant] -= 1
            tell(row, left[job.variant] == 0, time.perf_counter() - begin)
    # Rows in the file's order, not in the order of who needs whom.
    done = [rows[name] for name in file.variants if name in rows]
    run_dir.write_json(out / "summary.json", run_table.summary(done))
    title = (file.doc.splitlines() or [file.path.stem])[0]
    for made in run_table.study_tables(done, title):
        console.print(made)
    every = [result for row in done for result in row.results]
    if told := selection_cost.sentence(every):
        console.print(told, markup=False, soft_wrap=True)

    from jaxtl.results.plots import base  # matplotlib takes a second to import

    base.study(done, out / "results.png", title=title)
    took = time.perf_counter() - begin
    console.print(f"{len(todo)} runs in {took:.0f} s; written to {out}")
    console.print(f"plot: {out / 'results.png'}")
    return 1 if any(row.errors for row in done) else 0


class _status:
    """Tells how a study goes on: a bar on a terminal, a line per variant elsewhere."""

    def __init__(self, console, total: int):
        from rich import progress

        self.console, self.bar = console, None
        if console.is_terminal:
            self.bar = progress.Progress(
                progress.TextColumn("run {task.completed}/{task.total}"),
                progress.BarColumn(bar_width=24),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[text]}"),
                console=console,
                transient=True,
            )
            self.task = self.bar.add_task("runs", total=total, text="")

    def __enter__(self):
        if self.bar is not None:
            self.bar.start()
        return self.tell

    def tell(self, row, finished: bool, seconds: float) -> None:
        """Counts a run; tells a variant's result when its last seed is done."""
        if self.bar is not None:
            self.bar.update(self.task, advance=1, text=row.name)
        if finished:
            metric = run_table.shared_metric([row])
            split = "test" if row.values("test", metric) else "val"
            cell, seeds = row.cell(split, metric), len(row.results)
            line = f"{seconds:6.0f} s  {row.name}: {split} {metric} {cell} (n={seeds})"
            self.console.print(line, markup=False)

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.stop()


def resume(args) -> int:
    """`jaxtl resume DIR`, of one run or of a file's runs."""

    if (args.dir / run_dir.STUDY).exists():
        return _study(variants.reopen(args.dir), args.dir)
    run_one(lambda: setup.resume(args.dir), args.dir)
    return 0
