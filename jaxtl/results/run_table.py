"""Tables of finished runs, grouped over seeds."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping

from jaxtl.core.console import table
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results.format_number import SHARES, number
from jaxtl.training import run_dir


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
            groups.setdefault(name, []).append(run_dir.read_json(file))
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
