"""From records to the summary: which lines there are, and what each of them is."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import metrics
from jaxtl.results import comparisons, database, selection_cost, settings, statistics
from jaxtl.results.records import Collection
from jaxtl.results.settings import Choice, Division, Setting
from jaxtl.results.summary import Line, Rules, Summary

FULL = ("full", "full fine-tuning", "fine-tuning")
SPLITS = ("val", "test")


def summarise(
    collection: Collection,
    *,
    metric: str | None = None,
    compare: Sequence[str] | None = None,
    baseline: Sequence[str] = (),
    scratch: Sequence[str] = (),
    split: str | None = None,
    interval: str = "t",
    test: str = "t",
) -> Summary:
    """Returns what a collection found.

    Args:
      collection: of records.
      metric: default: what the runs were chosen by, or the first that they have.
      compare: axes to be compared; default: see `settings.divide`.
      baseline: "method=full" …; default: the method called "full", else the first.
      scratch: "method=from zero" …, the from-scratch runs; default: by their names.
      split: to compare on; default: "test" where there is any.
      interval: of means, "t" or "bootstrap".
      test: of paired differences, "t" or "wilcoxon".

    Raises:
      UserError: for folders that can't be compared, names that do not exist, and
        where no run has finished.
    """
    rules = _rules(collection, metric, compare, split, interval, test)
    groups = settings.group(collection.records)
    tuned = bool(rules.division.tuned) and _has(collection, "val", rules.chooser)
    higher = metrics.higher_is_better(rules.chooser)
    choices = settings.choose(
        groups, rules.division, rules.chooser, higher, (rules.metric, rules.higher)
    )
    chosen = {id(choice.setting): choice for choice in choices}
    seeds = collection.axes.get(settings.SEED, ())
    every = [
        _line(group, chosen.get(id(group)), rules, seeds, tuned)
        for group in groups
        if group.count(*database.FINISHED)
    ]
    lines = _in_order([line for line in every if line.chosen], collection.axes)
    selector = _baseline(baseline, rules, collection.axes, lines)
    lines = comparisons.against_baseline(lines, rules, selector)
    fresh = settings.select(scratch, rules.division, collection.axes)
    lines = comparisons.alarmed(lines, rules, fresh)
    return Summary(
        **vars(rules),
        title=collection.title,
        lines=tuple(comparisons.topped(lines, rules)),
        settings=tuple(every),
        tuned=tuned,
        baseline=selector,
        references=comparisons.references(lines, rules, fresh),
        counts=dict(collections.Counter(r.status for r in collection.records)),
        choosing=selection_cost.of_settings(groups, rules.division),
    )


def _in_order(lines: list[Line], axes: Mapping[str, tuple]) -> list[Line]:
    """Sorts lines by the axes' own order, whatever was chosen for each of them."""

    def place(line: Line) -> list[int]:
        return [
            [str(v) for v in values].index(str(line.compared[axis]))
            if axis in line.compared
            else -1
            for axis, values in axes.items()
        ]

    return sorted(lines, key=place)


def _rules(collection, metric, compare, split, interval, test) -> Rules:
    settings.check_comparable(collection)
    if not any(r.status == database.DONE for r in collection.records):
        counts = collections.Counter(r.status for r in collection.records)
        told = ", ".join(f"{n} {status}" for status, n in counts.items())
        raise UserError(f"no cell of the sweep is done yet ({told or 'it has none'}).")
    metric = _metric(collection, metric)
    split = split or ("test" if _has(collection, "test", metric) else "val")
    if split not in SPLITS:
        raise UserError(f"split={split!r} is unknown (known: val, test).")
    if not _has(collection, split, metric):
        raise UserError(f"no finished run has a finite {metric} on {split}.")
    return Rules(
        metric=metric,
        higher=metrics.higher_is_better(metric),
        split=split,
        interval=interval,
        test=test,
        division=settings.divide(collection.axes, compare),
        by=_chooser(collection, metric),
    )


def _chooser(collection: Collection, metric: str) -> str:
    """Returns the criterion that runs of an unlabelled target were chosen by.

    "" where they have none, which leaves the choice to the metric on val.
    """
    done = [r.result for r in collection.records if r.status == database.DONE]
    found = [r["monitor"] for r in done if r.get("monitor") in metrics.CRITERIA]
    return found[0] if found and metric not in metrics.CRITERIA else ""


def _metric(collection: Collection, name: str | None) -> str:
    """Returns the metric asked for, the one runs were chosen by, or their first."""
    results = [r.result for r in collection.records if r.status == database.DONE]
    if name is None:
        name = settings.main_metric(results)
        if name is None:
            raise UserError("no finished run has a metric on val or test.")
    names = settings.metric_names(results)
    if name not in names:
        raise UserError(
            f"no run has the metric {name!r}{nearest(name, names)} "
            f"(metrics: {', '.join(names) or 'none'})."
        )
    return name


def _has(collection: Collection, split: str, metric: str) -> bool:
    return any(
        metrics.is_finite_number(r.value(split, metric))
        for r in collection.records
        if r.status == database.DONE
    )


def _line(
    group: Setting, choice: Choice | None, rules: Rules, seeds: Sequence, tuned: bool
) -> Line:
    division = rules.division
    values = {s: group.values(s, rules.metric) for s in SPLITS}
    if choice is None:  # a setting that validation did not choose is not tested
        values["test"] = {}
    estimates = {
        split: statistics.estimate(list(found.values()), rules.interval)
        for split, found in values.items()
        if found
    }
    finished = tuple(settings.seed(record) for record in group.done)
    compared, inner = (
        _part(group.labels, n) for n in (division.compared, division.tuned)
    )
    return Line(
        labels=group.labels,
        name=_name(compared if tuned else {**compared, **inner}, division),
        compared=compared,
        tuned=inner,
        values=values,
        val=estimates.get("val"),
        test=estimates.get("test"),
        seeds=finished,
        missing=tuple(s for s in seeds if s not in finished) if _seeded(group) else (),
        failed=group.count(database.FAILED),
        stopped=group.count(database.STOPPED),
        unfinished=group.count(database.WAITING, database.RUNNING),
        reasons=_reasons(group),
        drift=group.mean("drift"),
        seconds=_first(group.mean("seconds"), group.mean("train_seconds")),
        trainable=group.mean("trainable_parameters"),
        chosen=choice is not None,
        candidates=choice.candidates if choice else 1,
        partial=choice.partial if choice else 0,
        rival=_rival(choice, division) if choice else "",
        setting=group,
    )


def _rival(choice: Choice, division: Division) -> str:
    """Returns "lr=0.01 (3 seeds)"."""
    if choice.rival is None:
        return ""
    tuned = _part(choice.rival.labels, division.tuned)
    return f"{settings.listed(tuned)} ({len(choice.rival.done)} seeds)"


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _seeded(group: Setting) -> bool:
    """Returns whether more than one seed was meant: a source may have just one."""
    return len(group.records) > 1


def _part(labels: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    return {name: labels[name] for name in axes if name in labels}


def _name(labels: Mapping[str, Any], division: Division) -> str:
    """Returns "L2-SP, labels_per_class=10": the method bare, others by short name."""
    parts = [
        str(value)
        if name == division.method
        else f"{settings.short(name)}={settings.text(value)}"
        for name, value in labels.items()
    ]
    return ", ".join(parts) or "all runs"


def _reasons(group: Setting) -> tuple[str, ...]:
    errors = [r.error for r in group.records if r.status == database.FAILED]
    counts = collections.Counter(error.split("\n")[0] for error in errors)
    return tuple(
        f"{error or 'no reason is known'} ({n} cells)" if n > 1 else error
        for error, n in counts.items()
    )


def _baseline(
    asked: Sequence[str], rules: Rules, axes: Mapping, lines: Sequence[Line]
) -> dict[str, str]:
    """Returns the baseline's axis -> value; {} where no axis holds ways to train."""
    division = rules.division
    if asked:
        return settings.select(asked, division, axes)
    method = division.method
    if method is None or len(axes[method]) < 2:
        return {}
    there = [x for x in lines if x.estimate(rules.split) and method in x.compared]
    full = [
        x for x in there if settings.spellings(x.compared[method])[1].lower() in FULL
    ]
    if not there:
        return {}
    # By the last part of a name: "mnist/full" and "cifar/full" are both baselines.
    return {method: settings.spellings((full or there)[0].compared[method])[1]}
