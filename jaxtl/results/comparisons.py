"""Comparisons of settings over their common seeds: with the baseline, with the best."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jaxtl.results import comparability, statistics
from jaxtl.results.axis_roles import matches
from jaxtl.results.labels import labels_key
from jaxtl.results.statistics import Difference
from jaxtl.results.summary import (
    BETTER,
    TIE,
    WORSE,
    Comparison,
    ComparisonRules,
    SettingSummary,
)

_ALPHA = 1 - statistics.LEVEL

Predicate = Callable[[SettingSummary], bool]


def compare_with_baseline(
    rows: Sequence[SettingSummary],
    rules: ComparisonRules,
    baseline: Mapping[str, str],
) -> list[SettingSummary]:
    """Compares each row with the baseline of its column; see `reference_finder`.

    Args:
      rows: of the main table.
      rules: of the comparison.
      baseline: axis -> value that the baselines have; {} compares nothing.
    """
    if not baseline:
        return list(rows)
    find = reference_finder(
        rows, rules, lambda row: matches(row.compared, baseline), baseline
    )
    references = {i: find(row) for i, row in enumerate(rows)}
    pairs = {
        i: (rows[i], reference)
        for i, reference in references.items()
        if reference is not None and reference is not rows[i]
    }
    comparisons = dict(zip(pairs, compare_pairs(list(pairs.values()), rules)))
    return [
        dataclasses.replace(row, comparison=comparisons.get(i))
        for i, row in enumerate(rows)
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
        best = best_row(rows, column, rules)
        compared = [i for i in column if i != best]
        pairs = [(rows[i], rows[best]) for i in compared]
        top.add(best)
        top.update(
            i
            for i, comparison in zip(compared, compare_pairs(pairs, rules))
            if comparison.verdict == TIE or not comparison.difference.mean
        )
    return [dataclasses.replace(row, top=i in top) for i, row in enumerate(rows)]


def best_row(
    rows: Sequence[SettingSummary], column: Sequence[int], rules: ComparisonRules
) -> int:
    """Returns the row of a column that has the best mean.

    A single seed is no mean, so rows of several seeds come first, where there are any.

    Args:
      rows: of the main table.
      column: indices of the rows of a column.
      rules: of the comparison.
    """
    repeated = [i for i in column if rows[i].estimate(rules.split).n > 1]
    return max(repeated or column, key=lambda i: rules.rank(rows[i]))


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


def compare_pairs(
    pairs: Sequence[tuple[SettingSummary, SettingSummary]], rules: ComparisonRules
) -> list[Comparison]:
    """Compares rows pairwise over their common seeds; p by Holm over all pairs.

    Pairs without a common seed have the difference of their means, and no verdict.

    Args:
      pairs: (row, the reference that it is compared with).
      rules: of the comparison.
    """
    differences = [_difference(*pair, rules) for pair in pairs]
    tested = [i for i, difference in enumerate(differences) if difference.p is not None]
    adjusted = dict(zip(tested, statistics.holm([differences[i].p for i in tested])))
    return [
        Comparison(
            against=reference.name,
            difference=differences[i],
            adjusted=adjusted.get(i),
            verdict=_verdict(differences[i], adjusted.get(i), rules.higher),
        )
        for i, (_, reference) in enumerate(pairs)
    ]


def _difference(
    row: SettingSummary, reference: SettingSummary, rules: ComparisonRules
) -> Difference:
    ours, theirs = row.values[rules.split], reference.values[rules.split]
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        means = [x.estimate(rules.split).mean for x in (row, reference)]
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
    if not adjusted < _ALPHA:  # NaN is no difference
        return TIE
    return BETTER if (difference.mean > 0) == higher else WORSE


def reference_finder(
    rows: Sequence[SettingSummary],
    rules: ComparisonRules,
    is_reference: Predicate,
    selector: Mapping[str, str],
) -> Callable[[SettingSummary], SettingSummary | None]:
    """Returns a function: row -> the reference to compare it with, None without one.

    That is the first reference, measured on the same data, that agrees on every
    compared axis which both have, except for the selector's axes (or, without a
    selector, the axis of methods).

    Args:
      rows: of the main table.
      rules: of the comparison.
      is_reference: whether a row is a reference.
      selector: axis -> value that the references have.
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


def _comparable(a: SettingSummary, b: SettingSummary) -> bool:
    return not comparability.difference(a.setting.done[0], b.setting.done[0])
