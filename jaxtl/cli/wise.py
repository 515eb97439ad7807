"""`jaxtl wise`: interpolates between θ₀ and the fine-tuned weights (WiSE-FT)."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from jaxtl.cli import formatting, merged_weights, run_argument
from jaxtl.core import console, output_paths
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from jaxtl.analysis.weight_space import WiseFTCurve

HELP = "a run's weights mixed with θ₀, α chosen on val (WiSE-FT)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl wise`."""
    run_argument.add_run(parser)
    parser.add_argument("--alphas", type=float, nargs="+", help="default 0 0.1 … 1")
    parser.add_argument(
        "--refresh", action="store_true", help="BatchNorm on train rows"
    )
    parser.add_argument(
        "--out",
        "--save",
        type=output_paths.OutputBySuffix,
        action="append",
        default=[],
        metavar="PATH",
        help="write the chosen weights to a directory; draw the curve to a .png",
    )
    parser.add_argument(
        "--plot", type=output_paths.OutputPicture, metavar="PNG", help="also draw it"
    )


def main(args: argparse.Namespace) -> int:
    """Prints the metrics at every α, then tests, plots and writes the chosen one."""
    pictures = [path for path in args.out if path.suffix in output_paths.PICTURES]
    folders = [path for path in args.out if path.suffix not in output_paths.PICTURES]
    if len(pictures) > 1 or len(folders) > 1 or (pictures and args.plot):
        raise UserError(
            "--out: expected one directory of weights and one .png at most."
        )
    args.out = folders[0] if folders else None
    args.plot = pictures[0] if pictures else args.plot
    return run_argument.for_each_run(args, _wise, outputs=("out", "plot"))


def _wise(args: argparse.Namespace) -> int:
    """Chooses α for one run."""
    from jaxtl.analysis import weight_space
    from jaxtl.training import setup
    from jaxtl.training.stored_network import check_trained

    merged_weights.check_save_path(args.out)
    check_trained(args.dir)
    # `setup.reopen` would not load the run's source, which is θ₀.
    run = setup.resume(args.dir)
    alphas = args.alphas or weight_space.ALPHAS
    curve = weight_space.wise_ft(run, alphas, refresh=args.refresh)
    _print_curve(args.dir, curve)
    if args.plot:
        title = f"{args.dir}: from θ₀ (α = 0) to fine-tuned (α = 1)"
        curve.plot(args.plot, title=title)
        console.print_written(args.plot)
    merged_weights.save(args.out, run, curve)
    return 0


def _print_curve(directory: pathlib.Path, curve: "WiseFTCurve") -> None:
    """Prints a row per α, the stages that have no θ₀, and the test of the best α."""
    names = list(curve.metrics[0])
    rows = [
        (
            f"{alpha:g}",
            f"{alpha * curve.distance:.4g}",
            *(formatting.metric_cell(metrics, name) for name in names),
            "chosen" if alpha == curve.best else "",
        )
        for alpha, metrics in zip(curve.alphas, curve.metrics)
    ]
    title = f"{directory}: (1 − α)·θ₀ + α·θ on {curve.split}, by {curve.monitor}"
    columns = ("α", "‖θ − θ₀‖", *names, "")
    console.console().print(console.table(title, columns, rows))
    if curve.fresh:
        stages = ", ".join(curve.fresh)
        print(f"without a source, so fine-tuned at every α: {stages}")
    merged_weights.print_test_metric(f"α = {curve.best:g}", curve)
