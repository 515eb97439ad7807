"""`jaxtl convert`: writes weights as another kind of file, or a run in its layout."""

import argparse
import pathlib

HELP = "weights to another kind of file, or a run to its layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl convert`."""
    parser.add_argument(
        "source", type=pathlib.Path, help="a run's directory, or a file of weights"
    )
    parser.add_argument(
        "target",
        type=pathlib.Path,
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
    from jaxtl.export import weights
    from jaxtl.pretrained import describe
    from jaxtl.training import run_dir

    if not (args.source / run_dir.MARK).exists():
        content = describe.convert_file(str(args.source), str(args.target))
        print(f"{len(content.tensors)} tensors written to {content.file}")
        return 0
    if args.adapter:
        path = weights.write_adapter(args.source, args.target)
        print(f"the adapter of {args.source} written to {path}")
        return 0
    path = weights.write_weights(args.source, args.target, args.layout)
    print(f"the best model of {args.source} written to {path}")
    return 0
