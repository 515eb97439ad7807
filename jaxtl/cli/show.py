"""The command `jaxtl show`."""

from jaxtl.core import console as console_lib
from jaxtl.training import experiment, experiment_file, run_dir, setup
from jaxtl.training import show as train_show
from jaxtl.training.variants import reopen


def show(args) -> int:
    """`jaxtl show FILE_OR_RUN [a.b=c …]`."""

    if args.target.is_dir() and (args.target / run_dir.STUDY).exists():
        variants = reopen(args.target).variants
    elif args.target.is_dir():
        variants = {"": run_dir.read_experiment(args.target)}
    else:
        variants = experiment_file.read_file(args.target, *args.overrides).variants
    console = console_lib.console()
    for name, exp in variants.items():
        if name:
            console.rule(name, align="left")
        console.print(train_show.describe(exp), markup=False, highlight=False)
        if isinstance(exp.init, experiment.Variant):
            console.print(
                f"(its parameters: those of {exp.init.name!r}, once that is trained)"
            )
        else:
            train_show.show(setup.setup(exp))
    return 0
