"""What each command of the command line does; `args` are those of cli.py."""

import pathlib
import sys
import time

from jaxtl import (
    evaluation,
    experiment,
    export,
    facts,
    feeds,
    hindsight,
    predict,
    report,
    rundir,
    store,
    study,
    trained,
    training,
)
from jaxtl.core import UserError
from jaxtl.data import base, catalogue


def run(args) -> int:
    """`jaxtl run FILE [a.b=c …] [--variant NAME] [--out DIR] [--overwrite]`."""

    file = experiment.read_file(args.file, *args.overrides)
    if args.variant:
        file = study.only(file, args.variant)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = args.out or pathlib.Path("runs") / args.file.stem / stamp
    if study.is_single(file):
        run_one(lambda: _setup(file, out, args.overwrite), out)
        return 0
    study.prepare(file, out, overwrite=args.overwrite)
    return _study(file, out)


def _setup(file, out, overwrite):

    return store.setup(
        file.variants[""],
        out,
        overwrite=overwrite,
        file=file.path,
        overrides=file.overrides,
    )


def run_one(make, out: pathlib.Path) -> None:
    """Sets up and trains one run, and prints what was loaded and what came out."""

    console = report.console()
    made = make()
    if made.parts.rows:
        console.print(report.loaded(facts.loaded(made.parts.rows)))
    result = training.train(made)
    console.print(report.comparison([report.Row(str(out), [result])]))
    if told := hindsight.sentence([result]):
        console.print(told, markup=False, soft_wrap=True)
    console.print(f"written to {out}")


def _study(file, out: pathlib.Path) -> int:
    """Runs a file's variants and seeds, and prints and stores their table."""

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
    every = [result for row in done for result in row.results]
    if told := hindsight.sentence(every):
        console.print(told, markup=False, soft_wrap=True)

    from jaxtl import plots  # matplotlib takes a second to import

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

    if (args.dir / rundir.STUDY).exists():
        return _study(study.reopen(args.dir), args.dir)
    run_one(lambda: store.resume(args.dir), args.dir)
    return 0


def evaluate(args) -> int:
    """`jaxtl eval DIR [--split S] [--which best|last]`."""

    made = store.reopen(args.dir, args.which)
    found = evaluation.evaluate(made, args.split)
    n = len(made.parts.datasets["target"].rows[args.split])
    rows = [(name, report.number(name, value, None)) for name, value in found.items()]
    title = f"{args.dir}: {args.which} checkpoint on {args.split}, {n:,} examples"
    report.console().print(report.table(title, ("metric", ""), rows))
    return 0


def show(args) -> int:
    """`jaxtl show FILE_OR_RUN [a.b=c …]`."""

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

    rows = report.collect(args.dirs)
    report.console().print(report.comparison(rows, args.metric))
    if args.plot:
        from jaxtl import plots

        if args.against:
            plots.against(rows, args.against, args.plot, metric=args.metric)
        else:
            plots.study(rows, args.plot)
        print(f"plot: {args.plot}")
    elif args.against:
        raise UserError("--against needs --plot: the PNG that it is drawn to.")
    return 0


def data(args) -> int:
    """`jaxtl data [FILE [a.b=c …]] [--out PNG]`."""

    console = report.console()
    if args.file is None:
        console.print(report.catalogue(catalogue.available()))
        return 0

    variants = experiment.read_file(args.file, *args.overrides).variants
    seen = {}
    for name, exp in variants.items():
        for stream, source in feeds.sources(exp).items():
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
            from jaxtl import plots

            plots.contact_sheet(*sheet, path, title=f"{name}: {dataset.name}")
            console.print(f"contact sheet: {path}")
    return 0


def export_(args) -> int:
    """`jaxtl export RUN OUT [--licence L] [--overwrite]`."""

    path = export.export(
        args.dir, args.out, licence=args.licence, overwrite=args.overwrite
    )
    print(f"written to {path}; try: jaxtl predict {path} FILE…")
    return 0


def predict_(args) -> int:
    """`jaxtl predict OUT FILES…`."""

    rows = predict.predict(args.folder, args.files)
    columns = list(rows[0]) if rows else []
    body = [
        [f"{v:.4f}" if isinstance(v, float) else v for v in row.values()]
        for row in rows
    ]
    report.console().print(report.table("", columns, body, left=2))
    return 0


def models(args) -> int:
    """`jaxtl models`."""
    from jaxtl.pretrained import inspect

    rows = [
        (s.name, f"{s.parameters:,}", ", ".join(s.layouts), s.model)
        for s in inspect.sizes()
    ]
    columns = ("family and size", "parameters", "layouts", "in an experiment")
    report.console().print(report.listing("tl.models", columns, rows), markup=False)
    return 0


def inspect(args) -> int:
    """`jaxtl inspect FILE_OR_DIR`."""
    from jaxtl.pretrained import inspect as inspecting

    console = report.console()
    if (args.path / rundir.MARK).exists():
        made = store.reopen(args.path)
        report.show(made)
        return 0
    found = inspecting.inspect(str(args.path))
    rows = [
        (x.name, "×".join(map(str, x.shape)) or "scalar", x.dtype, x.path or "–")
        for x in found.lines
    ]
    columns = ("tensor", "shape", "dtype", "becomes")
    console.print(report.listing(str(found.file), columns, rows), markup=False)
    total = sum(x.nbytes for x in found.lines)
    console.print(f"{len(found.lines)} tensors, {total:,} bytes", markup=False)
    unused = sum(not x.path for x in found.lines)
    if found.model:
        console.print(f"would load into {found.model} (layout {found.layout!r})")
        if unused:
            console.print(f"{unused} tensors have no place in it")
    else:
        console.print("of no family that is known by its tensors' names")
    for key, value in found.meta.items():
        console.print(f"{key}: {value}", markup=False)
    return 0


def convert(args) -> int:
    """`jaxtl convert SRC DST`: a file to another kind, or a run to its own layout."""
    from jaxtl.pretrained import inspect as inspecting

    if not (args.source / rundir.MARK).exists():
        made = inspecting.convert_file(str(args.source), str(args.target))
        print(f"{len(made.lines)} tensors written to {made.file}")
        return 0
    if args.adapter:
        path = trained.write_adapter(args.source, args.target)
        print(f"the adapter of {args.source} written to {path}")
        return 0
    path = trained.write_back(args.source, args.target, args.layout)
    print(f"the best model of {args.source} written to {path}")
    return 0
