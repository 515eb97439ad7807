"""Commands `jaxtl export` and `jaxtl predict`."""

from jaxtl.core import console
from jaxtl.export import predict, write_bundle


def export_(args) -> int:
    """`jaxtl export RUN OUT [--licence L] [--overwrite]`."""

    path = write_bundle.export(
        args.dir, args.out, licence=args.licence, overwrite=args.overwrite
    )
    print(f"written to {path}; try: jaxtl predict {path} FILE…")
    return 0


def predict_(args) -> int:
    """`jaxtl predict OUT FILES…`."""

    rows = predict.predict(args.folder, args.files)
    columns = list(rows[0]) if rows else []
    body = [
        [f"{v:.4f}" if isinstance(v, float) else v for v in row.values()]
        for row in rows
    ]
    console.console().print(console.table("", columns, body, left=2))
    return 0
