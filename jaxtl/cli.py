"""The command line. Each command imports what it needs, so `--help` stays quick."""

import argparse
import pathlib
import sys
import time

EPILOG = """examples:
  jaxtl run experiments/quickstart.py
  jaxtl run experiments/quickstart.py steps=100 SEEDS=0,1 --out runs/try
  jaxtl compare runs/try
  jaxtl export runs/mine out && jaxtl predict out picture.png
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    made = argparse.ArgumentParser(
        prog="jaxtl",
        description="Transfer learning in JAX: run, compare and deploy experiments.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="store_true", help="print the version")
    commands = made.add_subparsers(dest="command", metavar="COMMAND")

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = command("run", run, "run an experiment file")
    sub.add_argument("file", type=pathlib.Path)
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")
    sub.add_argument("--out", type=pathlib.Path, help="default runs/<file>/<time>")
    sub.add_argument("--overwrite", action="store_true", help="replace what lies there")

    sub = command("resume", resume, "continue an interrupted run")
    sub.add_argument("dir", type=pathlib.Path)

    sub = command("eval", evaluate, "evaluate a finished run again")
    sub.add_argument("dir", type=pathlib.Path)
    sub.add_argument("--split", default="test", help="train, val or test")
    sub.add_argument("--which", default="best", choices=("best", "last"))

    sub = command("show", show, "the resolved experiment and its parameters")
    sub.add_argument("target", type=pathlib.Path, help="experiment file or run")
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")

    sub = command("compare", compare, "a table of runs, mean ± 95 %% interval")
    sub.add_argument("dirs", type=pathlib.Path, nargs="+")
    sub.add_argument("--metric", help="default: what the runs were chosen by")
    sub.add_argument("--plot", type=pathlib.Path, help="also draw it to this PNG")

    sub = command("data", data, "what data there are; a contact sheet of examples")
    sub.add_argument("file", type=pathlib.Path, nargs="?", help="experiment file")
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")
    sub.add_argument("--out", type=pathlib.Path, default=pathlib.Path("data.png"))
    sub.add_argument("--per-class", type=int, default=12)

    sub = command("export", export, "write a finished run as a self-contained folder")
    sub.add_argument("dir", type=pathlib.Path)
    sub.add_argument("out", type=pathlib.Path)
    sub.add_argument("--licence", help="for the model card")
    sub.add_argument("--overwrite", action="store_true")

    sub = command("predict", predict, "run an exported model on files")
    sub.add_argument("folder", type=pathlib.Path)
    sub.add_argument("files", type=pathlib.Path, nargs="+")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    0: done. 1: bad input or a failed run, told in one sentence. 2: wrong usage.
    130: stopped by Ctrl-C.
    """
    args = _parse(sys.argv[1:] if arguments is None else arguments)
    if args.version:
        from jaxtl import __version__

        print(__version__)
        return 0
    if args.command is None:
        parser().print_help()
        return 2
    from jaxtl.core import UserError

    try:
        return args.function(args) or 0
    except UserError as error:
        print(f"jaxtl {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"\n{stopped or 'stopped.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone, `jaxtl show … | head`
        sys.stderr.close()
        return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parses; overrides may stand before or after options."""
    made = parser()
    args, rest = made.parse_known_args(arguments)
    takes = hasattr(args, "overrides")
    wrong = [text for text in rest if text.startswith("-") or not takes]
    if wrong:
        made.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def run(args) -> int:
    """`jaxtl run FILE [a.b=c …] [--out DIR] [--overwrite]`."""
    from jaxtl import experiment, study

    file = experiment.read_file(args.file, *args.overrides)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = args.out or pathlib.Path("runs") / args.file.stem / stamp
    if study.is_single(file):
        run_one(lambda: _setup(file, out, args.overwrite), out)
        return 0
    study.prepare(file, out, overwrite=args.overwrite)
    return _study(file, out)


def _setup(file, out, overwrite):
    from jaxtl import store

    return store.setup(
        file.variants[""],
        out,
        overwrite=overwrite,
        file=file.path,
        overrides=file.overrides,
    )


def run_one(make, out: pathlib.Path) -> None:
    """Sets up and trains one run, and prints what was loaded and what came out."""
    from jaxtl import facts, report, training

    console = report.console()
    made = make()
    if made.parts.rows:
        console.print(report.loaded(facts.loaded(made.parts.rows)))
    result = training.train(made)
    console.print(report.comparison([report.Row(str(out), [result])]))
    console.print(f"written to {out}")


def _study(file, out: pathlib.Path) -> int:
    """Runs a file's variants and seeds, and prints and stores their table."""
    from jaxtl import report, rundir, study

    console = report.console()
    begin = time.perf_counter()
    rows: dict[str, report.Row] = {}
    todo = study.jobs(file, out)
    left = {name: sum(j.variant == name for j in todo) for name in file.variants}
    with _status(console, len(todo)) as tell:
        for job, result in study.run_all(file, out):
            row = rows.setdefault(job.variant, report.Row(job.variant, [], []))
            failed = isinstance(result, str)
            (row.errors if failed else row.results).append(result)
            if failed:
                where = f"{job.variant} seed {job.seed}"
                print(f"{where} failed: {result}", file=sys.stderr)
            left[job.variant] -= 1
            tell(row, left[job.variant] == 0, time.perf_counter() - begin)
    # Rows in the file's order, not in the order of who needs whom.
    done = [rows[name] for name in file.variants if name in rows]
    rundir.write_json(out / "summary.json", report.summary(done))
    title = (file.doc.splitlines() or [file.path.stem])[0]
    for made in report.study_tables(done, title):
        console.print(made)
    from jaxtl import plots

    plots.study(done, out / "results.png", title=title)
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
            from jaxtl import report

            metric = report.shared_metric([row])
            split = "test" if row.values("test", metric) else "val"
            cell, seeds = row.cell(split, metric), len(row.results)
            line = f"{seconds:6.0f} s  {row.name}: {split} {metric} {cell} (n={seeds})"
            self.console.print(line, markup=False)

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.stop()


def resume(args) -> int:
    """`jaxtl resume DIR`, of one run or of a file's runs."""
    from jaxtl import rundir, store, study

    if (args.dir / rundir.STUDY).exists():
        return _study(study.reopen(args.dir), args.dir)
    run_one(lambda: store.resume(args.dir), args.dir)
    return 0


def evaluate(args) -> int:
    """`jaxtl eval DIR [--split S] [--which best|last]`."""
    from jaxtl import evaluation, report, store

    made = store.reopen(args.dir, args.which)
    found = evaluation.evaluate(made, args.split)
    n = len(made.parts.datasets["target"].rows[args.split])
    rows = [(name, report.number(name, value, None)) for name, value in found.items()]
    title = f"{args.dir}: {args.which} checkpoint on {args.split}, {n:,} examples"
    report.console().print(report.table(title, ("metric", ""), rows))
    return 0


def show(args) -> int:
    """`jaxtl show FILE_OR_RUN [a.b=c …]`."""
    from jaxtl import experiment, report, rundir, store, study

    if args.target.is_dir() and (args.target / rundir.STUDY).exists():
        variants = study.reopen(args.target).variants
    elif args.target.is_dir():
        variants = {"": rundir.read_experiment(args.target)}
    else:
        variants = experiment.read_file(args.target, *args.overrides).variants
    console = report.console()
    for name, exp in variants.items():
        if name:
            console.rule(name, align="left")
        console.print(report.describe(exp), markup=False, highlight=False)
        if isinstance(exp.init, experiment.Variant):
            console.print(
                f"(its parameters: those of {exp.init.name!r}, once that is trained)"
            )
        else:
            report.show(store.setup(exp))
    return 0


def compare(args) -> int:
    """`jaxtl compare DIR… [--metric M] [--plot PNG]`."""
    from jaxtl import report

    rows = report.collect(args.dirs)
    report.console().print(report.comparison(rows, args.metric))
    if args.plot:
        from jaxtl import plots

        plots.study(rows, args.plot)
        print(f"plot: {args.plot}")
    return 0


def data(args) -> int:
    """`jaxtl data [FILE [a.b=c …]] [--out PNG]`."""
    from jaxtl import report

    console = report.console()
    if args.file is None:
        from jaxtl.data import catalogue

        console.print(report.catalogue(catalogue.available()))
        return 0
    from jaxtl import experiment, plots
    from jaxtl.data import base

    variants = experiment.read_file(args.file, *args.overrides).variants
    seen = {}
    for name, exp in variants.items():
        for stream, source in {"data": exp.data, **exp.streams}.items():
            seen.setdefault(
                repr(source), (f"{name} {stream}".strip(), source, exp.seed)
            )
    for i, (name, source, seed) in enumerate(seen.values()):
        dataset = base.prepare(source, seed)
        console.print(report.dataset(name, dataset))
        sheet = report.sheet(dataset, args.per_class)
        if sheet is not None:
            suffix = f"-{i}" if len(seen) > 1 else ""
            path = args.out.with_name(f"{args.out.stem}{suffix}{args.out.suffix}")
            plots.contact_sheet(*sheet, path, title=f"{name}: {dataset.name}")
            console.print(f"contact sheet: {path}")
    return 0


def export(args) -> int:
    """`jaxtl export RUN OUT [--licence L] [--overwrite]`."""
    from jaxtl import export as exporting

    path = exporting.export(
        args.dir, args.out, licence=args.licence, overwrite=args.overwrite
    )
    print(f"written to {path}; try: jaxtl predict {path} FILE…")
    return 0


def predict(args) -> int:
    """`jaxtl predict OUT FILES…`."""
    from jaxtl import predict as predicting
    from jaxtl import report

    rows = predicting.predict(args.folder, args.files)
    columns = list(rows[0]) if rows else []
    body = [
        [f"{v:.4f}" if isinstance(v, float) else v for v in row.values()]
        for row in rows
    ]
    report.console().print(report.table("", columns, body, left=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
