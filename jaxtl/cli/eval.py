"""`jaxtl eval`: evaluates a stored run again, or all runs of a study."""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxtl.cli import formatting, run_argument
from jaxtl.core import console
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from jaxtl.data.dataset import Data
    from jaxtl.evaluation.metrics import Interval

HELP = "evaluate a run, the seeds of a study or an export, on its data or on others"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl eval`."""
    run_argument.add_run(parser)
    parser.add_argument("--split", default="test", help="train, val or test")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="evaluate on another file or folder, read as the run's own data; or on "
        "the data of an experiment file (.py)",
    )
    parser.add_argument(
        "--which",
        default="best",
        choices=("best", "last"),
        help="checkpoint of the run",
    )
    parser.add_argument(
        "--intervals",
        nargs="?",
        type=int,
        const=1000,
        metavar="N",
        help="95 %% intervals by the bootstrap over examples, of N resamples "
        "(1000 where N is left out)",
    )
    parser.add_argument(
        "--method",
        default="percentile",
        choices=("percentile", "bca"),
        help="of the intervals",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")


def main(args: argparse.Namespace) -> int:
    """Prints the metrics of a run's checkpoint, or their means over a study's seeds."""
    if args.all and args.intervals is not None:
        raise UserError(
            "--intervals are those of one run's examples; --all gives intervals over "
            "seeds: leave one of the two out."
        )
    from jaxtl.export import bundle

    if (args.dir / bundle.METADATA).exists():
        return _eval_export(args)
    if args.all:
        return _eval_all(args)
    return run_argument.for_each_run(args, _eval_run)


def _eval_run(args: argparse.Namespace) -> int:
    from jaxtl.evaluation import evaluate

    model, metrics = _evaluate(args.dir, args)
    intervals = None
    if args.intervals is not None:
        intervals = evaluate.bootstrap(
            model, args.split, args.intervals, args.method, args.seed
        )
    _print_metrics(args, model, metrics, intervals, f"{args.which} checkpoint on ")
    return 0


def _eval_export(args: argparse.Namespace) -> int:
    """Prints the metrics of an exported model on --data."""
    from jaxtl.evaluation import evaluate
    from jaxtl.export import evaluate_export

    if args.data is None or pathlib.Path(args.data).suffix != ".py":
        raise UserError(
            f"{args.dir} is an export, which does not say how to read data: --data "
            f"names an experiment file (.py) whose data= are read; got {args.data!r}."
        )
    model = evaluate_export.load(args.dir, _data_of_file(args.data))
    predictions = model.predict(args.split)
    metrics, intervals = evaluate.measure(model, args.split, *predictions), None
    if args.intervals is not None:
        intervals = evaluate.intervals(
            model, args.split, *predictions, args.intervals, args.method, args.seed
        )
    _print_metrics(args, model, metrics, intervals, "")
    return 0


def _print_metrics(
    args: argparse.Namespace,
    model: Any,
    metrics: Mapping[str, float],
    intervals: Mapping[str, "Interval"] | None,
    checkpoint: str,
) -> None:
    """Prints a row per metric, and what was decided.

    Args:
      args: of the command line.
      model: what was evaluated.
      metrics: of it.
      intervals: of the metrics, None for none.
      checkpoint: that the title names.
    """
    examples = len(model.datasets["target"].example_rows[args.split])
    rows = [[name, formatting.metric_cell(metrics, name)] for name in metrics]
    place = f"{args.data}, {args.split}" if args.data else args.split
    title = f"{args.dir}: {checkpoint}{place}, {examples:,} examples"
    columns, notes = ["metric", ""], dict(model.notes)
    if intervals is not None:
        columns.append("95 % interval")
        rows = [[*row, _interval_cell(row[0], intervals)] for row in rows]
        notes["intervals"] = (
            f"bootstrap over examples, {args.method}, {args.intervals:,} resamples, "
            f"seed {args.seed}"
        )
    terminal = console.console()
    if args.data:
        _print_data(model)
    terminal.print(console.table(title, columns, rows))
    for name, text in notes.items():
        terminal.print(f"{name}: {text}", markup=False, soft_wrap=True)


def _interval_cell(metric: str, intervals: Mapping[str, "Interval"]) -> str:
    """An interval as text, with the number of resamples that it leaves out."""
    interval = intervals.get(metric)
    if interval is None:
        return formatting.MISSING
    low, high = (
        formatting.metric_value(metric, x) for x in (interval.low, interval.high)
    )
    without = f" ({interval.undefined} resamples have none)" * bool(interval.undefined)
    return f"[{low}, {high}]{without}"


def _eval_all(args: argparse.Namespace) -> int:
    """Prints one table with a row per experiment: mean ± 95 % interval over seeds.

    Returns:
      The exit code: 1 where a run could not be evaluated, else 0.
    """
    from jaxtl.results import (
        database,
        records,
        run_names,
        settings,
        study_tables,
        writers,
    )
    from jaxtl.training import run_dir, run_paths

    results = []
    runs = run_paths.runs_of(args.dir)
    stored = {run: run_dir.read_json(run / run_dir.MARK) for run in runs}
    for run, labels in run_names.labels_of_runs(args.dir, stored).items():
        try:
            model, metrics = _evaluate(run, args)
        except UserError as error:
            print(f"{run} failed: {error}", file=sys.stderr)
            failed = records.Record(labels=labels, status=database.FAILED)
            results.append(failed)
            continue
        results.append(records.Record(labels=labels, result={args.split: metrics}))
        if args.data and len(results) == 1:
            _print_data(model)
    groups = settings.group_by_setting(results)
    place = f"{args.data}, {args.split}" if args.data else args.split
    title = (
        f"{args.dir}: {args.which} checkpoints on {place}, mean ± 95 % interval "
        "over seeds"
    )
    table = study_tables.metrics_table(groups, args.split, title)
    console.console().print(writers.rich_table(table))
    return 1 if any(group.count(database.FAILED) for group in groups) else 0


def _evaluate(
    run: pathlib.Path, args: argparse.Namespace
) -> tuple[Any, dict[str, float]]:
    """(A run's model, its metrics on --split)."""
    from jaxtl.evaluation.evaluate import evaluate
    from jaxtl.training.load_model import load_model

    data = None if args.data is None else _other_data(run, args.data)
    model = load_model(run, args.which, data=data)
    return model, evaluate(model, args.split)


def _print_data(model: Any) -> None:
    """Prints what was read of other data than the run's, and what was decided."""
    from jaxtl.data import description

    lines = description.lines_of(model.datasets["target"])
    console.print_lines(console.console(), "data", lines)


def _other_data(run: pathlib.Path, path: str) -> "Data":
    """The data of an experiment file, or the run's source at another place."""
    from jaxtl.data.sources.at_path import at_path
    from jaxtl.training import run_dir

    if pathlib.Path(path).suffix == ".py":
        return _data_of_file(path)
    return at_path(run_dir.read_experiment(run).data, path)


def _data_of_file(path: str) -> "Data":
    """The target data of an experiment file, which all of its variants share."""
    from jaxtl.training import experiment_file

    variants = experiment_file.read_file(path).variants.values()
    sources = {repr(exp.data): exp.data for exp in variants}
    if len(sources) > 1:
        raise UserError(
            f"--data {path}: the variants of the file have {len(sources)} different "
            "data; name a file of one."
        )
    return next(iter(sources.values()))
