"""The command `jaxtl diagnose`."""

import math

from jaxtl.analysis import domain_shift
from jaxtl.core import console as console_lib
from jaxtl.training import run_dir


def diagnose(args) -> int:
    """`jaxtl diagnose RUN [--source S] [--target S] [--stage S] [--examples N] …`."""

    found = domain_shift.diagnose(
        args.dir,
        source=args.source,
        other=args.target,
        stage=args.stage,
        examples=args.examples,
        permutations=args.permutations,
        seed=args.seed,
    )
    console = console_lib.console()
    for made in tables(found):
        console.print(made, markup=False)
    folder = args.out or args.dir / domain_shift.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    run_dir.write_json(folder / "diagnosis.json", found.to_json())
    pictures = found.plot(folder, seed=args.seed)
    console.print(f"written to {folder / 'diagnosis.json'}", soft_wrap=True)
    for path in pictures:
        console.print(f"plot: {path}", soft_wrap=True)
    return 0


def tables(found: domain_shift.Diagnosis) -> list:
    """Returns the table of distances, and that of classes where there are any."""
    sides = (found.before, found.after)
    rows = [
        ("proxy A-distance (0: alike, 2: apart)", *_each(sides, _distance)),
        ("error of telling domains apart %", *_each(sides, _error)),
        ("MMD², Gaussian kernel", *_each(sides, _mmd)),
        ("its p-value", *_each(sides, _p_value)),
    ]
    title = (
        f"{found.source} ({len(found.before.source):,} examples) and {found.target} "
        f"({len(found.before.target):,}), features of {found.stage}"
    )
    made = [console_lib.table(title, ("", "before", "after"), rows)]
    if found.class_names:
        made.append(_classes(found))
    return made


def _each(sides, cell) -> list[str]:
    return [cell(side) for side in sides]


def _distance(side) -> str:
    return f"{side.distance.distance:.3f}"


def _error(side) -> str:
    return f"{100 * side.distance.error:.1f}"


def _mmd(side) -> str:
    return f"{side.discrepancy.mmd:.4g}"


def _p_value(side) -> str:
    return side.discrepancy.p_text.removeprefix("= ")


def _classes(found: domain_shift.Diagnosis):
    rows = [
        (
            after.name,
            f"{after.source:,}",
            f"{after.target:,}",
            *(_number(x) for x in (before.shift, after.shift, after.chance)),
        )
        for before, after in found.rising()
    ]
    columns = ("class", found.source, found.target, "before", "after", "chance")
    title = (
        "shift per class, in deviations within classes (reads the target's labels: for "
        "analysis, not to choose by)"
    )
    return console_lib.table(title, columns, rows)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
