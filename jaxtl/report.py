"""What a person reads: tables of runs, of parameters, of what was loaded."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping

from jaxtl import config, facts, metrics, optim, rundir
from jaxtl import tree as trees
from jaxtl.core import FROZEN, Schedule, UserError
from jaxtl.data import streams


def console(**settings):
    """Returns a rich console; as wide as needed where no terminal sets a width."""
    from rich.console import Console

    made = Console(highlight=False, **settings)
    if not made.is_terminal:
        made.width = 160
    return made


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable], *, left=1):
    """Returns a rich table; the first `left` columns are text, the rest numbers."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def show(run) -> None:
    """Prints a run's parameters: path, shape, group, learning rate, frozen or not."""
    program = run.program
    optimizer = run.parts.stretches[run.phase].optimizer
    labels = trees.flatten(_labels(run, optimizer))
    mask = trees.flatten(program.moving)
    flat = trees.flatten(run.params)
    order = {s: i for i, s in enumerate(run.network.stages)}
    rows = []
    for path in sorted(flat, key=lambda p: order[p.split("/")[0]]):
        shape = "×".join(map(str, flat[path].shape)) or "scalar"
        label = labels.get(path, optim.PEFT)
        rate = _rate(optimizer, label) if mask[path] else "0"
        rows.append((path, shape, label, rate, "" if mask[path] else "frozen"))
    out = console()
    out.print(
        table("parameters", ("path", "shape", "group", "lr", ""), rows, left=3),
        markup=False,
    )
    train = facts.trainable(run)
    out.print(
        f"{trees.size(run.params):,} parameters, {train:,} trainable; optimizer state "
        f"{trees.nbytes(run.state.opt):,} bytes; stages in training mode: "
        f"{', '.join(program.train) or 'none'}"
    )
    for name, note in run.notes.items():
        out.print(f"{name}: {note}", markup=False)


def _labels(run, optimizer):
    """Returns the tree of groups; "peft" where a reparametrisation moves what they
    freeze."""
    base = trees.merge(run.state.trainable["model"], run.fixed.frozen)
    moving = trees.flatten(run.program.moving)
    mask = trees.flatten(run.program.mask)
    return trees.map_with_path(
        lambda p, label: optim.PEFT if moving[p] and not mask[p] else label,
        optim.labels(optimizer, base),
    )


def _rate(optimizer, label) -> str:
    if optimizer.groups.get(label) is FROZEN:
        return "0"
    factor = optim.group(optimizer, label).lr
    if isinstance(optimizer.lr, Schedule):
        inner = dataclasses.asdict(optimizer.lr)
        text = ", ".join(f"{k}={v:g}" for k, v in inner.items())
        return f"{factor:g} × {type(optimizer.lr).__name__}({text})"
    return f"{factor * optimizer.lr:g}"


def loaded(rows: list[dict]):
    """Returns the table of loaded, re-initialised and skipped leaves, by stage."""
    counts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        shape = row["shape"] or row["source_shape"] or ()
        size = 1
        for n in shape:
            size *= n
        cell = counts.setdefault((row["path"].split("/")[0], row["status"]), [0, 0])
        cell[0] += 1
        cell[1] += size
    body = [(s, status, n, f"{size:,}") for (s, status), (n, size) in counts.items()]
    return table("initial weights", ("stage", "", "leaves", "numbers"), body, left=2)


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of one setting over its seeds.

    Attributes:
      name: the variant, or the run's directory.
      results: one result.json per seed.
      errors: messages of runs that failed.
    """

    name: str
    results: list[dict]
    errors: list[str] = dataclasses.field(default_factory=list)

    def values(self, split: str, metric: str) -> list[float]:
        """Returns one metric of all seeds that have it."""
        return [r[split][metric] for r in self.results if metric in r.get(split, {})]

    def cell(self, split: str, metric: str) -> str:
        """Returns "mean ± half-width" of the 95 % interval over seeds."""
        values = self.values(split, metric)
        if not values:
            return "failed" if self.errors else "–"
        return number(metric, *metrics.interval(values)[:2])


def number(metric: str, mean: float, half: float | None) -> str:
    """Formats a metric, shares as percentages."""
    percent = metric in SHARES
    scale, digits = (100.0, 1) if percent else (1.0, 4)
    text = f"{mean * scale:.{digits}f}"
    if half is not None:
        text += f" ± {half * scale:.{digits}f}"
    return text


SHARES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "exact_match",
    "ece",
    "source_accuracy",
)


def collect(paths: Iterable[pathlib.Path]) -> list[Row]:
    """Finds finished runs below some directories and groups them over seeds.

    Raises:
      UserError: if a directory does not exist or holds no finished run.
    """
    groups: dict[str, list[dict]] = {}
    for path in paths:
        path = pathlib.Path(path)
        if not path.is_dir():
            raise UserError(f"there is no directory {str(path)!r}.")
        found = sorted(path.rglob("result.json"), key=_in_order)
        if not found:
            raise UserError(
                f"{path} holds no finished run (a result.json); was it interrupted? "
                f"Go on with: jaxtl resume {path}"
            )
        for file in found:
            folder = file.parent
            seeded = re.fullmatch(r"seed\d+", folder.name) and folder != path
            name = str(folder.parent if seeded else folder)
            groups.setdefault(name, []).append(rundir.read_json(file))
    return [Row(name, results) for name, results in groups.items()]


def _in_order(path: pathlib.Path):
    parts = re.split(r"(\d+)", str(path))
    return [int(p) if p.isdigit() else p for p in parts]


def shared_metric(rows: list[Row]) -> str:
    """Returns the metric that the runs were chosen by, or their task's main one."""
    for row in rows:
        for result in row.results:
            # A criterion of an unlabelled target chooses; it is no result.
            if result.get("monitor") not in (None, *metrics.CRITERIA):
                return result["monitor"]
            for split in ("test", "val"):
                if result.get(split):
                    return next(iter(result[split]))
    return "accuracy"


def comparison(rows: list[Row], metric: str | None = None, title: str = ""):
    """Returns a table with a line per setting: mean ± 95 % interval, seeds, speed."""
    metric = metric or shared_metric(rows)
    unit = " %" if metric in SHARES else ""
    body = []
    for row in rows:
        speeds = [r["steps_per_second"] for r in row.results if r["steps_per_second"]]
        trained = [r["trainable_parameters"] for r in row.results]
        body.append(
            (
                row.name,
                row.cell("val", metric),
                row.cell("test", metric),
                len(row.results),
                f"{trained[0]:,}" if trained else "–",
                f"{sorted(speeds)[len(speeds) // 2]:,.0f}" if speeds else "–",
            )
        )
    columns = (
        "run",
        f"val {metric}{unit}",
        f"test {metric}{unit}",
        "seeds",
        "trainable",
        "steps/s",
    )
    return table(title, columns, body)


def pivoted(rows: list[Row]) -> tuple[list[str], list[str], Mapping] | None:
    """Splits names "column/row" into a grid, or returns None where they aren't such.

    Returns:
      (row names, column names, {(row, column): Row}); runs without a slash are left
      out of the grid.
    """
    grid, columns, lines = {}, [], []
    for row in rows:
        column, slash, line = row.name.partition("/")
        if not slash or "/" in line:
            continue
        grid[line, column] = row
        columns += [column] if column not in columns else []
        lines += [line] if line not in lines else []
    return (lines, columns, grid) if len(columns) > 1 else None


def study_tables(rows: list[Row], title: str, metric: str | None = None) -> list:
    """Returns the tables of a study: a grid where the names form one, and the rest."""
    metric = metric or shared_metric(rows)
    grid = pivoted(rows)
    if grid is None:
        return [comparison(rows, metric, title)]
    lines, columns, cells = grid
    tested = any(row.values("test", metric) for row in rows)
    split = "test" if tested else "val"
    body = [
        (
            line,
            *(
                cells[line, c].cell(split, metric) if (line, c) in cells else ""
                for c in columns
            ),
            max(len(cells[line, c].results) for c in columns if (line, c) in cells),
        )
        for line in lines
    ]
    unit = " %" if metric in SHARES else ""
    heading = f"{title}\n{split} {metric}{unit}, mean ± 95 % interval over seeds"
    tables = [table(heading, ("", *columns, "seeds"), body)]
    rest = [row for row in rows if row not in cells.values()]
    if rest:
        tables.insert(0, comparison(rest, metric))
    return tables


def summary(rows: list[Row]) -> list[dict]:
    """Returns the JSON form of a study's results: each metric's mean and interval."""
    found = []
    for row in rows:
        entry = {"name": row.name, "n": len(row.results), "errors": row.errors}
        for split in ("val", "test"):
            names = {m for r in row.results for m in r.get(split, {})}
            entry[split] = {}
            for name in sorted(names):
                values = row.values(split, name)
                mean, half, n = metrics.interval(values)
                entry[split][name] = {
                    "mean": mean,
                    "half_width_95": half,
                    "n": n,
                    "values": values,
                }
        found.append(entry)
    return found


def describe(exp) -> str:
    """Returns an experiment as indented text, settings at their default left out."""
    return _described(exp, "")


def _described(value, indent: str) -> str:
    inner = indent + "  "
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        lines = []
        for name, field in config.fields(value).items():
            child = getattr(value, name)
            if not _is_default(field, child):
                lines.append(f"{inner}{name}: {_described(child, inner)}")
        return "\n".join([type(value).__name__, *lines])
    if isinstance(value, Mapping) and value:
        lines = [f"{inner}{k}: {_described(v, inner)}" for k, v in value.items()]
        return "\n" + "\n".join(lines)
    return repr(value)


def _is_default(field, value) -> bool:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    try:
        return bool(value == default)
    except ValueError:  # arrays
        return False


def listing(title: str, columns: Iterable[str], rows: Iterable[Iterable]):
    """Returns a table of texts whose last column wraps."""
    from rich import box
    from rich.table import Table

    columns = tuple(columns)
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in columns:
        made.add_column(name, no_wrap=name != columns[-1])
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def catalogue(rows: list[dict]):
    """Returns the table of data sets and sources that `jaxtl data` prints."""
    columns = ("source", "needs", "what it is")
    body = [(r["name"], ", ".join(r["needed"]), r["summary"]) for r in rows]
    return listing("tl.data", columns, body)


def dataset(name: str, found):
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


def sheet(found, per_class: int):
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
