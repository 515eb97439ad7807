"""What the terms of this package share: their domains, and each one's risk."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxtl import checks, losses
from jaxtl.core import Setup, UserError


def check(setup: Setup, term: str, streams: Sequence[str]) -> None:
    """Raises UserError unless `streams` names two or more different labelled streams.

    Args:
      setup: what the term is checked against.
      term: the term's class, for the message.
      streams: its field of that name.
    """
    where = checks.where(setup, "streams")
    if isinstance(streams, str):
        raise UserError(
            f"{where}={streams!r}: expected a tuple of names, such as ({streams!r}, …)."
        )
    for name in streams:
        checks.stream(setup, "streams", name)
    if len(set(streams)) < 2 or len(set(streams)) < len(streams):
        there = [name for name in setup.streams if name != "unlabelled"]
        raise UserError(
            f"{where}={tuple(streams)!r}: {term} compares domains, so it needs "
            f"two or more different streams (streams: {', '.join(there)})."
        )
    if "unlabelled" in streams:
        raise UserError(
            f"{where}={tuple(streams)!r}: {term} needs labels in every domain, and the "
            "stream 'unlabelled' has none."
        )
    checks.task(setup, term, "classification")
    for name in streams:
        checks.classes(setup, "streams", name)


def risks(
    logits: Mapping[str, jax.Array], labels: Mapping[str, jax.Array], smoothing=0.0
) -> jax.Array:
    """Returns each domain's mean cross-entropy in nats, (domains,), float32 or wider.

    Args:
      logits: domain -> (batch, classes).
      labels: domain -> (batch,) class indices or (batch, classes) distributions.
      smoothing: of the labels, in [0, 1].
    """
    found = [
        losses.cross_entropy(logits[name], labels[name], smoothing) for name in logits
    ]
    return jnp.stack(found)


def logits(context, streams: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns each domain's logits, of one pass over the batches of all.

    BatchNorm thus sees the pooled batch, as at evaluation, where its statistics are
    those of all domains (Gulrajani & Lopez-Paz, In Search of Lost Domain
    Generalization, ICLR 2021, run their methods so).
    """
    return {name: out.logits for name, out in context.together(streams).items()}


def labels(context, streams: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns each domain's labels."""
    return {name: context.batches[name]["y"] for name in streams}


def accuracies(
    logits: Mapping[str, jax.Array], labels: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns {"accuracy": the domains' mean, "worst": that of the worst domain}."""
    hits = []
    for name, z in logits.items():
        y = labels[name]
        y = jnp.argmax(y, axis=-1) if y.ndim == z.ndim else y
        hits.append(jnp.mean((jnp.argmax(z, axis=-1) == y).astype(jnp.float32)))
    hits = jnp.stack(hits)
    return {"accuracy": hits.mean(), "worst": hits.min()}


def equal(context, streams: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns the domains' batches stacked, cut to the smallest one.

    Returns:
      x: (domains, batch, …), a tree where inputs are one; and y: (domains, batch, …).
    """
    batches = [context.batches[name] for name in streams]
    size = min(len(batch["y"]) for batch in batches)
    x = jax.tree.map(
        lambda *xs: jnp.stack([x[:size] for x in xs]),
        *(batch["x"] for batch in batches),
    )
    return x, jnp.stack([batch["y"][:size] for batch in batches])
