"""Which lines of a summary are better, worse, tied, best, or below a reference."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jaxtl.results import settings, statistics
from jaxtl.results.summary import BETTER, TIE, WORSE, Alarm, Comparison, Line, Rules

SCRATCH = ("scratch", "from scratch")
SOURCE = ("source", "untouched source", "untouched", "zero shot", "source only")
FROM_SCRATCH, UNTOUCHED = "from-scratch", "the untouched source"
ALPHA = 1 - statistics.LEVEL


def against_baseline(
    lines: Sequence[Line], rules: Rules, baseline: Mapping[str, str]
) -> list[Line]:
    """Compares each line with the baseline of its column; see `partners`."""
    if not baseline:
        return list(lines)
    partner = partners(
        lines, rules, lambda x: settings.matches(x.compared, baseline), baseline
    )
    others = {i: partner(line) for i, line in enumerate(lines)}
    pairs = {i: x for i, x in others.items() if x is not None and x is not lines[i]}
    found = dict(zip(pairs, compare([(lines[i], pairs[i]) for i in pairs], rules)))
    return [
        dataclasses.replace(line, comparison=found.get(i))
        for i, line in enumerate(lines)
    ]


def alarmed(
    lines: Sequence[Line], rules: Rules, scratch: Mapping[str, str]
) -> list[Line]:
    """Marks lines that come out below from-scratch or the untouched source.

    All their comparisons are one family for Holm's correction. References and
    baselines that train no network get no alarm.
    """
    known = _references(rules, scratch)
    transfers = [
        (i, line)
        for i, line in enumerate(lines)
        if not _trains_none(line, rules)
        and not any(is_it(line) for is_it in known.values())
    ]
    pairs, which = [], []
    for name, is_it in known.items():
        apart = scratch if name == FROM_SCRATCH else {}
        partner = partners(lines, rules, is_it, apart)
        for i, line in transfers:
            other = partner(line)
            if other is not None:
                pairs.append((line, other))
                which.append((i, name))
    alarms: dict[int, tuple[Alarm, ...]] = {}
    for (i, name), found in zip(which, compare(pairs, rules)):
        loses = found.difference.mean < 0 if rules.higher else found.difference.mean > 0
        if loses:
            lost = found.verdict == WORSE
            alarm = Alarm(comparison=found, reference=name, significant=lost)
            alarms[i] = (*alarms.get(i, ()), alarm)
    return [
        dataclasses.replace(line, alarms=alarms.get(i, ()))
        for i, line in enumerate(lines)
    ]


def topped(lines: Sequence[Line], rules: Rules) -> list[Line]:
    """Marks, in every column, the best mean and what does not differ from it.

    A column are the lines that differ on the axis of methods only; without such an
    axis nothing is marked. Holm's correction is by column.
    """
    top: set[int] = set()
    for column in columns(lines, rules).values():
        if len(column) < 2:
            continue
        best = max(column, key=lambda i: rules.rank(lines[i]))
        others = [i for i in column if i != best]
        found = compare([(lines[i], lines[best]) for i in others], rules)
        top.add(best)
        top.update(
            i
            for i, c in zip(others, found)
            if c.verdict == TIE or not c.difference.mean
        )
    return [dataclasses.replace(line, top=i in top) for i, line in enumerate(lines)]


def columns(lines: Sequence[Line], rules: Rules) -> dict[tuple, list[int]]:
    """Returns the places of lines that differ by method only and were measured alike.

    The keys are those values of the compared axes that a column shares, and a number
    that parts lines of other data.
    """
    method = rules.division.method
    found: dict[tuple, list[int]] = {}
    if method is None:
        return found
    axes = [name for name in rules.division.compared if name != method]
    for i, line in enumerate(lines):
        if line.estimate(rules.split) is None:
            continue
        shared, place = settings.key(line.compared, axes), 0
        while (shared, place) in found:
            if not _apart(line, lines[found[shared, place][0]]):
                break
            place += 1
        found.setdefault((shared, place), []).append(i)
    return found


def compare(pairs: Sequence[tuple[Line, Line]], rules: Rules) -> list[Comparison]:
    """Compares lines pairwise over their common seeds; p by Holm over all pairs.

    Pairs without a common seed are left with the difference of their means.
    """
    found = [_difference(line, other, rules) for line, other in pairs]
    known = [i for i, difference in enumerate(found) if difference.p is not None]
    adjusted = dict(zip(known, statistics.holm([found[i].p for i in known])))
    return [
        Comparison(
            against=other.name,
            difference=found[i],
            adjusted=adjusted.get(i),
            verdict=_verdict(found[i], adjusted.get(i), rules.higher),
        )
        for i, (_, other) in enumerate(pairs)
    ]


def _difference(line: Line, other: Line, rules: Rules) -> statistics.Difference:
    ours, theirs = line.values[rules.split], other.values[rules.split]
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        means = [x.estimate(rules.split).mean for x in (line, other)]
        return statistics.Difference(means[0] - means[1], None, None, None, None, 0)
    return statistics.paired(
        [ours[seed] for seed in seeds],
        [theirs[seed] for seed in seeds],
        test=rules.test,
        interval=rules.interval,
    )


def _verdict(difference, adjusted: float | None, higher: bool) -> str:
    if adjusted is None:
        return ""
    if adjusted >= ALPHA:
        return TIE
    return BETTER if (difference.mean > 0) == higher else WORSE


def partners(
    lines: Sequence[Line],
    rules: Rules,
    is_it: Callable[[Line], bool],
    selector: Mapping[str, str],
) -> Callable[[Line], Line | None]:
    """Returns a function: line -> the reference it is compared with, None without any.

    That is the first of the lines that `is_it`, measured on the same data, that agrees
    on every compared axis but the selector's (or, without one, the axis of methods),
    as far as both have that axis.
    """
    apart = set(selector) or {rules.division.method}
    known = [x for x in lines if x.estimate(rules.split) is not None and is_it(x)]
    tables: dict[tuple, dict[tuple, list[tuple[int, Line]]]] = {}

    def table(axes: tuple[str, ...]) -> dict[tuple, list[tuple[int, Line]]]:
        """Returns (shared axes, values there) -> the references of these."""
        found: dict[tuple, list[tuple[int, Line]]] = {}
        for i, other in enumerate(known):
            shared = tuple(n for n in other.compared if n not in apart and n in axes)
            place = shared, settings.key(other.compared, shared)
            found.setdefault(place, []).append((i, other))
        return found

    def partner(line: Line) -> Line | None:
        if line.estimate(rules.split) is None:
            return None
        axes = tuple(line.compared)
        if axes not in tables:
            tables[axes] = table(axes)
        found = []
        for shared in {shared for shared, _ in tables[axes]}:
            place = shared, settings.key(line.compared, shared)
            found += tables[axes].get(place, [])
        for _, other in sorted(found, key=lambda pair: pair[0]):
            if not _apart(line, other):
                return other
        return None

    return partner


def _apart(line: Line, other: Line) -> str:
    return settings.difference(line.setting.done[0], other.setting.done[0])


def is_scratch(line: Line, rules: Rules, selector: Mapping[str, str]) -> bool:
    """Returns whether a line is the from-scratch reference."""
    if selector:
        return settings.matches(line.compared, selector)
    return _called(line, rules, SCRATCH)


def is_source(line: Line, rules: Rules) -> bool:
    """Returns whether a line is the source as it was loaded: by name, or no steps."""
    done = line.setting.done
    still = bool(done) and all(record.result.get("steps") == 0 for record in done)
    scratch = _called(line, rules, SCRATCH)
    return _called(line, rules, SOURCE) or (still and not scratch)


def _called(line: Line, rules: Rules, names: Sequence[str]) -> bool:
    value = line.compared.get(rules.division.method)
    if not isinstance(value, str):
        return False
    text = value.rsplit("/", 1)[-1].strip().lower()
    return text.replace("-", " ").replace("_", " ") in names


def _trains_none(line: Line, rules: Rules) -> bool:
    value = line.compared.get(rules.division.method)
    return isinstance(value, str) and settings.BASELINE in value


def references(
    lines: Sequence[Line], rules: Rules, scratch: Mapping[str, str]
) -> tuple[str, ...]:
    """Returns the references that are there to tell negative transfer by."""
    known = _references(rules, scratch)
    return tuple(name for name, is_it in known.items() if any(map(is_it, lines)))


def _references(
    rules: Rules, scratch: Mapping[str, str]
) -> dict[str, Callable[[Line], bool]]:
    return {
        FROM_SCRATCH: lambda line: is_scratch(line, rules, scratch),
        UNTOUCHED: lambda line: is_source(line, rules),
    }


def elsewhere(lines: Sequence[Line], rules: Rules) -> list[Line]:
    """Returns lines measured on other data than most of the column they'd be in."""
    parts: dict[tuple, list[list[int]]] = {}
    for (shared, _), members in columns(lines, rules).items():
        parts.setdefault(shared, []).append(members)
    odd = []
    for several in parts.values():
        most = max(several, key=len)
        odd += [i for members in several if members is not most for i in members]
    return [lines[i] for i in sorted(odd)]
