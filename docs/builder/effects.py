"""Measured effects of methods, read from the tables that the experiments tell.

The one source of a figure is the docstring of its experiment, or the report that the
experiment's sweep wrote. A row of a table whose label names a method, and whose value
has an interval, is an effect; the rows of `BASELINES` are what it is compared with.
"""

import ast
import dataclasses
import functools
import pathlib
import re

from docs.builder.docstring_tables import VALUE, Row, interval, number, tables
from docs.builder.public_names import ROOT

# What a method is compared with: the first of these that its table has.
BASELINES = ("both domains", "single tasks", "untrained features", "nothing")
BASELINES += ("source only", "full", "full fine-tuning", "fine-tuning", "fine-tuned")
BASELINES += ("labels", "supervised", "CE", "cross-entropy", "scratch")
BASELINES += ("modified Hausdorff",)
# Labels of rows that are not the class's name, as the tables write them.
LABELS = {
    "attention transfer": "regularizers.AttentionTransfer",
    "CBST": "domain.CBST",
    "CDAN+E": "domain.CDAN",
    "CDAN+E, BSP": "domain.BSP",
    "DANN+BSP": "domain.BSP",
    "entropy": "domain.EntropyMinimization",
    "feature extraction": "optim.HeadOnly",
    "first two blocks frozen": "optim.FreezeUpTo",
    "frozen": "optim.HeadOnly",
    "group lasso SP": "regularizers.GroupLassoSP",
    "gradual unfreezing": "optim.GradualUnfreezing",
    "Jacobian": "regularizers.JacobianDifference",
    "KFAC": "regularizers.KFAC",
    "left 0.7": "multitask.FixedWeights",
    "LP-FT": "optim.LPFT",
    "masked autoencoder": "selfsup.MAE",
    "mean teacher": "semi.MeanTeacher",
    "PADA": "domain.PartialDANN",
    "Π-model": "semi.PiModel",
    "pseudo-labels": "semi.PseudoLabel",
    "stem": "optim.FreezeUpTo",
    "uncertainty": "multitask.UncertaintyWeights",
    **{f"up to stage{i}": "optim.FreezeUpTo" for i in (1, 2, 3)},
    "batch spectral shrinkage": "regularizers.SpectralShrinkage",
}
_NO_METHOD = ("linear",)  # of a probe; `tl.optim.Linear` is a schedule
# Models that the methods behind their rows start from: their baselines.
_BASELINES_OF_NEXT = ("source only, BN", "source, smoothed")
_TIE = "not told apart"
_NO_TEST = re.compile(r"\bval(idation)?\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Effect:
    """One measured value of a method, beside its baseline's.

    Attributes:
      experiment: name of the experiment's file.
      label: the row of its table.
      setting: the column, as the transfer or the number of labels; "" for one column.
      value: mean and interval as printed.
      baseline: label of the row it is compared with, "" where the table has none.
      without: that row's value.
      difference: of the means, or as the report printed it with an interval; in a
        column of differences (Δ…) the value itself.
      verdict: "better", "worse" or "not told apart".
    """

    experiment: str
    label: str
    setting: str
    value: str
    baseline: str
    without: str
    difference: str
    verdict: str


def of(path: str) -> list[Effect]:
    """The effects of a method.

    Args:
      path: below `jaxtl`, as "domain.DANN".
    """
    return [effect for method, effect in _all() if method == path]


def unknown_labels() -> set[tuple[str, str]]:
    """(experiment, label) of the rows of which no effect can be read.

    They name neither a method nor a baseline, or their values are below no heading of
    their own.
    """
    rows = {(e.experiment, e.label) for path, e in _every_row() if not path}
    for file, text in _docstrings():
        rows |= {(file.stem, r.label) for t in tables(text) for r in t if not r.cells}
    return {(e, label) for e, label in rows if label.partition(",")[0] not in BASELINES}


def without_effects() -> set[str]:
    """The experiments that print intervals, none of which is a method's effect."""
    texts = {file.stem: text for file, text in _docstrings()}
    printed = {name for name, text in texts.items() if VALUE.search(text)}
    return printed - {e.experiment for _, e in _all()}


def _docstrings() -> list[tuple[pathlib.Path, str]]:
    files = sorted((ROOT / "experiments").glob("*.py"))
    return [(f, ast.get_docstring(ast.parse(f.read_text())) or "") for f in files]


@functools.cache
def _every_row() -> tuple[tuple[str, Effect], ...]:
    effects = []
    for file, text in _docstrings():
        for table in tables(text):
            effects += table_effects(file.stem, table)
        report = ROOT / f"experiments/reports/{file.stem}/report.md"
        if report.exists():
            effects += report_effects(file.stem, report.read_text())
    return tuple((method(effect.label), effect) for effect in effects)


def _all() -> list[tuple[str, Effect]]:
    return [(path, effect) for path, effect in _every_row() if path]


@functools.cache
def _methods() -> dict[str, str]:
    """Label without punctuation -> path of the method below `jaxtl`."""
    from docs.builder import public_names

    families = [n for n in public_names.namespaces() if n.is_family]
    paths = [p for f in families if f.name != "metrics" for p, _ in f.members()]
    names = {p.rpartition(".")[2]: p for p in paths if p.count(".") == 1}
    return {_plain(k): v for k, v in {**names, **LABELS}.items()}


def method(label: str) -> str:
    """Path of the method that a row's label names, "" for none.

    What stands behind a comma is the method's setting: "DANN, share".
    """
    if label in _NO_METHOD:
        return ""
    known = _methods()
    parts = label.split(",")
    names = (_plain(",".join(parts[:n])) for n in range(len(parts), 0, -1))
    return next((known[name] for name in names if name in known), "")


def _plain(label: str) -> str:
    return re.sub(r"[^\wΠ+]", "", label.lower())


def table_effects(experiment: str, table: list[Row]) -> list[Effect]:
    """The rows of a table beside its baseline's row.

    Intervals that don't overlap tell a method from its baseline; that is a cautious
    comparison where both share seeds. The column "Δ x", where there is one, is the
    difference of the column "x", and its verdict that of "x".
    """
    rows = {row.label: row for row in table}
    name = next((b for b in BASELINES if b in rows), "")
    baseline_of_next, effects = rows.get(name), []
    for row in table:
        if row.label in _BASELINES_OF_NEXT:
            baseline_of_next = row
        if row.label.partition(",")[0] == name or row.label in _BASELINES_OF_NEXT:
            continue
        setting_of_row = row.label.rpartition(", ")[2]
        baseline = rows.get(f"{name}, {setting_of_row}", baseline_of_next)
        for setting, value in row.cells.items():
            of_another = setting.startswith("Δ ") and setting[2:] in row.cells
            if _NO_TEST.search(setting) or of_another:
                continue
            without = baseline.cells.get(setting) if baseline else None
            effect = _effect(experiment, row, setting, value, baseline, without)
            if change := row.cells.get(f"Δ {setting}"):
                effect = dataclasses.replace(effect, **_change(row, change))
            effects.append(effect)
    return effects


def _change(row: Row, value: re.Match[str]) -> dict[str, str]:
    """Difference and verdict of a value that is itself a difference."""
    low, high = interval(value)
    better = (low > 0) != row.lower_is_better
    verdict = ("better" if better else "worse") if low > 0 or high < 0 else _TIE
    text = value[0].removeprefix("▼").replace("-", "−")
    return {"difference": text, "verdict": verdict}


def _effect(
    experiment: str,
    row: Row,
    setting: str,
    value: re.Match[str],
    baseline: Row | None,
    without: re.Match[str] | None,
) -> Effect:
    values = value[0].removeprefix("▼").replace("-", "−")
    if "Δ" in setting:
        change = _change(row, value)
        return Effect(experiment, row.label, setting, values, "", "", **change)
    low, high = interval(value)
    if baseline is None or without is None:
        return Effect(experiment, row.label, setting, values, "", "", "", "")
    difference = number(value["mean"]) - number(without["mean"])
    low_without, high_without = interval(without)
    apart = low > high_without or high < low_without
    better = (difference > 0) != row.lower_is_better
    verdict = ("better" if better else "worse") if apart else _TIE
    text = f"{difference:+.1f}".replace("-", "−")
    against = without[0].removeprefix("▼")
    return Effect(
        experiment, row.label, setting, values, baseline.label, against, text, verdict
    )


_VERDICTS = {"tie": _TIE}


def report_effects(experiment: str, text: str) -> list[Effect]:
    """The rows of a sweep's report that are compared with a baseline.

    Its differences are paired by seed, and its verdicts are adjusted (Holm).
    """
    block = text.partition("\n## test ")[2].partition("\n## ")[0]
    lines = [line for line in block.splitlines() if line.startswith("|")]
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    if not rows or "verdict" not in rows[0]:
        return []
    names = rows[0]
    compared = next(name for name in names if name.startswith("− "))
    metric = next(name for name in names if name.startswith("test "))
    index = names.index("method")
    settings = [n for n in names[: names.index("seeds")] if n not in ("method", metric)]
    settings = [n for n in settings if "val" not in n]
    records = [dict(zip(names, row, strict=True)) for row in rows[2:]]
    values = {
        tuple(r[n] for n in (*settings, names[index])): r[metric] for r in records
    }
    baseline, effects = compared.removeprefix("− "), []
    for r in records:
        if not r[compared]:
            continue
        where = tuple(r[n] for n in settings)
        parts = [f"{r[n]} {n.replace('_', ' ')}" if r[n].isdigit() else r[n]
                 for n in settings]  # fmt: skip
        effects.append(
            Effect(
                experiment,
                r["method"],
                ", ".join(parts),
                r[metric],
                baseline,
                values.get((*where, baseline), ""),
                r[compared],
                _VERDICTS.get(r["verdict"], r["verdict"]),
            )
        )
    return effects


_HEAD = "| experiment | row | setting | measured | beside | difference | verdict |"


def section(path: str) -> str:
    """The table of a method's measured effects, "" where none was measured."""
    rows = []
    for e in of(path):
        link = f"[{e.experiment}](../experiments/{e.experiment}.md)"
        beside = f"{e.baseline} {e.without}" if e.baseline else "–"
        verdict = f"**{e.verdict}**" if e.verdict == "worse" else e.verdict
        cells = (link, e.label, e.setting, e.value, beside, e.difference, verdict)
        rows.append(f"| {' | '.join(cells)} |")
    if not rows:
        return ""
    return "\n".join([_HEAD, "| --- " * 7 + "|", *rows])


_SUMMARY = """## Measured effects

Read from the tables of our experiments; their pages say what was measured, with how
many seeds and on which machine. "Not told apart": the 95 % intervals overlap, or, where
a sweep's report compares by seed, its test (adjusted by Holm) finds no difference, or,
of a change that a table prints itself (Δm), its interval holds 0. A method without a
line was not measured here.

| method | comparisons | better | not told apart | worse |
| --- | ---: | ---: | ---: | ---: |"""


def summary(paths: list[str]) -> str:
    """The table of a family: how often each method was better, and how often worse."""
    rows = []
    for path in paths:
        verdicts = [e.verdict for e in of(path) if e.verdict]
        if not verdicts:
            continue
        counts = [verdicts.count(v) for v in ("better", "not told apart", "worse")]
        name = path.rpartition(".")[2]
        worse = f"**{counts[2]}**" if counts[2] else "0"
        rows.append(
            f"| [{name}](#{name.lower()}) | {len(verdicts)} | {counts[0]} | "
            f"{counts[1]} | {worse} |"
        )
    return "\n".join([_SUMMARY, *rows]) if rows else ""
