"""`jaxtl convert`: writes weights as another kind of file, or a run in its layout."""

import argparse

from jaxtl.cli import run_argument
from jaxtl.core import console, output_paths, progress
from jaxtl.core.errors import UserError

HELP = "weights to another kind of file, or a run to its layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl convert`."""
    run_argument.add_run(
        parser, "source", text="a run's directory (see --all), or a file of weights"
    )
    parser.add_argument(
        "target",
        type=output_paths.OutputBySuffix,
        help="a .safetensors or .npz file, or a directory for Hugging Face",
    )
    parser.add_argument("--layout", help="of a run's family; default: its usual one")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="only what a run's peft= trained, as Hugging Face PEFT reads it",
    )


def main(args: argparse.Namespace) -> int:
    """Converts a file of weights, or writes the best model or adapter of a run."""
    from jaxtl.pretrained import describe
    from jaxtl.training import run_paths

    if args.all or run_paths.holds_runs(args.source):
        return run_argument.for_each_run(args, _convert_run, "source", ("target",))
    for option in ("layout", "adapter"):
        if getattr(args, option):
            raise UserError(f"--{option} is for runs, and {args.source} is none.")
    with progress.Task("converting"):
        content = describe.convert_file(str(args.source), str(args.target))
    print(f"{len(content.tensors)} tensors of {args.source}")
    console.print_written(content.file)
    return 0


def _convert_run(args: argparse.Namespace) -> int:
    """Writes the best model or the adapter of one run."""
    from jaxtl.export import base_note, weights

    if args.adapter:
        path = weights.write_adapter(args.source, args.target)
        print(f"the adapter of {args.source}")
    else:
        path = weights.write_weights(args.source, args.target, args.layout)
        print(f"the best model of {args.source}")
    if note := base_note.float_note(args.source):
        print(note)
    console.print_written(path)
    return 0
