"""`jaxtl fewshot`: few-shot classification with the features of a model."""

import argparse
import json
import pathlib
from typing import TYPE_CHECKING

from jaxtl.cli import arguments, prediction_files
from jaxtl.core import console, output_paths
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from jaxtl.analysis.episodes.evaluation import FewShotResult
    from jaxtl.analysis.episodes.few_shot_study import FewShotStudy
    from jaxtl.data.episodes import FixedShape, VariableShape

HELP = "classes from a few examples each: many methods on a model's features"
SUFFIXES = (".json", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl fewshot`."""
    parser.add_argument(
        "target",
        type=pathlib.Path,
        help="an experiment file, a run's directory, or a folder of images with "
        "--weights",
    )
    arguments.add_overrides(parser)
    parser.add_argument("--ways", type=int, help="classes of an episode (5)")
    parser.add_argument("--shots", help="labelled examples of each, as 1,5 (1,5)")
    parser.add_argument(
        "--queries", type=int, help="examples of each class to classify (15)"
    )
    parser.add_argument(
        "--variable",
        action="store_true",
        help="ways and shots that vary as in Meta-Dataset",
    )
    parser.add_argument(
        "--methods",
        help="as protonet,tim; all of features by default, finetune when it is named",
    )
    parser.add_argument("--episodes", type=int, default=600, help="of test classes")
    parser.add_argument(
        "--val-episodes",
        type=int,
        default=100,
        help="of the classes that settings are chosen on",
    )
    parser.add_argument("--test-classes", metavar="A,B", help="names; drawn by default")
    parser.add_argument("--val-classes", metavar="C,D", help="to choose settings on")
    parser.add_argument("--stage", help="whose features; default: before the head")
    parser.add_argument("--variant", help="of a file with several experiments")
    parser.add_argument(
        "--data", metavar="PATH", help="other data for a run, of other classes, say"
    )
    parser.add_argument(
        "--weights", help="pretrained ones for a folder of images: a file, run or hf:…"
    )
    parser.add_argument("--seed", type=int, default=0, help="of classes and episodes")
    parser.add_argument(
        "--out", type=output_paths.OutputFile, help="JSON or CSV to write it to"
    )


def main(args: argparse.Namespace) -> int:
    """Prints a row per method; writes JSON or CSV on request."""
    if args.out and args.out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--out {args.out}: expected a name that ends in .json or .csv."
        )
    from jaxtl.analysis.episodes import methods
    from jaxtl.analysis.episodes.few_shot_study import study

    few_shot = study(
        args.target,
        _names(args.methods) if args.methods is not None else methods.ON_FEATURES,
        _shapes(args),
        episodes=args.episodes,
        val_episodes=args.val_episodes,
        test_classes=_names(args.test_classes),
        val_classes=_names(args.val_classes),
        stage=args.stage,
        seed=args.seed,
        overrides=args.overrides,
        variant=args.variant,
        data=args.data,
        weights=args.weights,
    )
    _print(few_shot, args.target)
    if args.out:
        _write(few_shot, args.out)
        console.print_written(args.out)
    return 0


def _names(text: str | None) -> list[str]:
    """The names of a list with commas; [] for None."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _shapes(args: argparse.Namespace) -> "list[FixedShape | VariableShape]":
    """The shapes of episodes that the options name."""
    from jaxtl.data.episodes import FixedShape, VariableShape

    if args.variable:
        for name in ("ways", "shots", "queries"):
            if getattr(args, name) is not None:
                raise UserError(
                    f"--{name} {getattr(args, name)} does not go with --variable, "
                    "which draws ways, shots and queries; leave one of the two out."
                )
        return [VariableShape()]
    ways = 5 if args.ways is None else args.ways
    queries = 15 if args.queries is None else args.queries
    shots = _names("1,5" if args.shots is None else args.shots)
    if not shots or not all(text.isdecimal() for text in shots):
        raise UserError(f"--shots {args.shots!r}: expected whole numbers, as 1,5.")
    return [FixedShape(ways, int(text), queries) for text in dict.fromkeys(shots)]


def _print(few_shot: "FewShotStudy", target: pathlib.Path) -> None:
    """Prints the table, and what was decided."""
    terminal = console.console()
    terminal.print(_table(few_shot, target), markup=False)
    lines = [
        f"{len(few_shot.test_classes)} test classes ({few_shot.classes_from}): "
        f"{', '.join(few_shot.test_classes)}",
        f"{len(few_shot.val_classes)} classes to choose settings on: "
        f"{', '.join(few_shot.val_classes) or 'none'}",
        "T: transductive, a query's class depends on the other queries of its episode",
        *few_shot.notes,
    ]
    for line in lines:
        console.print_lines(terminal, "", [line])


def _table(few_shot: "FewShotStudy", target: pathlib.Path) -> "Table":
    """Builds the table: a row per method, a column per shape of episodes."""
    shapes = list(dict.fromkeys(result.shape for result in few_shot.results))
    cells: dict[str, dict] = {}
    for result in few_shot.results:
        cells.setdefault(result.name, {})[result.shape] = result
    rows = []
    for name, by_shape in cells.items():
        first = next(iter(by_shape.values())).method
        mark = "T" if first.transductive else ""
        accuracies = [_accuracy(by_shape[shape]) for shape in shapes]
        rows.append((name, mark, *accuracies, _chosen(list(by_shape.values()))))
    columns = ("method", "", *map(_shape_title, shapes), "chosen")
    episodes = few_shot.results[0].accuracy.n
    title = (
        f"{target}: {few_shot.width:,} features of {few_shot.stage}, {episodes:,} "
        "episodes, accuracy % and its 95 % interval"
    )
    return console.table(title, columns, rows, left=2)


def _accuracy(result: "FewShotResult") -> str:
    estimate = result.accuracy
    return f"{100 * estimate.mean:.2f} ± {100 * (estimate.half or 0):.2f}"


def _shape_title(shape: "FixedShape | VariableShape") -> str:
    ways, shots = getattr(shape, "ways", None), getattr(shape, "shots", None)
    return "varying ways, shots" if ways is None else f"{ways}-way {shots}-shot"


def _chosen(results: "list[FewShotResult]") -> str:
    """The chosen settings, one value per shape."""
    values = {
        name: ", ".join(str(result.chosen[name]) for result in results)
        for name in results[0].candidates
    }
    return "; ".join(f"{name} {text}" for name, text in values.items())


def _write(few_shot: "FewShotStudy", path: pathlib.Path) -> None:
    """Writes a study as JSON, or its results as CSV."""
    from jaxtl.training import run_dir

    if path.suffix.lower() == ".json":
        run_dir.write_json(path, few_shot.to_json())
        return
    rows = [result.to_json() for result in few_shot.results]
    for row in rows:
        row["settings"] = json.dumps(row["settings"])
    prediction_files.write(rows, path)
