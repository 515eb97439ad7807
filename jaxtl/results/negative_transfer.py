"""Alarms for negative transfer: settings below from-scratch or the untouched source."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxtl.results.axis_roles import matches
from jaxtl.results.comparisons import Predicate, compare_pairs, reference_finder
from jaxtl.results.labels import last_part
from jaxtl.results.summary import WORSE, Alarm, ComparisonRules, SettingSummary

FROM_SCRATCH, UNTOUCHED = "from-scratch", "the untouched source"
# Names that methods have in experiment files, with "-" and "_" as spaces.
_SCRATCH_NAMES = ("scratch", "from scratch")
_SOURCE_NAMES = ("source", "untouched source", "untouched", "zero shot", "source only")
_BASELINE_PREFIX = "baseline:"  # of methods that train no network


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
        find = reference_finder(rows, rules, is_reference, selector)
        for i, row in transfers:
            reference = find(row)
            if reference is not None:
                pairs.append((row, reference))
                alarmed.append((i, name))
    alarms: dict[int, tuple[Alarm, ...]] = {}
    for (i, name), comparison in zip(alarmed, compare_pairs(pairs, rules)):
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


def references_present(
    rows: Sequence[SettingSummary],
    rules: ComparisonRules,
    scratch: Mapping[str, str],
) -> tuple[str, ...]:
    """Returns the names of the references for negative transfer that were run."""
    references = _references(rules, scratch)
    return tuple(name for name, is_it in references.items() if any(map(is_it, rows)))


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
