"""`jaxtl completion`: prints the script by which a shell completes command lines."""

import argparse

from jaxtl.core.errors import UserError

HELP = "print a shell's script that completes commands, options and files"
SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl completion`."""
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help='in bash, eval "$(jaxtl completion bash)" completes from then on',
    )


def main(args: argparse.Namespace) -> int:
    """Prints the script.

    Raises:
      UserError: shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UserError(
            "the script is written by shtab (pip install 'jaxtl[completion]')."
        ) from None
    from jaxtl.cli import main as command_line

    print(shtab.complete(command_line.completion_parser(shtab.FILE), shell=args.shell))
    return 0
