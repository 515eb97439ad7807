"""`jaxtl launch`: one training run by several processes of this machine, supervised."""

import argparse
import pathlib
from collections.abc import Sequence

from jaxtl.cli import arguments
from jaxtl.core import output_paths
from jaxtl.core.errors import UserError

HELP = "train one run by several processes, and restart them where one is lost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl launch`."""
    parser.add_argument(
        "file", type=pathlib.Path, help="experiment file, or a run to go on with"
    )
    arguments.add_overrides(parser)
    parser.add_argument(
        "--nproc", type=int, required=True, metavar="N", help="number of processes"
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=3,
        metavar="R",
        help="times that all start again from the last checkpoint, at most (3)",
    )
    parser.add_argument("--port", type=int, help="of process 0 (default: a free one)")
    parser.add_argument(
        "--out", type=output_paths.OutputFolder, help="default runs/<file>/<time>"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what lies there"
    )
    parser.add_argument(
        "--variant", action="append", metavar="NAME", help="as of `jaxtl run`"
    )
    parser.add_argument(
        "--device",
        dest="processes_device",  # this program itself computes nothing
        metavar="NAME",
        help="of each process, as of `jaxtl run`",
    )


def main(args: argparse.Namespace) -> int:
    """Starts the processes, waits for them, and starts them again after a loss.

    Returns:
      The exit code of `jaxtl run`; 75 where a process was lost more than --restarts
      times.
    """
    from jaxtl.cli import supervisor

    supervisor.check(args.nproc, args.restarts, args.port)
    options = ["--trust"] if args.trust else []
    if args.processes_device is not None:
        options += ["--device", args.processes_device]
    if args.file.is_dir():
        return _go_on(args, options)
    folder = args.out or arguments.default_folder(args.file.stem)
    begin = ["run", str(args.file), *args.overrides, "--out", str(folder), *options]
    begin += [x for name in args.variant or () for x in ("--variant", name)]
    return supervisor.supervise(
        [*begin, "--overwrite"] if args.overwrite else begin,
        ["resume", str(folder), *options],
        folder,
        args.nproc,
        restarts=args.restarts,
        port=args.port,
    )


def _go_on(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Goes on with a run or a study that lies in a directory."""
    from jaxtl.cli import supervisor

    for option in ("out", "overwrite", "variant"):
        if getattr(args, option):
            raise UserError(
                f"{args.options[option]} is of a run that begins; {args.file} is a "
                "directory, with whose run `jaxtl launch` goes on."
            )
    command = ["resume", str(args.file), *args.overrides, *options]
    return supervisor.supervise(
        command,
        command,
        args.file,
        args.nproc,
        restarts=args.restarts,
        port=args.port,
    )
