"""Arguments that several commands share, and checks of them."""

import argparse
import pathlib
import time


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds the overrides of an experiment file's fields."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="a.b=c",
        help="settings of the experiment by their paths, such as optim.lr=3e-4",
    )


def add_membership(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which process of which job this one is."""
    group = parser.add_argument_group(
        "one training run by several processes",
        "taken from the environment (Kubernetes, SLURM's srun) where not given; "
        "docs/scaling.md has job scripts",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    group.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="their number; 1 trains alone, whatever the environment says",
    )
    group.add_argument("--process", type=int, metavar="I", help="this one, from 0")
    group.add_argument(
        "--wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="until all processes must have met (300)",
    )


def add_vectorization(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how the cells of a sweep run beside each other."""
    parser.add_argument("--mode", default="auto", help="auto, vmap, map or alone")
    parser.add_argument("--lanes", type=int, metavar="N", help="side by side at most")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds the options that a search and its workers share."""
    parser.add_argument("--trials", type=int, metavar="N", help="settings tried in all")
    parser.add_argument("--storage", metavar="URL", help="default: a file in --out")
    parser.add_argument("--study", metavar="NAME", help="default: the file's name")
    parser.add_argument("--seed", type=int, metavar="S", help="of what is drawn")
    parser.add_argument("--batch", type=int, metavar="K", help="settings at once")
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="silence after which a worker's trials are run by others (60)",
    )


def default_folder(name: str) -> pathlib.Path:
    """Folder of a run that gives no --out, which is new: `runs/<name>/<time>`.

    The time is in milliseconds, since a script may start several runs in a second.
    """
    while True:
        seconds, milliseconds = divmod(time.time_ns() // 10**6, 1000)
        clock = time.strftime("%Y%m%d-%H%M%S", time.localtime(seconds))
        folder = pathlib.Path("runs") / name / f"{clock}-{milliseconds:03}"
        if not folder.exists():
            return folder
