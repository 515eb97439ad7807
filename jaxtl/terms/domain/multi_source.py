"""Several sources: a copy of one term for each, with an equal share of its weight."""

import dataclasses
from collections.abc import Iterable

from jaxtl.core.errors import UserError
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms.base import Term

_FIELDS = ("source", "stream")


def each_source(
    term: Term, sources: Iterable[str], name: str | None = None
) -> dict[str, Term]:
    """Copies a term for each source stream, its weight divided by their number.

    Use it in an experiment with several labelled domains:
    `terms={**each_source(tl.losses.CrossEntropy(), ("art", "photo"), "task"),
    **each_source(tl.domain.DANN(), ("art", "photo"))}`. A term with parameters (a
    discriminator) then has separate ones for each source.

    Args:
      term: a term with a field `source`, or else `stream`, which is set to each of the
        sources.
      sources: names of one or more streams, each once.
      name: prefix of the terms' names; None is the term's class in lower case.

    Returns:
      {"<name>_<source>": term}.

    Raises:
      UserError: no source, one named twice, or a term without such a field.

    References:
      Zhao et al., Adversarial Multiple Source Domain Adaptation, NeurIPS 2018: a
      discriminator per source. They minimize the worst source's loss, or a smooth
      maximum; this is the plain mean over sources.
    """
    class_name = type(term).__name__
    if isinstance(sources, str):
        raise UserError(f"sources={sources!r}: expected several names, as a tuple.")
    sources = tuple(sources)
    if not sources or len(set(sources)) < len(sources):
        raise UserError(
            f"sources={sources!r}: expected one or more streams, each named once."
        )
    names = {field.name for field in dataclasses.fields(term)}
    field = next((field for field in _FIELDS if field in names), None)
    if field is None:
        raise UserError(
            f"{class_name} has no field 'source' or 'stream', so it can't be repeated "
            "over sources."
        )
    weight = _divided(term.weight, len(sources))
    prefix = class_name.lower() if name is None else name
    return {
        f"{prefix}_{source}": dataclasses.replace(
            term, weight=weight, **{field: source}
        )
        for source in sources
    }


def _divided(weight: float | Schedule, count: int) -> float | Schedule:
    if isinstance(weight, Schedule):
        return schedules.Scaled(of=weight, factor=1 / count)
    return weight / count
