"""`jaxtl models`: lists the families of models and their published sizes."""

import argparse

from jaxtl.core import console

HELP = "families, sizes, parameters, file layouts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`jaxtl models` takes no arguments."""


def main(args: argparse.Namespace) -> int:
    """Prints a row per published size of a family."""
    from jaxtl.pretrained import describe

    rows = [
        (size.name, f"{size.parameters:,}", ", ".join(size.layouts), size.model)
        for size in describe.model_sizes()
    ]
    columns = ("family and size", "parameters", "layouts", "in an experiment")
    console.console().print(console.listing("tl.models", columns, rows), markup=False)
    return 0
