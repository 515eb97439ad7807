"""The command line: the list of commands, their dispatch, and the exit code.

Each command is the module of its name in this package. It holds

* `HELP`, one line that `jaxtl --help` lists,
* `add_arguments(parser)`, which declares the command's arguments,
* `main(args)`, which runs the command and returns the exit code.

A new command is such a module and its name in `COMMANDS`. The modules import jax, and
whatever imports jax, inside their functions, so that `--help` stays quick.
"""

import argparse
import importlib
import sys
import types
from collections.abc import Sequence

import jaxtl
from jaxtl.core.errors import UserError

# In the order of `jaxtl --help`.
COMMANDS = (
    "run",
    "lr",
    "resume",
    "eval",
    "importance",
    "labels",
    "show",
    "compare",
    "report",
    "watch",
    "sweep",
    "worker",
    "data",
    "export",
    "predict",
    "wise",
    "soup",
    "ensemble",
    "probe",
    "reproduce",
    "diagnose",
    "models",
    "inspect",
    "convert",
)

EPILOG = """examples:
  jaxtl run experiments/quickstart.py
  jaxtl run experiments/quickstart.py steps=100 SEEDS=0,1 --out runs/try
  jaxtl compare runs/try
  jaxtl export runs/mine out && jaxtl predict out picture.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: those after the program's name; None reads `sys.argv`.

    Returns:
      The exit code. 0: done. 1: bad input or a failed run, explained in one sentence.
      2: wrong usage. 130: stopped by Ctrl-C.
    """
    args = parse(sys.argv[1:] if arguments is None else arguments)
    if args.version:
        print(jaxtl.__version__)
        return 0
    if args.command is None:
        _parser().print_help()
        return 2
    try:
        return _module(args.command).main(args)
    except UserError as error:
        print(f"jaxtl {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'stopped.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has ended, as in `jaxtl show | head`
        sys.stderr.close()
        return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command line; exits with code 2 where argparse refuses it.

    Overrides ("a.b=c") may stand before or after the options.
    """
    parser = _parser()
    args, remaining = parser.parse_known_args(arguments)
    overridable = hasattr(args, "overrides")
    unknown = [x for x in remaining if x.startswith("-") or not overridable]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if remaining:
        args.overrides = [*args.overrides, *remaining]
    return args


def _parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="jaxtl",
        description="Transfer learning in JAX: run, compare and deploy experiments.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in COMMANDS:
        command = _module(name)
        # argparse expands % in `help`, but not in `description`.
        line = command.HELP.replace("%", "%%")
        subparser = subparsers.add_parser(name, help=line, description=command.HELP)
        command.add_arguments(subparser)
    return parser


def _module(command: str) -> types.ModuleType:
    """Imports the module of a command."""
    return importlib.import_module(f"jaxtl.cli.{command}")


if __name__ == "__main__":
    sys.exit(main())
