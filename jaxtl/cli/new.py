"""`jaxtl new`: writes a commented experiment file for a task, data and a model."""

import argparse
import pathlib
import re
import sys

from jaxtl.core import atomic, console, output_paths
from jaxtl.core.errors import UserError

HELP = "write an experiment file for your data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl new`."""
    parser.add_argument(
        "data",
        nargs="?",
        help="a folder of images, a table, texts; asked for on a terminal",
    )
    parser.add_argument(
        "--data", dest="named_data", metavar="PATH", help="the same as an option"
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="such as image-classification, tabular-regression, text-classification "
        "(default: what the data look like)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="pretrained weights (hf:owner/name, a folder, a file, a run), a name of "
        "`jaxtl models`, or scratch (default: scratch)",
    )
    parser.add_argument(
        "--target", metavar="COLUMN", help="of the labels (default: guessed)"
    )
    parser.add_argument(
        "--text", metavar="COLUMN", help="of the texts (default: guessed)"
    )
    parser.add_argument("--image", metavar="COLUMN", help="of the images of a list")
    parser.add_argument(
        "--out",
        type=output_paths.OutputFile,
        metavar="FILE",
        help="the experiment file (default: the data's name and .py)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file if there is one"
    )


def main(args: argparse.Namespace) -> int:
    """Writes the file, checks that it loads, and says what to run next."""
    from jaxtl.cli import new_data, new_file, new_model
    from jaxtl.training import experiment_file

    named = _data(args)
    asks = sys.stdin.isatty() and named is None
    path = named or (asks and _ask("data: a folder of images, a table or texts"))
    if not path:
        raise UserError(
            "the data are missing: name a folder of images, a table or texts, such as "
            "jaxtl new photos."
        )
    task = args.task or new_data.guess_task(path, args.text, args.image)
    if asks and not args.task:
        task = _ask("task", task)
    data = new_data.describe(path, task, args.target, args.text, args.image)
    weights = args.model or (asks and _ask("model or pretrained weights", "scratch"))
    model = new_model.choose(weights or "scratch", data)
    out = args.out or pathlib.Path(f"{_identifier(path)}.py")
    if asks and not args.out:
        out = output_paths.OutputFile(_ask("experiment file", str(out)))
        out.check()
    if out.suffix != ".py":
        raise UserError(f"{out} is no experiment file: its name must end in .py.")
    if out.exists() and not args.overwrite:
        raise UserError(f"{out} exists already; --overwrite replaces it.")
    before = out.read_bytes() if out.exists() else None
    atomic.write_text(out, new_file.source(data, model, out))
    try:
        experiment_file.read_file(out)
    except UserError:
        if before is None:
            out.unlink()
        else:
            atomic.write_bytes(out, before)
        raise
    for line in (*data.notes, *model.notes):
        print(line)
    console.print_written(out, hint=f"next: jaxtl run {out} --out runs/{out.stem}")
    return 0


def _data(args: argparse.Namespace) -> str | None:
    """The path of the data, by its place or as an option.

    Raises:
      UserError: both are there, and differ.
    """
    if None not in (args.data, args.named_data) and args.data != args.named_data:
        raise UserError(
            f"{args.data} and --data {args.named_data} are two data; expected one."
        )
    return args.data if args.named_data is None else args.named_data


def _ask(question: str, default: str = "") -> str:
    """An answer from the terminal; an empty one is the default.

    Raises:
      UserError: the input ended (Ctrl-D).
    """
    shown = f" [{default}]" if default else ""
    try:
        return input(f"{question}{shown}: ").strip() or default
    except EOFError:
        raise UserError(f"no answer to {question!r}; nothing was written.") from None


def _identifier(path: str) -> str:
    """The data's name as that of a file."""
    name = pathlib.Path(path).name.partition(".")[0]
    return re.sub(r"\W+", "_", name).strip("_").lower() or "experiment"
