"""The command `jaxtl data`."""

from jaxtl.core import console as console_lib
from jaxtl.core.console import listing, table
from jaxtl.data import streams
from jaxtl.data.dataset import prepare
from jaxtl.data.sources import catalog
from jaxtl.training import experiment_file, inputs


def data(args) -> int:
    """`jaxtl data [FILE [a.b=c …]] [--out PNG]`."""

    console = console_lib.console()
    if args.file is None:
        console.print(sources_table(catalog.available()))
        return 0

    variants = experiment_file.read_file(args.file, *args.overrides).variants
    seen = {}
    for name, exp in variants.items():
        for stream, source in inputs.sources(exp).items():
            seen.setdefault(
                repr(source), (f"{name} {stream}".strip(), source, exp.seed)
            )
    for i, (name, source, seed) in enumerate(seen.values()):
        dataset = prepare(source, seed)
        console.print(dataset_table(name, dataset))
        sheet = contact_sheet(dataset, args.per_class)
        if sheet is not None:
            suffix = f"-{i}" if len(seen) > 1 else ""
            path = args.out.with_name(f"{args.out.stem}{suffix}{args.out.suffix}")
            from jaxtl.results.plots import base

            base.contact_sheet(*sheet, path, title=f"{name}: {dataset.name}")
            console.print(f"contact sheet: {path}")
    return 0


def sources_table(rows: list[dict]):
    """Returns the table of data sets and sources that `jaxtl data` prints."""
    columns = ("source", "needs", "what it is")
    body = [(r["name"], ", ".join(r["needed"]), r["summary"]) for r in rows]
    return listing("tl.data", columns, body)


def dataset_table(name: str, found):
    """Returns the table of a data set's splits and classes."""
    splits = {
        k: found.rows[k]
        for k in ("train", "unlabelled", "val", "test")
        if k in found.rows
    }
    shape, kind = found.example_shape, found.dtype
    if isinstance(shape, dict):
        kind = ", ".join(f"{k} {shape[k]} {kind[k]}" for k in shape)
    else:
        kind = f"{shape} {kind}"
    title = f"{name}: {found.name}, {found.task}, an example is {kind}"
    if found.task != "classification":
        body = [(k, f"{len(rows):,}") for k, rows in splits.items()]
        return table(title, ("split", "examples"), body)
    columns = ("split", "examples", *(str(c) for c in found.class_names[:20]))
    body = []
    for split, rows in splits.items():
        counts = [int((found.y_clean[rows] == k).sum()) for k in range(found.outputs)]
        body.append((split, f"{len(rows):,}", *counts[:20]))
    return table(title, columns, body)


def contact_sheet(found, per_class: int):
    """Returns (images, labels) for a contact sheet, or None where x is no image."""
    if isinstance(found.x, dict) or len(found.example_shape) != 3:
        return None
    picked = streams.sample(found, "train", per_class)
    labels = (
        [str(found.class_names[k]) for k in picked["y"]]
        if found.class_names
        else [f"{y:.3g}" for y in picked["y"]]
    )
    return picked["x"], labels
