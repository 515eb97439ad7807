"""`jaxtl wise`: interpolates between θ₀ and the fine-tuned weights (WiSE-FT)."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from jaxtl.cli import formatting, merged_weights
from jaxtl.core import console
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from jaxtl.analysis.weight_space import WiseFTCurve

HELP = "a run's weights mixed with θ₀, α chosen on val (WiSE-FT)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl wise`."""
    parser.add_argument("dir", type=pathlib.Path, help="a run's directory")
    parser.add_argument("--alphas", type=float, nargs="+", help="default 0 0.1 … 1")
    parser.add_argument(
        "--refresh", action="store_true", help="BatchNorm on train rows"
    )
    parser.add_argument("--out", type=pathlib.Path, help="also draw it to this PNG")
    parser.add_argument("--save", type=pathlib.Path, help="write the chosen weights")


def main(args: argparse.Namespace) -> int:
    """Prints the metrics at every α, then tests, plots and writes the chosen one."""
    from jaxtl.analysis import weight_space
    from jaxtl.training import setup

    merged_weights.check_save_path(args.save)
    # `setup.reopen` would not load the run's source, which is θ₀.
    run = setup.resume(args.dir)
    if run.steps_done == 0:
        raise UserError(f"{args.dir} holds no checkpoint yet: train it first.")
    alphas = args.alphas or weight_space.ALPHAS
    curve = weight_space.wise_ft(run, alphas, refresh=args.refresh)
    _print_curve(args.dir, curve)
    if args.out:
        curve.plot(args.out, title=f"{args.dir}: from θ₀ (α = 0) to fine-tuned (α = 1)")
        print(f"plot: {args.out}")
    merged_weights.save(args.save, run, curve)
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
