"""Commands `jaxtl models`, `jaxtl inspect` and `jaxtl convert`."""

from jaxtl.core import console as console_lib
from jaxtl.export import weights
from jaxtl.training import run_dir, setup, show


def models(args) -> int:
    """`jaxtl models`."""
    from jaxtl.pretrained import describe as inspecting

    rows = [
        (s.name, f"{s.parameters:,}", ", ".join(s.layouts), s.model)
        for s in inspecting.sizes()
    ]
    columns = ("family and size", "parameters", "layouts", "in an experiment")
    console_lib.console().print(
        console_lib.listing("tl.models", columns, rows), markup=False
    )
    return 0


def inspect(args) -> int:
    """`jaxtl inspect FILE_OR_DIR`."""
    from jaxtl.pretrained import describe as inspecting

    console = console_lib.console()
    if (args.path / run_dir.MARK).exists():
        made = setup.reopen(args.path)
        show.show(made)
        return 0
    found = inspecting.inspect(str(args.path))
    rows = [
        (x.name, "×".join(map(str, x.shape)) or "scalar", x.dtype, x.path or "–")
        for x in found.lines
    ]
    columns = ("tensor", "shape", "dtype", "becomes")
    console.print(console_lib.listing(str(found.file), columns, rows), markup=False)
    total = sum(x.nbytes for x in found.lines)
    console.print(f"{len(found.lines)} tensors, {total:,} bytes", markup=False)
    unused = sum(not x.path for x in found.lines)
    if found.model:
        console.print(f"would load into {found.model} (layout {found.layout!r})")
        if unused:
            console.print(f"{unused} tensors have no place in it")
    else:
        console.print("of no family that is known by its tensors' names")
    for key, value in found.meta.items():
        console.print(f"{key}: {value}", markup=False)
    return 0


def convert(args) -> int:
    """`jaxtl convert SRC DST`: a file to another kind, or a run to its own layout."""
    from jaxtl.pretrained import describe as inspecting

    if not (args.source / run_dir.MARK).exists():
        made = inspecting.convert_file(str(args.source), str(args.target))
        print(f"{len(made.lines)} tensors written to {made.file}")
        return 0
    if args.adapter:
        path = weights.write_adapter(args.source, args.target)
        print(f"the adapter of {args.source} written to {path}")
        return 0
    path = weights.write_back(args.source, args.target, args.layout)
    print(f"the best model of {args.source} written to {path}")
    return 0
