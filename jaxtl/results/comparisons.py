"""Comparisons between settings: with the baseline, the references, the best one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jaxtl.results import comparability, statistics
from jaxtl.results.axis_roles import matches
from jaxtl.results.labels import labels_key, last_part
from jaxtl.results.statistics import Difference
from jaxtl.results.summary import (
    BETTER,
    TIE,
    WORSE,
    Alarm,
    Comparison,
    ComparisonRules,
    SettingSummary,
)

FROM_SCRATCH, UNTOUCHED = "from-scratch", "the untouched source"
# Names that methods have in experiment files, with "-" and "_" as spaces.
_SCRATCH_NAMES = ("scratch", "from scratch")
_SOURCE_NAMES = ("source", "untouched source", "untouched", "zero shot", "source only")
_BASELINE_PREFIX = "baseline:"  # of methods that train no network
_ALPHA = 1 - statistics.LEVEL

Predicate = Callable[[SettingSummary], bool]


def compare_with_baseline(
    rows: Sequence[SettingSummary],
    rules: ComparisonRules,
    baseline: Mapping[str, str],
) -> list[SettingSummary]:
    """Compares each row with the baseline of its column; see `_reference_finder`.

    Args:
      rows: of the main table.
      rules: of the comparison.
      baseline: axis -> value that the baselines have; {} compares nothing.
    """
    if not baseline:
        return list(rows)
    find = _reference_finder(
        rows, rules, lambda row: matches(row.compared, baseline), baseline
    )
    references = {i: find(row) for i, row in enumerate(rows)}
    pairs = {
        i: (rows[i], reference)
        for i, reference in references.items()
        if reference is not None and reference is not rows[i]
    }
    comparisons = dict(zip(pairs, _compare(list(pairs.values()), rules)))
    return [
        dataclasses.replace(row, comparison=comparisons.get(i))
        for i, row in enumerate(rows)
    ]


def add_alarms(
    rows: Sequence[SettingSummary],
    rules: ComparisonRules,
    scratch: Mapping[str, str],
) -> list[SettingSummary]:
    """Adds an alarm to rows that are below from-scratch or the untouched source.

    All these comparisons are one family for Holm's correction. References, and
    baselines that train no network, get no alarm.

    Args:
      rows: of the main table.
      rules: of the comparison.
      scratch: axis -> value of the from-scratch rows; {} finds them by their names.
    """
    references = _references(rules, scratch)
    transfers = [
        (i, row)
        for i, row in enumerate(rows)
        if not _trains_no_network(row, rules)
        and not any(is_reference(row) for is_reference in references.values())
    ]
    pairs, alarmed = [], []
    for name, is_reference in references.items():
        selector = scratch if name == FROM_SCRATCH else {}
        find = _reference_finder(rows, rules, is_reference, selector)
        for i, row in transfers:
            reference = find(row)
            if reference is not None:
                pairs.append((row, reference))
                alarmed.append((i, name))
    alarms: dict[int, tuple[Alarm, ...]] = {}
    for (i, name), comparison in zip(alarmed, _compare(pairs, rules)):
        mean = comparison.difference.mean
        is_worse = mean < 0 if rules.higher else mean > 0
        if is_worse:
            significant = comparison.verdict == WORSE
            alarm = Alarm(
                comparison=comparison, reference=name, significant=significant
            )
            alarms[i] = (*alarms.get(i, ()), alarm)
    return [
        dataclasses.replace(row, alarms=alarms.get(i, ())) for i, row in enumerate(rows)
    ]


def mark_best(
    rows: Sequence[SettingSummary], rules: ComparisonRules
) -> list[SettingSummary]:
    """Marks, in every column, the best mean and the rows that tie with it.

    The rows of a column differ on the axis of methods only; without such an axis
    nothing is marked. Holm's correction is per column.
    """
    top: set[int] = set()
    for column in columns(rows, rules).values():
        if len(column) < 2:
            continue
        best = max(column, key=lambda i: rules.rank(rows[i]))
        others = [i for i in column if i != best]
        comparisons = _compare([(rows[i], rows[best]) for i in others], rules)
        top.add(best)
        top.update(
            i
            for i, comparison in zip(others, comparisons)
            if comparison.verdict == TIE or not comparison.difference.mean
        )
    return [dataclasses.replace(row, top=i in top) for i, row in enumerate(rows)]


def columns(
    rows: Sequence[SettingSummary], rules: ComparisonRules
) -> dict[tuple, list[int]]:
    """Groups the rows that differ by method only and were measured alike.

    Returns:
      (key of the shared compared values, a number that separates rows of different
      data) -> indices of the rows.
    """
    method = rules.roles.method
    groups: dict[tuple, list[int]] = {}
    if method is None:
        return groups
    axes = [name for name in rules.roles.compared if name != method]
    for i, row in enumerate(rows):
        if row.estimate(rules.split) is None:
            continue
        shared, part = labels_key(row.compared, axes), 0
        while (shared, part) in groups:
            if _comparable(row, rows[groups[shared, part][0]]):
                break
            part += 1
        groups.setdefault((shared, part), []).append(i)
    return groups


def on_other_data(
    rows: Sequence[SettingSummary], rules: ComparisonRules
) -> list[SettingSummary]:
    """Returns rows that were measured on other data than most rows like them."""
    parts: dict[tuple, list[list[int]]] = {}
    for (shared, _), members in columns(rows, rules).items():
        parts.setdefault(shared, []).append(members)
    minority = []
    for groups in parts.values():
        largest = max(groups, key=len)
        minority += [i for members in groups if members is not largest for i in members]
    return [rows[i] for i in sorted(minority)]


def references_present(
    rows: Sequence[SettingSummary],
    rules: ComparisonRules,
    scratch: Mapping[str, str],
) -> tuple[str, ...]:
    """Returns the names of the references for negative transfer that were run."""
    references = _references(rules, scratch)
    return tuple(name for name, is_it in references.items() if any(map(is_it, rows)))


def _compare(
    pairs: Sequence[tuple[SettingSummary, SettingSummary]], rules: ComparisonRules
) -> list[Comparison]:
    """Compares rows pairwise over their common seeds; p by Holm over all pairs.

    Pairs without a common seed have the difference of their means, and no verdict.
    """
    differences = [_difference(row, other, rules) for row, other in pairs]
    tested = [i for i, difference in enumerate(differences) if difference.p is not None]
    adjusted = dict(zip(tested, statistics.holm([differences[i].p for i in tested])))
    return [
        Comparison(
            against=other.name,
            difference=differences[i],
            adjusted=adjusted.get(i),
            verdict=_verdict(differences[i], adjusted.get(i), rules.higher),
        )
        for i, (_, other) in enumerate(pairs)
    ]


def _difference(
    row: SettingSummary, other: SettingSummary, rules: ComparisonRules
) -> Difference:
    ours, theirs = row.values[rules.split], other.values[rules.split]
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        means = [x.estimate(rules.split).mean for x in (row, other)]
        return Difference(means[0] - means[1], None, None, None, None, 0)
    return statistics.paired(
        [ours[seed] for seed in seeds],
        [theirs[seed] for seed in seeds],
        test=rules.test,
        interval=rules.interval,
    )


def _verdict(difference: Difference, adjusted: float | None, higher: bool) -> str:
    if adjusted is None:
        return ""
    if adjusted >= _ALPHA:
        return TIE
    return BETTER if (difference.mean > 0) == higher else WORSE


def _reference_finder(
    rows: Sequence[SettingSummary],
    rules: ComparisonRules,
    is_reference: Predicate,
    selector: Mapping[str, str],
) -> Callable[[SettingSummary], SettingSummary | None]:
    """Returns a function: row -> the reference to compare it with, None without one.

    That is the first reference, measured on the same data, that agrees on every
    compared axis which both have, except for the selector's axes (or, without a
    selector, the axis of methods).
    """
    free = set(selector) or {rules.roles.method}
    references = [
        row
        for row in rows
        if row.estimate(rules.split) is not None and is_reference(row)
    ]
    # Looked up by the values on the shared axes: a sweep has thousands of rows.
    indices: dict[tuple, dict[tuple, list[tuple[int, SettingSummary]]]] = {}

    def index(axes: tuple[str, ...]) -> dict[tuple, list[tuple[int, SettingSummary]]]:
        """(shared axes, their values) -> the references that have these."""
        table: dict[tuple, list[tuple[int, SettingSummary]]] = {}
        for i, reference in enumerate(references):
            shared = tuple(n for n in reference.compared if n not in free and n in axes)
            key = shared, labels_key(reference.compared, shared)
            table.setdefault(key, []).append((i, reference))
        return table

    def find(row: SettingSummary) -> SettingSummary | None:
        if row.estimate(rules.split) is None:
            return None
        axes = tuple(row.compared)
        if axes not in indices:
            indices[axes] = index(axes)
        candidates = []
        for shared in {shared for shared, _ in indices[axes]}:
            key = shared, labels_key(row.compared, shared)
            candidates += indices[axes].get(key, [])
        for _, reference in sorted(candidates, key=lambda pair: pair[0]):
            if _comparable(row, reference):
                return reference
        return None

    return find


def _comparable(row: SettingSummary, other: SettingSummary) -> bool:
    return not comparability.difference(row.setting.done[0], other.setting.done[0])


def _references(
    rules: ComparisonRules, scratch: Mapping[str, str]
) -> dict[str, Predicate]:
    """Name of a reference for negative transfer -> whether a row is that reference."""
    return {
        FROM_SCRATCH: lambda row: _is_scratch(row, rules, scratch),
        UNTOUCHED: lambda row: _is_untouched_source(row, rules),
    }


def _is_scratch(
    row: SettingSummary, rules: ComparisonRules, selector: Mapping[str, str]
) -> bool:
    if selector:
        return matches(row.compared, selector)
    return _has_name(row, rules, _SCRATCH_NAMES)


def _is_untouched_source(row: SettingSummary, rules: ComparisonRules) -> bool:
    """Whether a row is the source as it was loaded: by its name, or with no steps."""
    done = row.setting.done
    untrained = bool(done) and all(record.result.get("steps") == 0 for record in done)
    scratch = _has_name(row, rules, _SCRATCH_NAMES)
    return _has_name(row, rules, _SOURCE_NAMES) or (untrained and not scratch)


def _has_name(
    row: SettingSummary, rules: ComparisonRules, names: Sequence[str]
) -> bool:
    value = row.compared.get(rules.roles.method)
    if not isinstance(value, str):
        return False
    text = last_part(value).lower()
    return text.replace("-", " ").replace("_", " ") in names


def _trains_no_network(row: SettingSummary, rules: ComparisonRules) -> bool:
    value = row.compared.get(rules.roles.method)
    return isinstance(value, str) and _BASELINE_PREFIX in value
