"""Commands `jaxtl wise` and `jaxtl soup`."""

import pathlib

from jaxtl.analysis import weight_space
from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError
from jaxtl.results import format_number
from jaxtl.training import setup


def wise(args) -> int:
    """`jaxtl wise RUN [--alphas A…] [--refresh] [--out PNG] [--save DIR]`."""
    _free(args.save)
    # Set up from its own source, which `store.reopen` would leave aside.
    run = setup.resume(args.dir)
    if run.at == 0:
        raise UserError(f"{args.dir} holds no checkpoint yet: train it first.")
    alphas = args.alphas or weight_space.ALPHAS
    curve = weight_space.wise_ft(run, alphas, refresh=args.refresh)
    _print_curve(args.dir, curve)
    if args.out:
        curve.plot(args.out, title=f"{args.dir}: from θ₀ (α = 0) to fine-tuned (α = 1)")
        print(f"plot: {args.out}")
    _save(args.save, run, curve)
    return 0


def _print_curve(directory: pathlib.Path, curve) -> None:
    console = console_lib.console()
    names = list(curve.metrics[0])
    rows = [
        (
            f"{alpha:g}",
            f"{alpha * curve.distance:.4g}",
            *(format_number.number(name, found[name], None) for name in names),
            "chosen" if alpha == curve.best else "",
        )
        for alpha, found in zip(curve.alphas, curve.metrics)
    ]
    title = f"{directory}: (1 − α)·θ₀ + α·θ on {curve.split}, by {curve.monitor}"
    columns = ("α", "‖θ − θ₀‖", *names, "")
    console.print(console_lib.table(title, columns, rows))
    if curve.fresh:
        stages = ", ".join(curve.fresh)
        print(f"without a source, so fine-tuned at every α: {stages}")
    _print_test(f"α = {curve.best:g}", curve)


def soup(args) -> int:
    """`jaxtl soup RUN… [--greedy] [--save DIR]`."""
    _free(args.save)
    runs = [setup.reopen(directory) for directory in args.dirs]
    # A reopened run does not say where it came from.
    labels = [str(directory) for directory in args.dirs]
    made = weight_space.soup(runs, greedy=args.greedy, names=labels)
    rows = [
        (
            label,
            format_number.number(made.monitor, found[made.monitor], None),
            "taken" if index in made.members else "",
        )
        for index, (label, found) in enumerate(zip(labels, made.single))
    ]
    kind = "greedy" if args.greedy else "uniform"
    mean = format_number.number(made.monitor, made.val[made.monitor], None)
    rows.append((f"{kind} soup of {len(made.members)}", mean, ""))
    title = f"on val of {labels[0]}"
    console_lib.console().print(console_lib.table(title, ("", made.monitor, ""), rows))
    _print_test("the soup", made)
    _save(args.save, runs[0], made)
    return 0


def _print_test(what: str, found) -> None:
    if found.test is not None:
        value = format_number.number(found.monitor, found.test[found.monitor], None)
        print(f"test {found.monitor} of {what}: {value}")


def _free(path: pathlib.Path | None) -> None:
    """Raises UserError before any work where the weights could not be saved."""
    if path is not None and path.exists():
        raise UserError(
            f"--save {path}: it exists already and is not overwritten; choose another."
        )


def _save(path: pathlib.Path | None, run, found) -> None:
    if path is not None:
        weight_space.save(path, run, found.params, found.stats)
        print(
            f"weights: {path}; read them with "
            f"init=tl.pretrained.FromCheckpoint({str(path)!r})"
        )
