"""`jaxtl lr FILE [a.b=c …] [--variant V] [--out PNG]`: where to begin with the rate."""

from jaxtl.analysis import lr_finder
from jaxtl.core.errors import UserError, nearest
from jaxtl.training import experiment_file


def lr(args) -> int:
    """Prints the suggested rates and draws the curve they come from."""
    file = experiment_file.read_file(args.file, *args.overrides)
    name = _variant(file, args.variant)
    curve = lr_finder.find_lr(
        file.variants[name], low=args.low, high=args.high, steps=args.steps
    )
    title = f"learning rates of {args.file.stem} {name}".strip()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    curve.plot(args.out, title=title)
    end = "the loss exploded" if curve.diverged else "the last rate"
    print(
        f"{title}: {len(curve.rates)} rates from {curve.rates[0]:.1e} to "
        f"{curve.rates[-1]:.1e} ({end})"
    )
    print(f"plot: {args.out}")
    if curve.suggestion is None:
        raise UserError(
            f"the loss never fell between --low {args.low:g} and --high {args.high:g}, "
            "so there is no rate to suggest; try a wider span, or more --steps."
        )
    print(f"steepest fall at {curve.steepest:.1e}, lowest loss / 10 {curve.tenth:.1e}")
    print(f"to begin with: optim.lr={curve.suggestion:.1e}")
    return 0


def _variant(file: experiment_file.File, name: str | None) -> str:
    """Returns the variant's name that was asked for, or the only one's."""
    known = ", ".join(file.variants)
    if name is None and len(file.variants) == 1:
        return next(iter(file.variants))
    if name is None:
        raise UserError(
            f"{file.path} holds several experiments; choose one with --variant "
            f"(known: {known})."
        )
    if name not in file.variants:
        raise UserError(
            f"--variant {name!r}: {file.path} holds none of that name"
            f"{nearest(name, file.variants)} (known: {known or 'a single one'})."
        )
    return name
