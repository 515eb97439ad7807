"""The command line: the list of commands, their dispatch, and the exit code.

Each command is the module of its name in this package. It holds

* `HELP`, one line that `jaxtl --help` lists,
* `add_arguments(parser)`, which declares the command's arguments,
* `main(args)`, which runs the command and returns the exit code.

A new command is such a module and its name in `COMMANDS`. The modules import jax, and
whatever imports jax, inside their functions, so that `--help` stays quick.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Iterator, Sequence
from typing import Any

import jaxtl
from jaxtl.core import allocator, output_paths, progress, resource_errors, trust
from jaxtl.core.errors import Stopped, UserError, describe_error

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
RESEND_SECONDS = 0.01  # until a signal is sent again that Python dropped

# Purpose -> commands, in the order of `jaxtl --help`.
GROUPS = {
    "train": ("new", "run", "launch", "resume", "sweep", "worker", "lr", "reproduce"),
    "look at data and results": (
        "data",
        "list",
        "show",
        "compare",
        "report",
        "watch",
        "eval",
    ),
    "analyze a run": (
        "probe",
        "fewshot",
        "diagnose",
        "labels",
        "importance",
        "models",
        "inspect",
    ),
    "combine and deploy": (
        "wise",
        "soup",
        "ensemble",
        "export",
        "predict",
        "convert",
        "push",
    ),
    "set up": ("completion",),
}
# Commands that compute nothing on a device, so that they take no --device.
_WITHOUT_DEVICE = (
    *("new", "data", "list", "compare", "watch", "models", "launch"),
    "completion",
)
COMMANDS = tuple(name for names in GROUPS.values() for name in names)

EPILOG = """examples:
  jaxtl new photos
  jaxtl run photos.py --out runs/photos
  jaxtl predict runs/photos new_photos --out predictions.csv
  jaxtl run experiments/quickstart.py steps=100 SEEDS=0,1 --out runs/try
  jaxtl compare runs/try
  jaxtl export runs/mine out && jaxtl predict out picture.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; no exception leaves it.

    Args:
      arguments: those after the program's name; None reads `sys.argv`.

    Returns:
      The exit code. 0: done. 1: bad input or a failed run, explained in one sentence.
      2: wrong usage. 70: a fault of the program, whose traceback is in a file that is
      named. 75: another process of the job has ended. 128 + n: stopped by signal n
      (130: Ctrl-C, 143: SIGTERM).
    """
    code = _run(arguments)
    if code and "jaxtl.core.process_group" in sys.modules:
        from jaxtl.core import process_group

        process_group.leave(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    command = ""
    try:
        with _stop_by_signals(), contextlib.ExitStack() as stack:
            args = parse(sys.argv[1:] if arguments is None else arguments)
            if args.version:
                print(jaxtl.__version__)
                return 0
            if args.command is None:
                _parser().print_help()
                return 2
            command = args.command
            if args.trust:
                stack.enter_context(trust.allow())
            if command not in _WITHOUT_DEVICE:
                allocator.keep_freed_memory()
            stack.enter_context(_membership(args))
            if getattr(args, "device", None) is not None:
                from jaxtl.core import devices  # imports jax

                devices.use_device(args.device)
                stack.callback(devices.use_device, None)
            stack.callback(progress.end)  # before an error is printed
            _check_outputs(args)
            return _module(command).main(args)
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'stopped.'}", file=sys.stderr)
        return 128 + getattr(interrupt, "signal_number", int(signal.SIGINT))
    except BrokenPipeError:  # the reader of a pipe has ended, as in `jaxtl show | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        code, sentence = _explain(error)
        print(f"jaxtl {command}: {_process()}{sentence}", file=sys.stderr)
        return code


@contextlib.contextmanager
def _membership(args: argparse.Namespace) -> Iterator[None]:
    """Joins the job of several processes that the options or the environment tell of.

    All but process 0 are silent within the context.
    """
    if not hasattr(args, "coordinator"):
        yield
        return
    from jaxtl.core import membership

    place = (args.coordinator, args.processes, args.process)
    if (member := membership.resolve(os.environ, *place)) is None:
        yield
        return
    from jaxtl.core import process_group  # imports jax

    process_group.join(member, args.wait)
    if not member.index:
        print(member.describe(), flush=True)
        yield
        return
    with (
        open(os.devnull, "w") as silence,
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        yield


def _process() -> str:
    """The process of a job that this is, as the beginning of an error."""
    if "jaxtl.core.process_group" not in sys.modules:
        return ""
    from jaxtl.core import process_group

    name = process_group.name()
    return f"{name}: " if name else ""


def _check_outputs(args: argparse.Namespace) -> None:
    """Raises UserError for an argument that is a path which can't be written to.

    The message names the option; an argument by its place is plain from its value.
    """
    for name, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, output_paths.OutputPath):
                continue
            try:
                path.check()
            except UserError as error:
                option = args.options.get(name)
                raise UserError(
                    f"{option}: {error}" if option else str(error)
                ) from None


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code of an exception, and the sentence that is printed."""
    if isinstance(error, UserError):
        return 1, str(error)
    if (lost := _lost(error)) is not None:
        return lost
    if resource_errors.is_out_of_memory(error):
        return 1, resource_errors.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return 1, f"{where}{error.strerror[0].lower()}{error.strerror[1:]}."
    name = f"jaxtl-{time.strftime('%Y%m%d-%H%M%S')}-"
    with tempfile.NamedTemporaryFile(
        "w", prefix=name, suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"jaxtl {jaxtl.__version__}, arguments: {sys.argv[1:]}\n")
        file.writelines(traceback.format_exception(error))
    return INTERNAL_ERROR, (
        f"a fault of the program, not of your input ({describe_error(error)}). What "
        f"was written before is kept; the traceback is in {file.name}."
    )


def _lost(error: Exception) -> tuple[int, str] | None:
    """`_explain` of an error that another process of the job caused by its end."""
    if "jaxtl.core.process_group" not in sys.modules:
        return None
    from jaxtl.core import process_group

    if not process_group.is_lost(error):
        return None
    return process_group.LOST, (
        "another process of the job has ended; start all again with `jaxtl resume`, "
        "which goes on from the last checkpoint."
    )


@contextlib.contextmanager
def _stop_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end a command as Ctrl-C does, with their exit codes.

    Python drops an exception that a signal raises inside a callback of the garbage
    collector, say; such a signal is sent again a moment later.
    """

    def stop(number: int, _frame: object) -> None:
        raise Stopped("stopped.", number)

    def dropped(unraisable: Any) -> None:
        if ended or not isinstance(unraisable.exc_value, KeyboardInterrupt):
            hook(unraisable)
            return
        number = getattr(unraisable.exc_value, "signal_number", int(signal.SIGINT))
        again = threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in signals:
        signal.signal(number, stop)
    hook, sys.unraisablehook, ended = sys.unraisablehook, dropped, False
    try:
        yield
    finally:
        ended = True
        if sys.unraisablehook is dropped:  # a library may have put its own around it
            sys.unraisablehook = hook
        for number in signals:
            signal.signal(number, signal.SIG_DFL)


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


def completion_parser(files: Any) -> argparse.ArgumentParser:
    """The parser that a shell's script is written from.

    Args:
      files: shtab's mark of arguments that files complete.
    """
    return _parser(files)


def _parser(files: Any = None) -> argparse.ArgumentParser:
    """Builds the parser of all commands.

    Args:
      files: as of `completion_parser`; None builds the parser of command lines.
    """
    parser = argparse.ArgumentParser(
        prog="jaxtl",
        usage="jaxtl [-h] [--version] COMMAND ...",
        description=_overview(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(
        dest="command",
        metavar="COMMAND",
        # The overview lists the commands; shtab passes over what has no help.
        help=argparse.SUPPRESS if files is None else None,
        parser_class=_CommandParser,
    )
    for name in COMMANDS:
        command = _module(name)
        subparser = subparsers.add_parser(
            name,
            prog=f"jaxtl {name}",
            help=command.HELP,
            description=command.HELP,
            formatter_class=_WithDefaults,
        )
        command.add_arguments(subparser)
        if name not in _WITHOUT_DEVICE:
            subparser.add_argument(
                "--device",
                metavar="NAME",
                help="cpu, gpu, tpu, or one of several as cuda:1 (default: jax's own, "
                "an accelerator where there is one)",
            )
        subparser.add_argument(
            "--trust",
            action="store_true",
            help="run the code of directories that others made",
        )
        if files is not None:
            subparser.complete_paths(files)
    return parser


class _CommandParser(argparse.ArgumentParser):
    """Parses the arguments of a command; its namespace has `options`.

    Attributes:
      options: attribute of the namespace -> the option that sets it, such as "--out".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options: dict[str, str] = {}
        super().__init__(*args, **kwargs)
        self.set_defaults(options=self.options)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Adds an argument, and the name of an option to `options`."""
        action = super().add_argument(*args, **kwargs)
        if action.option_strings:
            self.options[action.dest] = action.option_strings[0]
        return action

    def complete_paths(self, files: Any) -> None:
        """Marks arguments by their place, and options that are paths."""
        kinds = (pathlib.Path, output_paths.OutputPath)
        for action in self._actions:
            is_path = isinstance(action.type, type) and issubclass(action.type, kinds)
            if action.choices is None and (is_path or not action.option_strings):
                action.complete = files


def _overview() -> str:
    """The commands by purpose, a line each."""
    lines = ["Transfer learning in JAX: run, compare and deploy experiments."]
    for purpose, names in GROUPS.items():
        lines += ["", f"{purpose}:"]
        lines += [f"  {name:12}{_module(name).HELP}" for name in names]
    return "\n".join([*lines, "", "jaxtl COMMAND --help describes a command."])


class _WithDefaults(argparse.HelpFormatter):
    """Adds the default to the description of an option."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        plain = action.default in (None, False, argparse.SUPPRESS) or not (
            action.option_strings and action.default != []
        )
        if plain or "default" in text or str(action.default) in text:
            return text
        return f"{text} (default: %(default)s)"


def _module(command: str) -> types.ModuleType:
    """Imports the module of a command."""
    return importlib.import_module(f"jaxtl.cli.{command}")


if __name__ == "__main__":
    sys.exit(main())
