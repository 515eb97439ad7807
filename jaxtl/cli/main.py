"""The command line. Each command imports what it needs, so `--help` stays quick."""

import argparse
import importlib
import pathlib
import sys

EPILOG = """examples:
  jaxtl run experiments/quickstart.py
  jaxtl run experiments/quickstart.py steps=100 SEEDS=0,1 --out runs/try
  jaxtl compare runs/try
  jaxtl export runs/mine out && jaxtl predict out picture.png
"""


# "module:function" where that is not the function of the command's name in commands.py.
COMMANDS = {
    "resume": "run:resume",
    "models": "weights:models",
    "inspect": "weights:inspect",
    "convert": "weights:convert",
    "lr": "lr:lr",
    "eval": "evaluate:evaluate",
    "importance": "importance:importance",
    "diagnose": "diagnose:diagnose",
    "labels": "labels:labels",
    "ensemble": "ensemble:ensemble",
    "export": "export:export_",
    "predict": "export:predict_",
    "probe": "probe:probe_",
    "report": "report:report_",
    "reproduce": "reproduce:reproduce",
    "watch": "report:watch_",
    "soup": "wise_soup:soup",
    "sweep": "search:sweep_",
    "wise": "wise_soup:wise",
    "worker": "search:worker",
}


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

    def command(name, text):
        # argparse formats the one with %, the other as it is.
        line = text.replace("%", "%%")
        return commands.add_parser(name, help=line, description=text)

    sub = command("run", "run an experiment file")
    sub.add_argument("file", type=pathlib.Path)
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")
    sub.add_argument("--out", type=pathlib.Path, help="default runs/<file>/<time>")
    sub.add_argument("--overwrite", action="store_true", help="replace what lies there")
    sub.add_argument(
        "--variant",
        action="append",
        metavar="NAME",
        help="run this variant, and what it starts from; may be repeated",
    )

    sub = command("lr", "find a learning rate: a short run whose rate grows")
    sub.add_argument("file", type=pathlib.Path)
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")
    sub.add_argument("--variant", help="which, of a file of several")
    sub.add_argument("--low", type=float, default=1e-7)
    sub.add_argument("--high", type=float, default=10.0)
    sub.add_argument("--steps", type=int, default=100)
    sub.add_argument("--out", type=pathlib.Path, default=pathlib.Path("lr.png"))

    sub = command("resume", "continue an interrupted run")
    sub.add_argument("dir", type=pathlib.Path)

    sub = command("eval", "evaluate a finished run again")
    sub.add_argument("dir", type=pathlib.Path)
    sub.add_argument("--split", default="test", help="train, val or test")
    sub.add_argument("--which", default="best", choices=("best", "last"))

    sub = command("importance", "which parameters a trained model depends on")
    sub.add_argument("target", type=pathlib.Path, help="run, or experiment file")
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")
    sub.add_argument("--kind", default="fisher", help="fisher, empirical, mas, …")
    sub.add_argument("--split", default="train", help="train, unlabelled, val or test")
    sub.add_argument("--examples", type=int, metavar="N", help="default: all")
    sub.add_argument("--variant", help="which experiment of a file of several")
    sub.add_argument("--out", type=pathlib.Path, help="default RUN/importance/KIND…")
    sub.add_argument("--overwrite", action="store_true", help="replace another model's")

    sub = command("labels", "which labels of a run's train data are wrong")
    sub.add_argument("run", type=pathlib.Path)
    sub.add_argument(
        "--folds",
        type=int,
        default=5,
        metavar="K",
        help="models trained to predict out of sample; 0: the run's own, in sample",
    )
    sub.add_argument("--method", default="prune_by_noise_rate")
    sub.add_argument("--out", type=pathlib.Path, help="default RUN/labels")

    sub = command("show", "the resolved experiment and its parameters")
    sub.add_argument("target", type=pathlib.Path, help="experiment file or run")
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")

    sub = command("compare", "a table of runs, mean ± 95 % interval")
    sub.add_argument("dirs", type=pathlib.Path, nargs="+")
    sub.add_argument("--metric", help="default: what the runs were chosen by")
    sub.add_argument("--plot", type=pathlib.Path, help="also draw it to this PNG")
    sub.add_argument(
        "--against",
        metavar="FACT",
        help="draw the metric against a number of result.json, such as drift",
    )

    sub = command("report", "tables, plots and a page of sweeps and runs")
    sub.add_argument("dirs", type=pathlib.Path, nargs="+", metavar="DIR")
    sub.add_argument("--metric", help="default: what the runs were chosen by")
    sub.add_argument("--split", choices=("test", "val"), help="default: test if any")
    sub.add_argument(
        "--compare",
        nargs="+",
        metavar="AXIS",
        help="a line each; the other axes are chosen on val (default: numbers below "
        "optim, terms, peft and average are chosen)",
    )
    sub.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="AXIS=VALUE",
        help="what the others are compared with (default: full, or the first)",
    )
    sub.add_argument(
        "--scratch",
        action="append",
        default=[],
        metavar="AXIS=VALUE",
        help="the from-scratch runs (default: those called scratch)",
    )
    sub.add_argument("--interval", default="t", choices=("t", "bootstrap"))
    sub.add_argument("--paired", default="t", choices=("t", "wilcoxon"), help="test")
    sub.add_argument("--out", type=pathlib.Path, help="default DIR/report")

    sub = command("watch", "how a running sweep goes on")
    sub.add_argument("dir", type=pathlib.Path)
    sub.add_argument("--once", action="store_true", help="print it once and end")
    sub.add_argument("--interval", type=float, default=2.0, metavar="SECONDS")

    sub = command("sweep", "a grid of experiments, many in one compiled program")
    sub.add_argument("file", type=pathlib.Path)
    sub.add_argument(
        "overrides", nargs="*", metavar="a.b=0,0.1", help="axes, or single values"
    )
    sub.add_argument("--plan", action="store_true", help="say what would happen")
    sub.add_argument(
        "--out", type=pathlib.Path, help="default runs/sweep-<file>/<time>"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace what lies there")
    sub.add_argument("--retry", action="store_true", help="run failed cells again")
    sub.add_argument("--mode", default="auto", help="auto, vmap, map or alone")
    sub.add_argument("--lanes", type=int, metavar="N", help="side by side at most")
    sub.add_argument("--search", metavar="KIND", help="random, tpe or halving")
    _searching(sub)
    sub.add_argument("--slurm", type=int, metavar="N", help="submit N workers")
    sub.add_argument(
        "--slurm-arg", action="append", metavar="A=B", help="such as partition=gpu"
    )
    sub.add_argument(
        "--slurm-local", action="store_true", help="as processes of this machine"
    )

    sub = command("worker", "join a search from this machine")
    sub.add_argument("file", type=pathlib.Path)
    sub.add_argument(
        "overrides", nargs="*", metavar="a.b=0,0.1", help="as the search was given"
    )
    sub.add_argument("--out", type=pathlib.Path, help="default: beside a SQLite study")
    sub.add_argument("--mode", default="auto", help="auto, vmap, map or alone")
    sub.add_argument("--lanes", type=int, metavar="N", help="side by side at most")
    sub.add_argument("--search", metavar="KIND", help="default: the study's")
    _searching(sub)

    sub = command("data", "what data there are; a contact sheet of examples")
    sub.add_argument("file", type=pathlib.Path, nargs="?", help="experiment file")
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")
    sub.add_argument("--out", type=pathlib.Path, default=pathlib.Path("data.png"))
    sub.add_argument("--per-class", type=int, default=12)

    sub = command("export", "write a finished run as a self-contained folder")
    sub.add_argument("dir", type=pathlib.Path)
    sub.add_argument("out", type=pathlib.Path)
    sub.add_argument("--licence", help="for the model card")
    sub.add_argument("--overwrite", action="store_true")

    sub = command("predict", "run an exported model on files")
    sub.add_argument("folder", type=pathlib.Path)
    sub.add_argument("files", type=pathlib.Path, nargs="+")

    sub = command("wise", "a run's weights mixed with θ₀, α chosen on val (WiSE-FT)")
    sub.add_argument("dir", type=pathlib.Path)
    sub.add_argument("--alphas", type=float, nargs="+", help="default 0 0.1 … 1")
    sub.add_argument("--refresh", action="store_true", help="BatchNorm on train rows")
    sub.add_argument("--out", type=pathlib.Path, help="also draw it to this PNG")
    sub.add_argument("--save", type=pathlib.Path, help="write the chosen weights")

    sub = command("soup", "the averaged weights of several runs of one model")
    sub.add_argument("dirs", type=pathlib.Path, nargs="+")
    sub.add_argument(
        "--greedy", action="store_true", help="only those that help on val"
    )
    sub.add_argument("--save", type=pathlib.Path, help="write the averaged weights")

    sub = command("ensemble", "several runs' predictions put together, and calibrated")
    sub.add_argument("dirs", type=pathlib.Path, nargs="+", metavar="RUN")
    sub.add_argument("--method", default="auto", help="default: the best on val")
    sub.add_argument("--split", default="test", help="test or val")
    sub.add_argument("--which", default="best", choices=("best", "last"))
    sub.add_argument("--out", type=pathlib.Path, help="also write it to this JSON")

    sub = command("probe", "linear models of a stage's frozen features")
    sub.add_argument("target", type=pathlib.Path, help="experiment file or run")
    sub.add_argument("overrides", nargs="*", metavar="a.b=c")
    sub.add_argument("--stage", help="all, or a name; default: before the head")
    sub.add_argument("--strengths", type=float, nargs="+", help="default 1e-5 … 10")
    sub.add_argument("--solver", default="auto", help="logistic or ridge")
    sub.add_argument("--metric", default="auto", help="to choose by: accuracy, loo …")
    sub.add_argument("--raw", action="store_true", help="features not standardised")
    sub.add_argument("--variant", help="of a file with several experiments")
    sub.add_argument("--no-test", action="store_true", help="leave test unseen")
    sub.add_argument("--out", type=pathlib.Path, help="also write it to this JSON")
    sub.add_argument("--plot", type=pathlib.Path, help="also draw it to this PNG")

    sub = command("reproduce", "a published table, run again, with verdicts")
    sub.add_argument("name", nargs="?", metavar="NAME", help="default: list them")
    sub.add_argument("--fast", action="store_true", help="a part that takes seconds")
    sub.add_argument(
        "--out",
        type=pathlib.Path,
        help="default experiments/reports/reproduce, nothing with --fast",
    )

    sub = command("diagnose", "how far a run's two domains lie apart, before and after")
    sub.add_argument("dir", type=pathlib.Path, metavar="RUN")
    sub.add_argument("--source", metavar="STREAM", help="default: source, or the first")
    sub.add_argument(
        "--target", metavar="STREAM", help="default: unlabelled, or target"
    )
    sub.add_argument("--stage", help="default: the last before the head")
    sub.add_argument("--examples", type=int, default=1000, metavar="N")
    sub.add_argument("--permutations", type=int, default=500, metavar="N")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", type=pathlib.Path, help="default RUN/diagnosis")

    command("models", "families, sizes, parameters, file layouts")

    sub = command("inspect", "the tensors of a file, directory or run; what they fit")
    sub.add_argument("path", type=pathlib.Path)

    sub = command("convert", "weights to another kind of file, or a run to its layout")
    sub.add_argument("source", type=pathlib.Path)
    sub.add_argument("target", type=pathlib.Path)
    sub.add_argument("--layout", help="of a run's family; default: its usual one")
    sub.add_argument(
        "--adapter",
        action="store_true",
        help="only what a run's peft= trained, as Hugging Face PEFT reads it",
    )
    return made


def _searching(sub: argparse.ArgumentParser) -> None:
    """Adds the options that a search and its workers share."""
    sub.add_argument("--trials", type=int, metavar="N", help="settings tried in all")
    sub.add_argument("--storage", metavar="URL", help="default: a file in --out")
    sub.add_argument("--study", metavar="NAME", help="default: the file's name")
    sub.add_argument("--seed", type=int, metavar="S", help="of what is drawn")
    sub.add_argument("--batch", type=int, metavar="K", help="settings at once")
    sub.add_argument(
        "--grace",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="silence after which a worker's trials are run by others (60)",
    )


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
    from jaxtl.core.errors import UserError

    try:
        place = COMMANDS.get(args.command, f"{args.command}:{args.command}")
        module, _, function = place.partition(":")
        module = importlib.import_module(f"jaxtl.cli.{module}")
        return getattr(module, function)(args) or 0
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


if __name__ == "__main__":
    sys.exit(main())
