"""`jaxtl push`: uploads a run's model to a repository of Hugging Face's hub."""

import argparse
import pathlib

from jaxtl.core import console, progress

HELP = "upload a run's model to Hugging Face's hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl push`."""
    parser.add_argument(
        "dir", type=pathlib.Path, help="directory of a run, or of a study of one"
    )
    parser.add_argument("repository", metavar="owner/name", help="made if missing")
    parser.add_argument(
        "--private", action="store_true", help="make a new repository private"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="default: the main one")
    parser.add_argument("--licence", help="for the model card, such as apache-2.0")


def main(args: argparse.Namespace) -> int:
    """Uploads the best model of a run."""
    from jaxtl.export import base_note, push
    from jaxtl.training import run_paths

    push.check_name(args.repository)
    run = run_paths.one_run(args.dir)
    with progress.Task("uploading the model"):
        address = push.push(
            run,
            args.repository,
            private=args.private,
            revision=args.revision,
            licence=args.licence,
        )
    if note := base_note.float_note(run):
        print(note)
    hint = f'tl.pretrained.FromHub("{args.repository}") reads it'
    console.console().print(
        f"written to {address}; {hint}", markup=False, soft_wrap=True
    )
    return 0
