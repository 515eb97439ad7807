"""`jaxtl sweep --search` and `jaxtl worker`: settings drawn, by many workers."""

import os
import pathlib
import socket
import sys
import time

from jaxtl.cli import sweep
from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results import format_number
from jaxtl.results.database import DATABASE_FILE, DONE, Database
from jaxtl.sweep import (
    axes_from_text,
    optuna_storage,
    optuna_study,
    runner,
    search_runner,
    search_space,
    slurm,
)
from jaxtl.sweep.axes import SEED, Grid
from jaxtl.sweep.grid import grid_of
from jaxtl.training import experiment_file

STORED = "study.sqlite"
KIND = "jaxtl:search"  # attribute of a study: what its workers draw by
SEARCH_ONLY = ("trials", "storage", "study", "seed", "batch", "slurm")


def sweep_(args) -> int:
    """`jaxtl sweep FILE …`: a grid, or with `--search` settings that are drawn."""
    if args.search is not None:
        return search_(args)
    for name in SEARCH_ONLY:
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name} belongs to a search; add --search random, tpe or halving."
            )
    return sweep.sweep_(args)


def search_(args) -> int:
    """`jaxtl sweep FILE [axes…] --search tpe --trials N [--storage URL]`."""
    file, grid = _read(args)
    search_space.check(args.search, grid, args.trials, args.batch)
    found = search_space.space(file, grid)
    if args.plan:
        _planned(found, grid)
        return 0
    if args.trials is None:
        raise UserError("say how many settings to try: --trials 32, for example.")
    if args.slurm is not None:
        slurm.check(args.slurm, args.storage, args.slurm_local, args.slurm_arg)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = args.out or pathlib.Path("runs") / f"sweep-{args.file.stem}" / stamp
    optuna_storage.optuna()  # before anything is written
    storage = optuna_storage.connect(args.storage) if args.storage else None
    made = runner.Sweep(file, grid, (), (), out, args.mode, args.lanes)
    if args.overwrite and args.storage is None:
        (out / STORED).unlink(missing_ok=True)
    with _begun(made, args.overwrite) as database:
        url = args.storage or f"sqlite:///{out.absolute() / STORED}"
        storage = storage or optuna_storage.connect(url)
        one, study = _opened(args, made, found, storage, url)
        if args.slurm is not None:
            return _submitted(args, one, study, url, database)
        return _worked(args, one, study, found, url, database)


def worker(args) -> int:
    """`jaxtl worker FILE [axes…] --storage URL --study NAME`: joins a search."""
    if args.storage is None:
        raise UserError(
            "a worker joins a study by its storage: --storage sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/DATABASE."
        )
    file, grid = _read(args)
    search_space.check(args.search or search_space.TPE, grid, args.trials, args.batch)
    found = search_space.space(file, grid)
    storage = optuna_storage.connect(args.storage)
    made = runner.Sweep(file, grid, (), (), _folder(args), args.mode, args.lanes)
    with _begun(made) as database:
        one, study = _opened(args, made, found, storage, args.storage)
        return _worked(args, one, study, found, args.storage, database)


def _read(args) -> tuple[experiment_file.File, Grid]:
    module = experiment_file.import_file(args.file)
    axes, fixed = axes_from_text.parted(getattr(module, "SWEEP", None), args.overrides)
    file = experiment_file.read_file(args.file, *fixed)
    module = sys.modules[experiment_file.MODULE + args.file.stem]
    return file, grid_of(file, getattr(module, "SWEEP", None), axes)


def _folder(args) -> pathlib.Path:
    """Returns where a worker records: beside its SQLite study, or in a folder alone."""
    if args.out is not None:
        return args.out
    if args.storage.startswith("sqlite:///"):
        beside = pathlib.Path(args.storage.removeprefix("sqlite:///")).parent
        if (beside / DATABASE_FILE).exists():
            return beside
    own = f"{socket.gethostname()}-{os.getpid()}"
    return pathlib.Path("runs") / f"sweep-{args.file.stem}" / own


def _begun(made: runner.Sweep, overwrite: bool = False) -> Database:
    """Opens the folder's database; workers that start together make one."""
    for _ in range(20):
        try:
            return runner.open_database(made, overwrite=overwrite)
        except UserError:
            if not (made.folder / "experiment.py").exists():
                raise
            if (made.folder / DATABASE_FILE).exists():
                break
            time.sleep(0.1)
    return runner.open_database(made, overwrite=overwrite)


def _opened(args, made: runner.Sweep, found, storage, url: str):
    """Returns (the search, its study), which is made where there is none."""
    metric = search_space.metric_of(made)
    seed = args.seed or 0
    one = search_space.Search(made, args.search or "", seed, args.batch or 1, metric)
    with optuna_storage.answering(url):
        study = optuna_storage.open_(
            storage,
            args.study or args.file.stem,
            search_space.direction(metric),
            search_space.facts(one, found),
            args.trials,
        )
        stored = study.user_attrs.get(KIND)
        if stored is None or args.search is not None:
            kind = args.search or search_space.TPE
            stored = {"kind": kind, "seed": seed}
            study.set_user_attr(KIND, stored)
    kind = stored["kind"]
    seed = stored["seed"] if args.seed is None else args.seed
    one = search_space.Search(
        made, kind, seed, args.batch or search_space.BATCH[kind], metric
    )
    return one, study


def _worked(args, one: search_space.Search, study, found, url: str, database) -> int:
    """Works until the study has all its trials; prints how it goes on."""
    console, begun = console_lib.console(), time.perf_counter()
    shared = optuna_study.SharedStudy(study, args.grace)
    database.set_meta(search=_described(args, one, study, url))

    def tell(told: search_runner.Told) -> None:
        if told.error:
            where = ", ".join(f"{k}={v}" for k, v in told.labels.items())
            print(f"{where} failed: {told.error}", file=sys.stderr)
        done, total = shared.counts()
        line = f"{time.perf_counter() - begun:6.0f} s  {done}/{total} trials"
        best = _best(shared.trials(), one.metric)
        console.print(line + (f"; {best}" if best else ""), markup=False)

    def note(text: str) -> None:
        console.print(text, markup=False)

    with optuna_storage.answering(url):
        search_runner.work(one, database, shared, found, tell, note)
        done, _ = shared.counts()
        best = _best(shared.trials(), one.metric)
        failed = sum(optuna_study.ERROR in t.user_attrs for t in shared.trials())
    where = f"recorded in {one.made.folder}; the study {study.study_name!r} is in "
    console.print(f"{done} trials; {where}{optuna_storage.hidden(url)}", markup=False)
    if best:
        console.print(best, markup=False)
    return _reported(one.made.folder, database, failed)


def _best(known, metric: str) -> str:
    """Returns the best trial on val as a sentence, "" where there is none."""
    done = [t for t in known if t.state.name == optuna_study.COMPLETE]
    if not done:
        return ""
    sign = 1 if metrics.higher_is_better(metric) else -1
    best = max(done, key=lambda t: sign * t.value)
    where = ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in best.params.items()
    )
    value = format_number.number(metric, best.value, None)
    return f"best on val so far: {metric} {value} at {where}"


def _described(args, one: search_space.Search, study, url: str) -> dict:
    return {
        "kind": one.kind,
        "seed": one.seed,
        "study": study.study_name,
        "storage": optuna_storage.hidden(url),
        "metric": one.metric,
    }


def _reported(folder: pathlib.Path, database: Database, failed: int) -> int:
    """Prints the tables of what is recorded here; returns the exit code."""
    from jaxtl.results import build_summary, records, report, tables

    if database.counts().get(DONE):
        found = build_summary.summarise(records.read([folder]))
        report.show(found, tables.sheets(found))
        print(f"more of it: jaxtl report {folder}")
    return 1 if failed else 0


def _planned(found, grid: Grid) -> None:
    """Prints the space."""
    rows = []
    for name, drawn in found.items():
        if "choices" in drawn:
            text = f"one of {', '.join(drawn['choices'])}"
        else:
            scale = " on a logarithmic scale" if drawn["log"] else ""
            kind = "whole numbers" if drawn["whole"] else "numbers"
            text = f"{kind} from {drawn['low']:g} to {drawn['high']:g}{scale}"
        when = ", ".join(f"{k} is {v}" for k, v in drawn.get("when", {}).items())
        rows.append((name, text, when))
    seeds = len(list(grid.axes.get(SEED, (0,))))
    title = f"the space; each trial runs {seeds} seed{'s' * (seeds > 1)}"
    table = console_lib.table(title, ("axis", "drawn", "only where"), rows, left=3)
    console_lib.console().print(table, markup=False)


def _submitted(args, one: search_space.Search, study, url: str, database) -> int:
    """Hands the study to workers of a cluster; waits for those of this machine."""
    command = ["worker", str(args.file.absolute()), *args.overrides]
    command += ["--storage", url, "--study", study.study_name]
    command += ["--grace", str(args.grace), "--mode", args.mode]
    for name in ("batch", "lanes"):
        if getattr(args, name) is not None:
            command += [f"--{name}", str(getattr(args, name))]
    folder = one.made.folder
    outs = [folder.absolute() / f"worker-{i}" for i in range(args.slurm)]
    if args.storage is None:
        outs = [folder.absolute()] * args.slurm
    commands = [[*command, "--out", str(out)] for out in outs]
    jobs = slurm.submit(commands, folder / "slurm", args.slurm_local, args.slurm_arg)
    print(f"{len(jobs)} workers submitted: {', '.join(job.job_id for job in jobs)}")
    if not args.slurm_local:
        print(f"see them go on: jaxtl watch {outs[0]}")
        print(f"and what they found: jaxtl report {folder}/worker-*")
        return 0
    codes = slurm.wait(jobs)
    shared = optuna_study.SharedStudy(study, args.grace)
    with optuna_storage.answering(url):
        print(_best(shared.trials(), one.metric))
    if args.storage is None:
        _reported(folder, database, 0)
    return max(codes)
