"""Building a summary from records: its settings, its rows, their statistics."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics
from jaxtl.results import (
    comparisons,
    database,
    negative_transfer,
    selection_cost,
    settings,
    statistics,
)
from jaxtl.results.axis_roles import SEED, AxisRoles, assign_roles, parse_selector
from jaxtl.results.comparability import check_comparable
from jaxtl.results.format_number import metric_bounds
from jaxtl.results.labels import label_text, labels_text, short_axis_name, spellings
from jaxtl.results.pretraining import pretraining_records
from jaxtl.results.records import Collection
from jaxtl.results.settings import Setting, SettingChoice
from jaxtl.results.summary import ComparisonRules, SettingSummary, Summary

FULL = ("full", "full fine-tuning", "fine-tuning")  # names of the default baseline
SPLITS = ("val", "test")


def summarize(
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
    """Summarizes a collection of records.

    Args:
      collection: the records.
      metric: to compare; default: what the runs were chosen by, or their first.
      compare: axes to compare; default: see `axis_roles.assign_roles`.
      baseline: "method=full" …; default: the method called "full", else the first.
      scratch: "method=from zero" …, the from-scratch runs; default: by their names.
      split: of the comparison; default: "test" where there is any.
      interval: of means, "t" or "bootstrap".
      test: of paired differences, "t" or "wilcoxon".

    Raises:
      UserError: the folders can't be compared, a name does not exist, or no run has
        finished.
    """
    check_comparable(collection)
    sources, everything = pretraining_records(collection.records), collection
    collection = collection.without(sources)
    rules = _rules(collection, metric, compare, split, interval, test)
    groups = settings.group_by_setting(collection.records)
    directions = settings.directions(_done_results(collection))
    higher = metrics.higher_is_better(rules.selection_metric, directions)
    fallback = (rules.metric, rules.higher)
    choices = settings.choose_settings(
        groups, rules.roles, rules.selection_metric, higher, fallback
    )
    choice_of = {id(choice.setting): choice for choice in choices}
    tuned = bool(rules.roles.tuned) and _has(collection, "val", rules.selection_metric)
    seeds = collection.axes.get(SEED, ())
    summaries = [
        _setting_summary(group, choice_of.get(id(group)), rules, seeds, tuned)
        for group in groups
        if group.count(*database.FINISHED, database.INTERRUPTED)
    ]
    rows = _sorted_by_axes([s for s in summaries if s.selected], collection.axes)
    baselines = _baseline(baseline, rules, collection.axes, rows)
    scratch = parse_selector(scratch, rules.roles, collection.axes)
    rows = comparisons.compare_with_baseline(rows, rules, baselines)
    rows = negative_transfer.add_alarms(rows, rules, scratch)
    return Summary(
        **vars(rules),
        title=collection.title,
        rows=tuple(comparisons.mark_best(rows, rules)),
        settings=tuple(summaries),
        tuned=tuned,
        baseline=baselines,
        references=negative_transfer.references_present(rows, rules, scratch),
        counts=_counts(everything),
        pretraining=tuple(
            _setting_summary(group, SettingChoice(group), rules, (), tuned=False)
            for group in settings.group_by_setting(sources)
            if group.done
        ),
        criterion_choices=selection_cost.criterion_choices(groups, rules.roles),
    )


def _counts(collection: Collection) -> dict[str, int]:
    """Status -> number of records."""
    return dict(collections.Counter(r.status for r in collection.records))


def _sorted_by_axes(
    rows: Sequence[SettingSummary], axes: Mapping[str, tuple]
) -> list[SettingSummary]:
    """Sorts rows by the order of the axes' values."""
    positions = {
        axis: {str(value): i for i, value in reversed(list(enumerate(values)))}
        for axis, values in axes.items()
    }

    def order(row: SettingSummary) -> list[int]:
        return [
            positions[axis][str(row.compared[axis])] if axis in row.compared else -1
            for axis in axes
        ]

    return sorted(rows, key=order)


def _rules(
    collection: Collection,
    metric: str | None,
    compare: Sequence[str] | None,
    split: str | None,
    interval: str,
    test: str,
) -> ComparisonRules:
    if not any(r.status == database.DONE for r in collection.records):
        counts = ", ".join(f"{n} {status}" for status, n in _counts(collection).items())
        kind = "run of the study" if "run" in collection.axes else "cell of the sweep"
        raise UserError(f"no {kind} is done yet ({counts or 'it has none'}).")
    metric = _metric(collection, metric)
    split = split or ("test" if _has(collection, "test", metric) else "val")
    if split not in SPLITS:
        raise UserError(f"split={split!r} is unknown (known: val, test).")
    if not _has(collection, split, metric):
        raise UserError(f"no finished run has a finite {metric} on {split}.")
    return ComparisonRules(
        metric=metric,
        higher=metrics.higher_is_better(
            metric, settings.directions(_done_results(collection))
        ),
        split=split,
        interval=interval,
        test=test,
        roles=assign_roles(collection.axes, compare),
        criterion=_criterion(collection, metric),
    )


def _done_results(collection: Collection) -> list[Mapping[str, Any]]:
    return [r.result for r in collection.records if r.status == database.DONE]


def _criterion(collection: Collection, metric: str) -> str:
    """The criterion that chose the checkpoints of runs with an unlabelled target.

    "" where there is none; settings are then chosen by the metric on val.
    """
    results = _done_results(collection)
    criteria = settings.criteria_names(results)
    if metric in criteria:
        return ""
    monitors = (result.get("monitor") for result in results)
    return next((name for name in monitors if name in criteria), "")


def _metric(collection: Collection, name: str | None) -> str:
    """Returns the given metric if some run has it; default: the main metric."""
    results = _done_results(collection)
    if name is None:
        name = settings.main_metric(results)
        if name is None:
            raise UserError("no finished run has a metric on val or test.")
    settings.check_metric(results, name)
    return name


def _has(collection: Collection, split: str, metric: str) -> bool:
    return any(
        metrics.is_finite_number(r.value(split, metric))
        for r in collection.records
        if r.status == database.DONE
    )


def _setting_summary(
    group: Setting,
    choice: SettingChoice | None,
    rules: ComparisonRules,
    seeds: Sequence[Any],
    tuned: bool,
) -> SettingSummary:
    """Summarizes a setting.

    Args:
      group: the setting.
      choice: how it was chosen on val, None if another one was.
      rules: of the comparison.
      seeds: of the whole collection.
      tuned: whether settings were chosen on val.
    """
    roles = rules.roles
    values = {split: group.values(split, rules.metric) for split in SPLITS}
    if choice is None:  # only settings that validation chose are shown on test
        values["test"] = {}
    estimates = {
        split: statistics.estimate(
            list(by_seed.values()), rules.interval, metric_bounds(rules.metric)
        )
        for split, by_seed in values.items()
        if by_seed
    }
    finished = tuple(settings.seed_of(record) for record in group.done)
    seconds = group.mean("seconds")
    compared = _part(group.labels, roles.compared)
    inner = _part(group.labels, roles.tuned)
    return SettingSummary(
        labels=group.labels,
        name=_name(compared if tuned else {**compared, **inner}, roles),
        compared=compared,
        tuned=inner,
        values=values,
        val=estimates.get("val"),
        test=estimates.get("test"),
        seeds=finished,
        missing=_missing_seeds(group, finished, seeds),
        failed=group.count(database.FAILED),
        stopped=group.count(database.STOPPED),
        interrupted=group.count(database.INTERRUPTED),
        unfinished=group.count(database.WAITING, database.RUNNING),
        reasons=_reasons(group),
        drift=group.mean("drift"),
        seconds=group.mean("train_seconds") if seconds is None else seconds,
        trainable=group.mean("trainable_parameters"),
        setting=group,
        **_choice_fields(choice, roles),
    )


def _choice_fields(choice: SettingChoice | None, roles: AxisRoles) -> dict[str, Any]:
    """The fields of a summary that tell how its setting was chosen."""
    if choice is None:
        return {}
    rival = ""
    if choice.rival is not None:
        tuned = labels_text(_part(choice.rival.labels, roles.tuned))
        rival = f"{tuned} ({len(choice.rival.done)} seeds)"
    return {
        "selected": True,
        "candidates": choice.candidates,
        "partial": choice.partial,
        "rival": rival,
    }


def _missing_seeds(
    group: Setting, finished: Sequence[Any], seeds: Sequence[Any]
) -> tuple[Any, ...]:
    """The seeds that a setting lacks; none where it was meant to have just one."""
    if len(group.records) < 2:  # a pre-trained source, say
        return ()
    return tuple(seed for seed in seeds if seed not in finished)


def _part(labels: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    return {name: labels[name] for name in axes if name in labels}


def _name(labels: Mapping[str, Any], roles: AxisRoles) -> str:
    """Names a setting: "L2-SP, labels_per_class=10"; the method has no axis name."""
    parts = [
        str(value)
        if name == roles.method
        else f"{short_axis_name(name)}={label_text(value)}"
        for name, value in labels.items()
    ]
    return ", ".join(parts) or "all runs"


def _reasons(group: Setting) -> tuple[str, ...]:
    """Why cells failed: each first line of an error once, with its count."""
    errors = [r.error for r in group.records if r.status == database.FAILED]
    counts = collections.Counter(error.split("\n")[0] for error in errors)
    return tuple(
        f"{error or 'no reason is known'} ({n} cells)" if n > 1 else error
        for error, n in counts.items()
    )


def _baseline(
    texts: Sequence[str],
    rules: ComparisonRules,
    axes: Mapping[str, tuple],
    rows: Sequence[SettingSummary],
) -> dict[str, str]:
    """Returns the baseline's axis -> value; {} where no axis holds ways to train."""
    if texts:
        return parse_selector(texts, rules.roles, axes)
    method = rules.roles.method
    if method is None or len(axes[method]) < 2:
        return {}
    # By the last part of a name: "mnist/full" and "cifar/full" are both baselines.
    names = [
        spellings(row.compared[method])[1]
        for row in rows
        if row.estimate(rules.split) and method in row.compared
    ]
    full = [name for name in names if name.lower() in FULL]
    return {method: (full or names)[0]} if names else {}
