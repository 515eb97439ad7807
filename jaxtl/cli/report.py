"""Commands `jaxtl report` and `jaxtl watch`."""

from jaxtl.results import build_summary as summarising
from jaxtl.results import records, tables, watch
from jaxtl.results.report import show, write


def report_(args) -> int:
    """`jaxtl report DIR… [--metric M] [--compare AXIS…] [--out FOLDER] …`."""
    collection = records.read(args.dirs)
    summary = summarising.summarise(
        collection,
        metric=args.metric,
        compare=args.compare,
        baseline=args.baseline,
        scratch=args.scratch,
        split=args.split,
        interval=args.interval,
        test=args.paired,
    )
    sheets = tables.sheets(summary)
    show(summary, sheets)
    out = args.out or args.dirs[0] / "report"
    written = write(collection, summary, sheets, out)
    print(f"written to {out}: {', '.join(path.name for path in written)}")
    return 0


def watch_(args) -> int:
    """`jaxtl watch DIR [--once] [--interval SECONDS]`."""
    watch.watch(args.dir, once=args.once, interval=args.interval)
    return 0
